// The rows of the list: a job, or the jobs of a mapped task's run together.

import { h, icon } from "./dom.js";
import { count, counted, duration, relative } from "./format.js";
import { standingsOf, sumOf } from "./groups.js";
import { STANDINGS, ownerName } from "./jobs.js";
import { heldBy, keptBack, moneyCell } from "./money.js";
import { badge, bar, barText, estimate, time, tokensShort } from "./parts.js";
import { dagHash, jobHash } from "./place.js";

/** The row of one job. `isMember` if the row of its group is above it. */
export function jobRow(board, job, { now, hasCost, isMember }) {
  const progress = board.progress(job);
  const owner = ownerName(job, progress);
  const link = { href: jobHash(job), class: "name" };
  const name = isMember
    ? h("td", { class: "job" }, h("a", link, owner))
    : h(
        "td",
        { class: "job" },
        h("a", link, job.dagName, h("span", { class: "owner" }, " / ", owner)),
        lastRuns(job),
        h("div", { class: "where" }, job.runId),
      );
  const attributes = { key: job.id, "data-open": jobHash(job), class: isMember ? "member" : null };
  if (!progress)
    return h(
      "tr",
      attributes,
      h("td", { class: "state" }, badge("loading")),
      name,
      h("td", { colspan: hasCost ? 5 : 4 }, unreadable(board, job)),
    );
  const standing = board.standing(job);
  return h(
    "tr",
    attributes,
    h("td", { class: "state" }, badge(standing, { word: heldBy(standing, progress) })),
    name,
    cells(progress, { now, hasCost, remarks: remarksOf(standing, progress, now) }),
    cell("Ends", ends(progress, standing, now)),
  );
}

/** The row of the jobs of a mapped task: what they add up to, and a button that shows them. */
export function groupRow(board, row, { now, hasCost, isOpen }) {
  const total = sumOf(row.jobs.map((job) => board.progress(job)));
  const standings = row.jobs.map((job) => board.standing(job));
  return h(
    "tr",
    { key: row.id, class: "group", "data-toggle": row.id },
    h(
      "td",
      { class: "state" },
      h("div", { class: "badges" }, standingsOf(standings).map(([standing, n]) => badge(standing, { n }))),
    ),
    h(
      "td",
      { class: "job" },
      h(
        "button",
        {
          type: "button",
          class: "name fold",
          "data-act": "toggle",
          "data-row": row.id,
          "aria-expanded": String(isOpen),
        },
        icon(isOpen ? "down" : "right"),
        h("span", null, row.dagName, h("span", { class: "owner" }, " / ", row.taskId)),
      ),
      lastRuns(row.jobs[0]),
      h("div", { class: "where" }, row.runId, h("span", null, counted(row.jobs.length, "mapped job"))),
    ),
    total
      ? [cells(total, { now, hasCost }), cell("Ends", endsOfAll(board, row.jobs, standings, now))]
      : h("td", { colspan: hasCost ? 5 : 4 }, h("span", { class: "ghost" })),
  );
}

function lastRuns({ dagId, dagName }) {
  const title = `Last runs of ${dagName}`;
  return h("a", { href: dagHash(dagId), class: "last-runs", title, "aria-label": title }, icon("chart"));
}

function cells(progress, { now, hasCost, remarks = null }) {
  return [
    h("td", { class: "progress" }, bar(progress), barText(progress, [reused(progress), remarks])),
    cell("Tokens", tokensShort(progress), "tokens"),
    hasCost ? cell("Cost", moneyCell(progress)) : null,
    cell("Age", h("span", { title: "since the job was made" }, relative(progress.created_at, now).replace(" ago", ""))),
  ];
}

function cell(label, content, kind = "") {
  return h("td", { class: `number ${kind}`, "data-label": label }, content);
}

/** Rows that are part of the good ones, and were not paid. */
function reused({ reused_rows: n }) {
  return n ? h("span", null, `${count(n)} reused`) : null;
}

/** What is to be known of a job beside its counts: how fresh they are, what keeps the rest back, why it is held. */
function remarksOf(standing, progress, now) {
  const kept = keptBack(standing, progress);
  const why = heldBy(standing, progress) && progress.problem;
  return [
    seenAt(standing, progress, now),
    kept ? h("span", { class: "strong" }, kept) : null,
    why ? h("span", { class: "why", title: why }, why) : null,
  ];
}

/** When the counts were read, if nothing keeps them up to date. */
function seenAt(standing, progress, now) {
  const isActive = STANDINGS[standing].group === "active";
  return isActive && !progress.live ? h("span", null, "as of ", time(progress.updated_at, now)) : null;
}

function unreadable(board, job) {
  return board.wasRead(job)
    ? h("span", { class: "muted" }, "Written by another version of the package; this page cannot read it.")
    : h("span", { class: "ghost" });
}

function ends(progress, standing, now) {
  if (["done", "bad"].includes(standing))
    return h("span", { class: "muted" }, `took ${duration(progress.updated_at - progress.created_at)}`);
  if (standing === "answered") return h("span", { class: "muted" }, "results to be written");
  if (STANDINGS[standing].group !== "active") return h("span", { class: "muted" }, "–");
  const deadline = h("div", { class: "muted small" }, "deadline ", time(progress.deadline_at, now));
  return [h("div", null, estimate(progress, now)), deadline];
}

/** The end of several jobs is that of the last of those that go on. */
function endsOfAll(board, jobs, standings, now) {
  const active = jobs.filter((_, i) => STANDINGS[standings[i]].group === "active").map((job) => board.progress(job));
  if (active.length === 0) return h("span", { class: "muted" }, "–");
  const isEstimated = active.every((progress) => progress?.eta_at);
  const eta_at = isEstimated ? Math.max(...active.map((progress) => progress.eta_at)) : null;
  return estimate({ eta_at }, now);
}
