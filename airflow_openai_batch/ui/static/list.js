// The list of jobs: its head, its rows, and what it says when there are none.

import { h, icon } from "./dom.js";
import { counted } from "./format.js";
import { SORTS, rowsOf, sorted } from "./groups.js";
import { GROUPS, STANDINGS, countGroups } from "./jobs.js";
import { tellsMoney } from "./money.js";
import { groupRow, jobRow } from "./rows.js";

const COLUMNS = {
  state: "State",
  job: "Job",
  progress: "Progress",
  tokens: "Tokens",
  cost: "Cost",
  age: "Age",
  ends: "Ends",
};

/** Return the list's content. `view` is what the viewer has chosen: the group of states, the order, the folded rows. */
export function listView(board, view, now) {
  const jobs = board.jobs.filter((job) => isIn(board.standing(job), view.group));
  const content = jobs.length ? jobsTable(board, jobs, view, now) : nothing(board, view.group);
  return [content, footer(board, view.group, jobs.length)];
}

/** The table of jobs, in the chosen order; the jobs of a mapped task are below one row. */
export function jobsTable(board, jobs, view, now) {
  const progressOf = (job) => board.progress(job);
  const order = (rows) => sorted(rows, view.order, (job) => board.standing(job), progressOf);
  const hasCost = jobs.some((job) => tellsMoney(progressOf(job)));
  const rows = order(rowsOf(jobs, progressOf)).map((row) => {
    if (row.jobs.length === 1) return jobRow(board, row.jobs[0], { now, hasCost });
    const isOpen = view.toggled.has(row.id) !== view.areOpen;
    const members = isOpen ? order(row.jobs.map((job) => ({ ...row, jobs: [job] }))) : [];
    return [
      groupRow(board, row, { now, hasCost, isOpen }),
      members.map(({ jobs: [job] }) => jobRow(board, job, { now, hasCost, isMember: true })),
    ];
  });
  return h("table", { class: "jobs" }, columns(view.order, hasCost), h("tbody", null, rows));
}

/** The table's head: each column can be sorted by, and a second time the other way round. */
function columns(order, hasCost) {
  const cells = Object.entries(COLUMNS)
    .filter(([by]) => by !== "cost" || hasCost)
    .map(([by, label]) => {
      const isChosen = order.by === by;
      const isDescending = isChosen && SORTS[by] !== order.isReversed;
      return h(
        "th",
        {
          scope: "col",
          class: ["state", "job", "progress"].includes(by) ? null : "number",
          "aria-sort": isChosen ? (isDescending ? "descending" : "ascending") : null,
        },
        h(
          "button",
          { type: "button", class: "sort", "data-act": "sort", "data-by": by, title: `Sort by ${label.toLowerCase()}` },
          label,
          isChosen ? icon(isDescending ? "down" : "up") : null,
        ),
      );
    });
  return h("thead", null, h("tr", null, cells));
}

function isIn(standing, group) {
  return group === "all" || (standing !== "loading" && STANDINGS[standing].group === group);
}

/** The message of an empty list. */
function nothing(board, group) {
  if (!board.lookedAt)
    return h("div", { class: "empty", key: "wait" }, h("div", { class: "spinner" }), h("p", null, "Looking for jobs…"));
  const text = board.listing.text;
  if (group !== "all" && board.jobs.length) {
    return h(
      "div",
      { class: "empty", key: "none" },
      icon("inbox"),
      h("p", { class: "strong" }, `No job that was looked at is in the group “${GROUPS[group]}”.`),
    );
  }
  if (text)
    return h(
      "div",
      { class: "empty", key: "none" },
      icon("search"),
      h("p", { class: "strong" }, `No job whose Dag, run or task has “${text}” in its name.`),
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
      ? h("span", { class: "muted" }, "Airflow 3.1 cannot sort them: search for a Dag, run or task to find a certain job.")
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
