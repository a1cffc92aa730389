// From the shards of a job to the bars of its timeline. Pure; times are epoch seconds.

import { duration } from "./format.js";

/** Batches that are drawn; the table has all that are listed. */
export const MOST_ROWS = 40;

export const SPANS = {
  validating: "validating",
  running: "running",
  fetched: "until its answers were fetched",
};

/** Return a row for each shard with a batch, in the order in which they were created. `state` is that of its batch. */
export function rowsOf(shards, { stateOf, seenOf, now }) {
  return shards
    .map((shard) => rowOf(shard, { state: stateOf(shard), seen: seenOf(shard), now }))
    .filter(Boolean)
    .sort((a, b) => a.from - b.from || a.id.localeCompare(b.id));
}

function rowOf(shard, { state, seen, now }) {
  const { batch } = shard;
  if (!batch?.created_at) return null;
  const from = batch.created_at;
  const beganAt = batch.in_progress_at ?? seen?.in_progress_at ?? null;
  const endedAt = batch.ended_at ?? null;
  const isOver = endedAt !== null || ["ended", "settled", "completed", "expired", "cancelled", "failed"].includes(state);
  const runsUntil = endedAt ?? (isOver ? (shard.settled_at ?? now) : now);
  // A batch that runs without a word of when it began was validated some time ago: then all of it counts as running.
  const validUntil = state === "validating" ? runsUntil : (beganAt ?? from);
  const spans = [
    span("validating", from, Math.min(validUntil, runsUntil)),
    span("running", Math.min(validUntil, runsUntil), state === "validating" ? validUntil : runsUntil),
    endedAt !== null && span("fetched", endedAt, shard.settled_at ?? now),
  ].filter((one) => one && one.to > one.from);
  return {
    id: shard.id,
    round: shard.round ?? 0,
    parent: shard.parent,
    batchId: batch.id,
    state,
    from,
    to: Math.max(from, ...spans.map(({ to }) => to)),
    spans,
    isOpen: !isOver || shard.settled_at === null,
  };
}

function span(name, from, to) {
  return { name, from, to };
}

/** Return the rows that are drawn, in their order: those that go on, and of the others those that ended last. */
export function drawn(rows) {
  if (rows.length <= MOST_ROWS) return rows;
  const ranked = [...rows].sort((a, b) => Number(b.isOpen) - Number(a.isOpen) || b.to - a.to);
  const chosen = new Set(ranked.slice(0, MOST_ROWS));
  return rows.filter((row) => chosen.has(row));
}

/** Return the first and the last moment of the axis. Marks that lie far ahead of all else do not squeeze the bars. */
export function rangeOf(rows, { now, isGoing, marks }) {
  const from = Math.min(...rows.map((row) => row.from));
  const to = Math.max(...rows.map((row) => row.to), isGoing ? now : 0);
  const reach = from + 6 * Math.max(to - from, 900);
  const ahead = marks.filter((at) => at !== null && at > from && at <= reach);
  const end = Math.max(to, ...ahead);
  return { from, to: end + Math.max(60, (end - from) * 0.02) };
}

const STEPS_S = [60, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 604800];

/** Return round moments of the axis, at most `most`; `offsetS` is how far the viewer's clock is ahead of UTC. */
export function ticksOf({ from, to }, most, offsetS) {
  const step = STEPS_S.find((one) => (to - from) / one <= most) ?? Math.ceil((to - from) / most);
  const first = Math.ceil((from + offsetS) / step) * step - offsetS;
  const ticks = [];
  for (let at = first; at <= to; at += step) ticks.push(at);
  return ticks;
}

/** Return what a row shows as a sentence, for those who do not see it. */
export function sentenceOf(row, moment) {
  const round = row.round ? `, round ${row.round}${row.parent ? ` for rows of ${row.parent}` : ""}` : "";
  const parts = row.spans.map(({ name, from, to }) => `${duration(to - from)} ${SPANS[name]}`);
  return `Shard ${row.id}${round}: created ${moment(row.from)}; ${parts.join(", ") || "no time known"}; now ${row.state}`;
}

/** Return how long a row's span lasted, or null if it has none. */
export function secondsOf(row, name) {
  const found = row.spans.find((one) => one.name === name);
  return found ? found.to - found.from : null;
}
