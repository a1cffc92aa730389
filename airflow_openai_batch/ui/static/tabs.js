// What the tabs on a Dag run and on a task show, and what is said where there is no job.

import { summaryCard } from "./detail.js";
import { h, icon } from "./dom.js";
import { rowsOf } from "./groups.js";
import { jobsTable } from "./list.js";

/** The tab on a Dag run: a card for each of its jobs, and one table for those of a mapped task. */
export function runTab(board, view, { links, now, hasFailed }) {
  const { jobs } = board;
  if (jobs.length) {
    const rows = rowsOf(jobs, (job) => board.progress(job));
    return [rows.map((row) => cardOf(board, row, view, { links, now })), board.hasMore && further()];
  }
  if (hasFailed) return null;
  return quiet(board.lookedAt ? "This Dag run has no OpenAI batch job, or its tasks have not begun." : "Looking…");
}

function cardOf(board, { id, taskId, jobs }, view, { links, now }) {
  if (jobs.length === 1) return summaryCard(board, jobs[0], { links, now });
  const table = jobsTable(board, jobs, { ...view, areOpen: true }, now);
  return h("article", { class: "card", key: id, "aria-label": taskId }, table);
}

function further() {
  const button = h("button", { type: "button", class: "button", "data-act": "further" }, icon("down"), "Look further");
  return h("div", { class: "list-foot" }, button);
}

/** What is said where a job is wanted and not there. `foreign` is what is known of the tab's task. */
export function absentView(board, isWanted, foreign) {
  if (!board.lookedAt) return quiet("Looking…");
  if (isWanted)
    return [
      h("a", { href: "#", class: "back" }, icon("left"), "All jobs"),
      quiet("This job is not there: its run was deleted, its tasks were cleared, or you may not see it."),
    ];
  return quiet(
    foreign?.isOurs
      ? "This task has not looked at its job yet. Its progress appears here when it has."
      : "This task has no OpenAI batch job.",
  );
}

function quiet(text) {
  return h("p", { class: "quiet" }, text);
}
