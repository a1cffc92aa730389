// The last runs of a Dag as points of a chart: what their jobs add up to, and which lie outside the usual range. Pure.

import { dollars, duration, percent, count } from "./format.js";
import { OVER, ownerOf, partsOf } from "./jobs.js";
import { sumOf } from "./groups.js";

/** What is known of a run, and how it is shown. */
export const RUN_STATES = {
  done: { label: "Done", icon: "check", says: "the results are written" },
  bad: { label: "Bad rows", icon: "alert", says: "written, and worse than the thresholds allow" },
  held: { label: "Held", icon: "hand", says: "a person must act" },
  stopped: { label: "Stopped", icon: "stop", says: "the run ended before its results were written" },
  planned: { label: "Planned", icon: "clock", says: "nothing is sent until a task or a person lets it go on" },
  going: { label: "Running", icon: "play", says: "its figures are those so far" },
  none: { label: "No job", icon: "dots", says: "skipped, or the run ended before it had rows" },
  unread: { label: "Not read", icon: "info", says: "you may not read it, or another version wrote it" },
};

const ACTIVE = new Set(["queued", "running"]);
const FINAL = new Set(["done", "bad"]);

/** Runs before one that are needed to say what is usual. */
export const ENOUGH = 3;

/**
 * What is held against the runs before. `slack` and `ratio` of the middle value are never unusual, however alike those
 * runs were: absolute, and relative.
 */
export const MEASURES = {
  cost: {
    label: "cost",
    of: (point) => (point.isCostPartial ? null : point.cost),
    ratio: 0.25,
    slack: 0,
    show: dollars,
  },
  rows: { label: "rows", of: (point) => point.nRows, ratio: 0.25, slack: 0, show: (n) => count(Math.round(n)) },
  bad: {
    label: "share of bad rows",
    of: (point) => (point.nAsked ? point.nBad / point.nAsked : null),
    ratio: 0,
    slack: 0.01,
    show: (share) => percent(share, 1),
    isOneSided: true,
  },
  seconds: { label: "time", of: (point) => point.seconds, ratio: 0.25, slack: 300, show: duration },
};

/** Convert a Dag run of the API. */
export function runOf(raw) {
  return {
    runId: raw.dag_run_id,
    dagId: raw.dag_id,
    dagName: raw.dag_display_name ?? raw.dag_id,
    state: raw.state ?? "",
    runAfter: raw.run_after,
    at: Date.parse(raw.run_after) / 1000 || 0,
  };
}

/** Return the names of the tasks that jobs belong to, in alphabetical order. */
export function tasksOf(jobs, progressOf) {
  return [...new Set(jobs.map((job) => ownerOf(job, progressOf(job)).taskId))].sort();
}

/**
 * Return a point for each run, the oldest first, with what lies outside the usual range of the runs before it.
 * `task` chooses the jobs of one task; without it all jobs of a run are added up. `now` is in epoch seconds.
 */
export function pointsOf(runs, jobs, progressOf, { task = null, now }) {
  const byRun = new Map(runs.map((run) => [run.runId, []]));
  for (const job of jobs) {
    if (task === null || ownerOf(job, progressOf(job)).taskId === task) byRun.get(job.runId)?.push(job);
  }
  const points = [...runs].reverse().map((run) => pointOf(run, byRun.get(run.runId), progressOf, now));
  points.forEach((point, i) => {
    point.usual = usualBefore(points.slice(0, i));
    point.unusual = FINAL.has(point.state) ? outside(point) : [];
  });
  return points;
}

function pointOf(run, jobs, progressOf, now) {
  const all = jobs.map(progressOf);
  const state = stateOf(run, all);
  const total = sumOf(all);
  const point = { run, jobs, state, cost: null, expected: null, isCostPartial: false, seconds: null, parts: null };
  if (!total) return { ...point, nRows: null, nAsked: 0, nBad: 0, reused: 0, saved: 0, savedByReuse: 0 };
  const parts = partsOf(total);
  const { succeeded = 0, skipped = 0 } = total.byStatus;
  const isFinal = FINAL.has(state);
  const end = isFinal ? total.updated_at : state === "going" ? now : null;
  return {
    ...point,
    parts,
    cost: total.cost,
    expected: isFinal ? null : total.expected_cost,
    isCostPartial: all.some((one) => !one || one.cost === null || one.rows_without_price > 0),
    nRows: parts.nRows,
    nAsked: parts.nSettled - skipped,
    nBad: parts.nSettled - skipped - succeeded,
    seconds: end !== null && total.created_at !== null ? Math.max(0, end - total.created_at) : null,
    reused: total.reused_rows,
    savedByReuse: total.saved_by_reuse,
  };
}

/** How a run stands, by the progress of its jobs and the run's own state. */
function stateOf(run, all) {
  const isActive = ACTIVE.has(run.state);
  if (all.length === 0) return isActive ? "going" : "none";
  if (all.some((one) => one === null)) return "unread";
  if (all.some((one) => one.phase === "held")) return "held";
  if (all.every((one) => one.phase === "planned") && !isActive) return "planned";
  // Not every Dag writes results: with all answers there and no failure, it is over all the same.
  const isOver = (one) => OVER.has(one.phase) || (one.phase === "done" && run.state === "success");
  if (!all.every(isOver)) return isActive ? "going" : "stopped";
  return all.some((one) => one.phase === "bad") ? "bad" : "done";
}

/** Return the usual range of each measure by the runs before; null where too few tell it. */
export function usualBefore(points) {
  const final = points.filter((point) => FINAL.has(point.state));
  return Object.fromEntries(
    Object.entries(MEASURES).map(([name, measure]) => [name, rangeOf(final.map(measure.of), measure)]),
  );
}

/**
 * Return from where to where values are usual: the quartiles, and one and a half times their distance beyond (Tukey's
 * fences), but never closer to the middle than the measure's slack.
 */
export function rangeOf(values, { ratio, slack, isOneSided = false }) {
  const known = values.filter((value) => value !== null).sort((a, b) => a - b);
  if (known.length < ENOUGH) return null;
  const [low, middle, high] = [0.25, 0.5, 0.75].map((part) => quantile(known, part));
  const beyond = 1.5 * (high - low);
  const least = Math.max(slack, ratio * middle);
  return {
    from: isOneSided ? 0 : Math.max(0, Math.min(low - beyond, middle - least)),
    to: Math.max(high + beyond, middle + least),
  };
}

function quantile(sorted, part) {
  const place = (sorted.length - 1) * part;
  const below = Math.floor(place);
  const above = sorted[Math.min(below + 1, sorted.length - 1)];
  return sorted[below] + (place - below) * (above - sorted[below]);
}

/** Return what of a point is outside its usual range: `{name, isAbove, text}`. */
function outside(point) {
  return Object.entries(MEASURES).flatMap(([name, { label, of, show, isOneSided }]) => {
    const [value, usual] = [of(point), point.usual[name]];
    if (value === null || usual === null || (value >= usual.from && value <= usual.to)) return [];
    const isAbove = value > usual.to;
    return [{ name, isAbove, text: `${label} ${show(value)}, ${rangeText(usual, isAbove, show, isOneSided)}` }];
  });
}

function rangeText({ from, to }, isAbove, show, isOneSided) {
  const where = isAbove ? "above" : "below";
  return isOneSided ? `${where} the usual ${show(to)} at most` : `${where} the usual ${show(from)} to ${show(to)}`;
}

/** Return the newest point whose results are written; null if there is none. */
export function lastFinal(points) {
  return points.findLast((point) => FINAL.has(point.state)) ?? null;
}

/** Return a point's figures as texts: `[name, value]`, of what is known of it. */
export function figuresOf(point) {
  const figures = [["State", RUN_STATES[point.state].label]];
  if (!point.parts) return figures;
  figures.push(["Cost", costText(point)]);
  if (point.expected !== null) figures.push(["Expected", dollars(point.expected)]);
  const outcomes = point.parts.outcomes.map(({ n, status }) => `${count(n)} ${status}`);
  if (point.parts.nAnswered) outcomes.push(`${count(point.parts.nAnswered)} finished at OpenAI`);
  if (point.parts.nOpen) outcomes.push(`${count(point.parts.nOpen)} open`);
  figures.push(["Rows", `${count(point.nRows)}${outcomes.length ? `: ${outcomes.join(", ")}` : ""}`]);
  if (point.reused) figures.push(["Reused", reusedText(point)]);
  if (point.seconds !== null) figures.push(["Time", timeText(point)]);
  return figures;
}

/** A run's cost in words: of one that goes on what was spent so far, and at least that where prices are missing. */
export function costText(point) {
  if (point.cost === null) return point.state === "going" ? "nothing so far" : "not known";
  const isSoFar = point.state === "going" ? " so far" : "";
  return `${point.isCostPartial && !isSoFar ? "at least " : ""}${dollars(point.cost)}${isSoFar}`;
}

function reusedText({ reused, savedByReuse }) {
  return savedByReuse ? `${count(reused)} rows, which saved ${dollars(savedByReuse)}` : `${count(reused)} rows`;
}

/** A run's time in words. */
export function timeText(point) {
  return `${duration(point.seconds)}${point.state === "going" ? " so far" : ""}`;
}

/** Return a point as one sentence, for those who do not see the chart. */
export function sentenceOf(point, moment) {
  const figures = figuresOf(point).map(([name, value]) => `${name}: ${value}`);
  const unusual = point.unusual.length ? [`Unusual: ${point.unusual.map(({ text }) => text).join("; ")}`] : [];
  return [`Run of ${moment(point.run.at)}`, ...figures, ...unusual].join(". ");
}
