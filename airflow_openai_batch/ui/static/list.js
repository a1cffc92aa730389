// The list of jobs.

import { h, icon } from "./dom.js";
import { counted, duration, relative } from "./format.js";
import { GROUPS, STANDINGS, countGroups, ownerName } from "./jobs.js";
import { badge, bar, barText, estimate, head, time, tokensShort } from "./parts.js";
import { jobHash } from "./place.js";

/** Return the list's content. `group` is the filter's choice. */
export function listView(board, group, now) {
  const jobs = board.jobs.filter((job) => isIn(board.standing(job), group));
  const rows = jobs.map((job) => row(board, job, now));
  const columns = head("State", "Job", "Progress", "#Tokens", "#Age", "#Ends");
  return [
    rows.length ? h("table", { class: "jobs" }, columns, h("tbody", null, rows)) : null,
    rows.length ? null : nothing(board, group),
    footer(board, group, jobs.length),
  ];
}

function isIn(standing, group) {
  return group === "all" || (standing !== "loading" && STANDINGS[standing].group === group);
}

function row(board, job, now) {
  const progress = board.progress(job);
  const name = h(
    "td",
    { class: "job" },
    h(
      "a",
      { href: jobHash(job), class: "name" },
      job.dagName,
      h("span", { class: "owner" }, " / ", ownerName(job, progress)),
    ),
    h("div", { class: "where" }, job.runId),
  );
  const attributes = { key: job.id, "data-open": jobHash(job) };
  if (!progress)
    return h("tr", attributes, h("td", null, badge("loading")), name, h("td", { colspan: 4 }, unreadable(board, job)));
  return h(
    "tr",
    attributes,
    h("td", { class: "state" }, badge(board.standing(job))),
    name,
    h("td", { class: "progress" }, bar(progress), barText(progress, seenAt(board, job, progress, now))),
    h("td", { class: "number tokens", "data-label": "Tokens" }, tokensShort(progress)),
    h(
      "td",
      { class: "number", "data-label": "Age" },
      h("span", { title: "since the job was made" }, relative(progress.created_at, now).replace(" ago", "")),
    ),
    h("td", { class: "number", "data-label": "Ends" }, ends(progress, board.standing(job), now)),
  );
}

/** When the counts were read, if nothing keeps them up to date. */
function seenAt(board, job, progress, now) {
  const isActive = STANDINGS[board.standing(job)].group === "active";
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
  return [h("div", null, estimate(progress, now) ?? h("span", { class: "muted" }, "no estimate yet")), deadline];
}

/** The message of an empty list. */
function nothing(board, group) {
  if (!board.lookedAt)
    return h("div", { class: "empty", key: "wait" }, h("div", { class: "spinner" }), h("p", null, "Looking for jobs…"));
  const dag = board.listing.where.dag;
  if (group !== "all" && board.jobs.length) {
    return h(
      "div",
      { class: "empty", key: "none" },
      icon("inbox"),
      h("p", { class: "strong" }, `No job that was looked at is in the group “${GROUPS[group]}”.`),
    );
  }
  if (dag)
    return h(
      "div",
      { class: "empty", key: "none" },
      icon("search"),
      h("p", { class: "strong" }, `No job of a Dag whose name contains “${dag}”.`),
      h("p", { class: "muted" }, "Only Dags that you may read are searched."),
    );
  return h(
    "div",
    { class: "empty", key: "none" },
    icon("inbox"),
    h("p", { class: "strong" }, "No jobs yet"),
    h(
      "p",
      { class: "muted" },
      "A job appears here as soon as an ",
      h("code", null, "OpenAIBatchOperator"),
      ", an ",
      h("code", null, "OpenAIBatchSubmitOperator"),
      " or a ",
      h("code", null, "@task.openai_batch"),
      " has sent its first rows. You see the jobs of Dags that you may read.",
    ),
  );
}

function footer(board, group, nShown) {
  const nLooked = board.jobs.length;
  if (!board.lookedAt || (!nLooked && !board.hasMore)) return null;
  const all = board.hasMore
    ? `the ${counted(nLooked, "job")} heard of last`
    : nLooked === 1
      ? "1 job"
      : `all ${counted(nLooked, "job")}`;
  const text =
    group === "all" ? `Shown: ${all}.` : `${nShown} of ${all} ${nShown === 1 ? "is" : "are"} in “${GROUPS[group]}”.`;
  const more =
    board.hasMore &&
    h("button", { type: "button", class: "button", "data-act": "further" }, icon("down"), "Look further");
  return h(
    "div",
    { class: "list-foot", key: "foot" },
    h("span", { class: "muted" }, board.hasMore ? `${text} There may be older ones.` : text),
    more,
    board.listing.isCut
      ? h("span", { class: "muted" }, "Airflow 3.1 cannot sort them: name a Dag to find a certain job.")
      : null,
  );
}

/** The buttons of the filter, with counts of the jobs that are shown. */
export function groupButtons(board, group) {
  const counts = countGroups(board.jobs.map((job) => board.standing(job)).filter((standing) => standing !== "loading"));
  return Object.entries(GROUPS).map(([name, label]) =>
    h(
      "button",
      { type: "button", key: name, "data-act": "group", "data-group": name, "aria-pressed": String(name === group) },
      label,
      h("span", { class: "pill" }, String(counts[name])),
    ),
  );
}
