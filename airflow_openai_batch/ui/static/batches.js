// The batches and shards of a job.

import { h } from "./dom.js";
import { bytes, count, counted } from "./format.js";
import { head, number, outLink, scroller, section, time } from "./parts.js";
import { dashboardLink } from "./place.js";

/** The running batches as last read; null if there is none. */
export function batchesTable(progress) {
  const { batches } = progress;
  if (batches.length === 0) return null;
  const body = batches.map((batch) =>
    h(
      "tr",
      { key: batch.id },
      h("td", null, batchLink(batch.id, progress.host)),
      h("td", null, status(batch.status)),
      batch.n_total
        ? [count(batch.n_completed), count(batch.n_failed), count(batch.n_total)].map(number)
        : h("td", { colspan: 3, class: "number muted" }, "not counted yet"),
    ),
  );
  const title =
    progress.n_running > batches.length
      ? `Running batches (${batches.length} of ${count(progress.n_running)})`
      : "Running batches";
  return section(
    title,
    scroller(
      title,
      h(
        "table",
        { class: "plain" },
        head("Batch", "Status", "#Completed", "#Failed", "#Requests"),
        h("tbody", null, body),
      ),
    ),
  );
}

function batchLink(id, host) {
  const href = dashboardLink(id, host);
  return href ? outLink(href, h("code", null, id)) : h("code", null, id);
}

function status(text) {
  return h("span", { class: "status" }, text);
}

/** The shards of a job: rounds, present and earlier batches, outcomes and problems. */
export function shardsTable(detail, progress, now) {
  if (!detail) return section("Shards", h("p", { class: "muted" }, "Reading…"));
  if (!detail.shards)
    return section("Shards", h("p", { class: "muted" }, "No task of this job has left a list of its shards yet."));
  const { shards, n_shards: nAll, updated_at: at } = detail.shards;
  const title =
    shards.length < nAll
      ? `Shards (${shards.length} of ${count(nAll)}: first those with trouble and those that run)`
      : "Shards";
  const columns = head("Shard", "State", "#Round", "#Rows", "#Size", "Batch", "Outcomes", "Remarks");
  const table = h(
    "table",
    { class: "plain shards" },
    columns,
    h(
      "tbody",
      null,
      shards.map((shard) => shardRow(shard, progress, now, at)),
    ),
  );
  return section(
    title,
    scroller(title, table),
    h("p", { class: "muted small" }, "As a worker saw them ", time(at, now), "."),
  );
}

/** A running shard's state is that of its batch, as it was seen last: a trigger sees more than the last worker. */
export function stateOf(shard, progress, seenAt) {
  if (shard.state !== "running" || !shard.batch) return shard.state;
  const running = runningBatch(shard, progress);
  if (running) return running.status;
  const isAllListed = progress.batches.length >= (progress.n_running ?? 0);
  return isAllListed && progress.updated_at > seenAt ? "ended" : shard.batch.status;
}

function runningBatch(shard, progress) {
  return progress.batches.find((batch) => batch.id === shard.batch?.id);
}

function shardRow(shard, progress, now, seenAt) {
  const batch = runningBatch(shard, progress) ?? shard.batch;
  const nDone = (batch?.n_completed ?? 0) + (batch?.n_failed ?? 0);
  const tally = Object.entries(shard.tally).map(([name, n]) => h("span", { class: "nowrap" }, `${count(n)} ${name} `));
  const remarks = [
    shard.problem ? h("span", { class: "problem" }, shard.problem) : null,
    shard.not_before > now ? h("span", { class: "muted" }, "waits, again ", time(shard.not_before, now)) : null,
    shard.parent ? h("span", { class: "muted" }, `asks rows of ${shard.parent} again`) : null,
    shard.n_waits ? h("span", { class: "muted" }, `waited ${counted(shard.n_waits, "time")} for room`) : null,
    shard.past_batches.length
      ? h(
          "details",
          null,
          h("summary", null, `earlier: ${counted(shard.past_batches.length, "batch")}`),
          shard.past_batches.map((id) => h("div", null, batchLink(id, progress.host))),
        )
      : null,
  ];
  return h(
    "tr",
    { key: shard.id },
    h("td", null, h("code", null, shard.id)),
    h("td", null, status(stateOf(shard, progress, seenAt))),
    number(count(shard.round)),
    number(count(shard.n_rows)),
    number(bytes(shard.n_bytes)),
    h(
      "td",
      null,
      batch
        ? [
            batchLink(batch.id, progress.host),
            batch.n_total
              ? h("div", { class: "muted small" }, `${count(nDone)} of ${count(batch.n_total)} finished`)
              : null,
          ]
        : "–",
    ),
    h("td", null, tally.length ? tally : "–"),
    h("td", { class: "remarks" }, remarks.some(Boolean) ? remarks : "–"),
  );
}
