// One job in full, and its summary for the tab on a Dag run.

import { batchesTable, shardsTable } from "./batches.js";
import { h, icon } from "./dom.js";
import { asOf, forecastWords } from "./forecast.js";
import { count, counted, duration, relative } from "./format.js";
import { OVER, cancellableTask, instanceId, ownerName } from "./jobs.js";
import { heldBy, keptBack, moneyFigures } from "./money.js";
import {
  badge,
  bar,
  barText,
  copyable,
  errorsTable,
  estimate,
  figure,
  notice,
  outcomesTable,
  outLink,
  phasesTable,
  time,
  tokenFigures,
} from "./parts.js";
import { dagHash, dashboardLink, jobHash } from "./place.js";
import { sampleView } from "./sample.js";
import { timeline } from "./timeline.js";

const PROBLEMS = { held: "A person must act", bad: "Worse than the thresholds allow" };

/**
 * The full view of a job. `links` are Airflow's addresses; `isAlone` means that there is no list to return to; `width`
 * is in pixels; `pointed` is the shard of the timeline that is pointed at.
 */
export function detailView(board, job, { links, now, isAlone, samples, width, pointed }) {
  const progress = board.progress(job);
  if (!progress)
    return [
      isAlone ? null : backLink(),
      h(
        "p",
        { class: "muted" },
        board.wasRead(job) ? "Written by another version of the package; this page cannot read it." : "Reading…",
      ),
    ];
  return [
    isAlone ? null : backLink(),
    heading(board, job, progress, { links, now, level: "h2" }),
    messages(board, job, progress),
    h("div", { class: "wide" }, bar(progress, "big"), barText(progress), freshness(board, job, progress, now)),
    figures(progress, board.standing(job), now),
    timeline(board.shards(job), progress, { now, width, pointed, isGoing: isGoing(board.standing(job)) }),
    h("div", { class: "columns" }, outcomesTable(progress), phasesTable(progress)),
    errorsTable(progress),
    batchesTable(progress),
    shardsTable(board.shards(job), progress, now),
    sampleView(samples, job, progress),
  ];
}

/** A card with what the log of the results task says about a job. */
export function summaryCard(board, job, { links, now }) {
  const progress = board.progress(job);
  if (!progress)
    return h(
      "article",
      { class: "card", key: job.id },
      h("h2", null, ownerName(job, null)),
      h("span", { class: "ghost" }),
    );
  return h(
    "article",
    { class: "card", key: job.id },
    heading(board, job, progress, { links, now, level: "h2", isCard: true }),
    messages(board, job, progress),
    h("div", { class: "wide" }, bar(progress, "big"), barText(progress), freshness(board, job, progress, now)),
    figures(progress, board.standing(job), now),
    h("div", { class: "columns" }, outcomesTable(progress), phasesTable(progress)),
    errorsTable(progress),
    h(
      "div",
      { class: "card-foot" },
      h("a", { class: "button", href: jobHash(job) }, "Batches and shards", icon("right")),
    ),
  );
}

function backLink() {
  return h("a", { href: "#", class: "back", key: "back" }, icon("left"), "All jobs");
}

function heading(board, job, progress, { links, level, isCard }) {
  const isCancellable = cancellableTask(job, progress, board.instances) !== null;
  const newest = job.entries[0];
  const newestBatch = progress.batches.at(-1)?.id;
  const dashboard = dashboardLink(newestBatch, progress.host);
  return h(
    "header",
    { class: "heading", key: "heading" },
    h(
      "div",
      { class: "title" },
      h(
        level,
        { tabindex: -1, id: isCard ? null : "title" },
        isCard ? null : `${job.dagName} / `,
        ownerName(job, progress),
      ),
      badge(board.standing(job), { word: heldBy(board.standing(job), progress) }),
    ),
    isCard ? null : h("div", { class: "where" }, "Run ", outLink(links.run(job.dagId, job.runId), job.runId)),
    h(
      "div",
      { class: "actions" },
      tasksOf(board, job).map((task) =>
        outLink(links.log(task), [icon("log"), `Log of ${task.taskName}`], {
          class: "button",
          title: `${task.taskName} is ${task.state ?? "in an unknown state"}`,
        }),
      ),
      isCard ? null : h("a", { class: "button", href: dagHash(job.dagId) }, icon("chart"), "Last runs"),
      progress.output === null && ["written", "bad"].includes(progress.phase)
        ? outLink(links.xcom(newest), [icon("table"), "Results in XCom"], { class: "button" })
        : null,
      dashboard ? outLink(dashboard, "OpenAI's dashboard", { class: "button" }) : null,
      h(
        "button",
        {
          type: "button",
          class: "button",
          "data-act": "copy",
          "data-text": links.job(job),
          title: "Copy a link to this job",
        },
        icon("copy"),
        "Copy link",
      ),
      isCancellable
        ? h(
            "button",
            { type: "button", class: "button danger", "data-act": "cancel", "data-job": job.id },
            icon("stop"),
            "Cancel…",
          )
        : null,
    ),
  );
}

function tasksOf(board, job) {
  const inOrder = [...job.entries].reverse();
  return inOrder.map((entry) => ({ ...entry, state: board.instances.get(instanceId(entry))?.state }));
}

function messages(board, job, progress) {
  const standing = board.standing(job);
  const notices = [];
  if (progress.problem)
    notices.push(
      notice(
        standing === "held" ? "error" : "warning",
        heldBy(standing, progress) ?? keptTitle(standing, progress) ?? PROBLEMS[standing] ?? "Last problem",
        h("p", { class: "pre" }, progress.problem),
      ),
    );
  if (keptBack(standing, progress) && progress.limit === "pilot")
    notices.push(
      notice(
        "info",
        keptTitle(standing, progress),
        h("p", null, "The other rows are sent by themselves once those of the pilot are good enough."),
      ),
    );
  if (standing === "stopped") {
    const failed = tasksOf(board, job).find((task) => task.state && task.state !== "success");
    notices.push(
      notice(
        "warning",
        "No task works on this job any more",
        h(
          "p",
          null,
          `Task ${failed?.taskName ?? "?"} is ${failed?.state ?? "not running"}. Clear it to take the job up again: answers that are there are not paid again.`,
        ),
      ),
    );
  }
  return notices;
}

function keptTitle(standing, progress) {
  const text = keptBack(standing, progress);
  return text && text[0].toUpperCase() + text.slice(1);
}

function isGoing(standing) {
  return ["running", "queued"].includes(standing);
}

function figures(progress, standing, now) {
  const isOver = OVER.has(progress.phase) || progress.phase === "done";
  const isActive = isGoing(standing);
  return h(
    "dl",
    { class: "figures", key: "figures" },
    figure(
      "Rows",
      count(progress.n_rows),
      progress.rate_per_h && isActive ? `${count(Math.round(progress.rate_per_h))} an hour` : null,
    ),
    tokenFigures(progress),
    moneyFigures(progress),
    figure(
      "Age",
      relative(progress.created_at, now).replace(" ago", ""),
      isOver ? `took ${duration(progress.updated_at - progress.created_at)}` : null,
    ),
    isActive ? estimatedEnd(progress, now) : null,
    isOver
      ? null
      : figure(
          "Deadline",
          time(progress.deadline_at, now),
          progress.expires_at ? h("span", null, "batches expire ", time(progress.expires_at, now)) : null,
        ),
    figure(
      "Shards",
      `${count(progress.n_settled)} of ${count(progress.n_shards)} settled`,
      progress.n_unsent ? `${count(progress.n_unsent)} not sent yet` : null,
    ),
    figure("Rounds asked again", count(progress.round), counted(progress.n_batches ?? 0, "batch")),
    figure("Model", progress.model ?? "differs by row", progress.endpoint),
    progress.output ? figure("Results", copyable(progress.output, "Copy the results' address")) : null,
    progress.dead_letter
      ? figure("Dead letter", copyable(progress.dead_letter, "Copy the dead letter's address"))
      : null,
  );
}

/** The end as the counts move, and as earlier runs went; the one that there is, or both. */
function estimatedEnd(progress, now) {
  const words = forecastWords(asOf(progress.forecast, now), now);
  if (!words) return figure("Estimated end", estimate(progress, now));
  if (!progress.eta_at) return figure("Estimated end", words.half, [words.nine, `by ${words.of}`]);
  return figure("Estimated end", estimate(progress, now), `by ${words.of}: ${words.says}`);
}

/** Who read this and when: the trigger while it waits (Airflow 3.3), or the worker at its last read. */
function freshness(board, job, progress, now) {
  const isOver = OVER.has(progress.phase);
  const text = isOver
    ? "Final, as of "
    : progress.live && ["waiting", "queued"].includes(progress.phase)
      ? "Kept up to date while the job waits; as of "
      : "As of the worker's last look, ";
  const standsStill = !progress.live && tasksOf(board, job).some((task) => task.state === "deferred");
  return h(
    "p",
    { class: "muted small fresh", key: "fresh" },
    [text, time(progress.updated_at, now), "."],
    standsStill && " Until it looks again the counts stand still: triggers can write them from Airflow 3.3 on.",
  );
}
