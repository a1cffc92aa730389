// The last runs of a Dag: whether the newest was as usual, the chart, and the same as a table.

import { chart } from "./chart.js";
import { h, icon } from "./dom.js";
import { counted, day, dollars, moment } from "./format.js";
import { head, notice, number, outLink, scroller } from "./parts.js";
import { jobHash } from "./place.js";
import {
  ENOUGH,
  RUN_STATES,
  costText,
  figuresOf,
  lastFinal,
  pointsOf,
  tasksOf,
  timeText,
} from "./runs.js";

/** The whole view. `view` is what the viewer has chosen: a task, and the run that is pointed at; `width` in pixels. */
export function lastRunsView(history, view, { links, now, width, canGoBack }) {
  const title = history.runs[0]?.dagName ?? history.dagId;
  const heading = h(
    "header",
    { class: "heading", key: "heading" },
    h("div", { class: "title" }, h("h2", { tabindex: -1, id: "title" }, title)),
    h("div", { class: "where" }, outLink(links.dag(history.dagId), "The Dag in Airflow")),
  );
  const back = canGoBack && h("a", { href: "#", class: "back", key: "back" }, icon("left"), "All jobs");
  return [back, heading, content()];

  function content() {
    if (!history.lookedAt && !history.jobs.length) return h("p", { class: "quiet", key: "wait" }, "Looking…");
    if (!history.jobs.length)
      return h("p", { class: "quiet", key: "none" }, "No job of OpenAI's Batch API in the last runs of this Dag.");
    const progressOf = (job) => history.progress(job);
    const tasks = tasksOf(history.jobs, progressOf);
    const task = tasks.includes(view.task) ? view.task : null;
    const points = pointsOf(history.runs, history.jobs, progressOf, { task, now });
    const chosen = points.find((point) => point.run.runId === view.run) ?? points.at(-1);
    return [
      tasks.length > 1 ? choices(tasks, task) : null,
      verdict(points),
      newest(points.at(-1)),
      chart(points, {
        width,
        chosen: chosen.run.runId,
        linkOf: (point) => linkOf(point, links),
        moment,
        day,
      }),
      readout(chosen, links),
      legend(points),
      h(
        "details",
        { class: "block", key: "table" },
        h("summary", null, "The same as a table"),
        scroller("Runs", table(points, links)),
      ),
      foot(history, points),
    ];
  }
}

/** Which jobs are added up: all of a run, or those of one task. */
function choices(tasks, chosen) {
  const button = (task, label) =>
    h(
      "button",
      {
        type: "button",
        class: "button",
        "data-act": "task",
        "data-task": task ?? "",
        "aria-pressed": String(task === chosen),
        key: `task ${task}`,
      },
      label,
    );
  return h(
    "div",
    { class: "choices", role: "group", "aria-label": "Task", key: "tasks" },
    button(null, "All tasks, added up"),
    tasks.map((task) => button(task, task)),
  );
}

/** Whether the newest run that is over was as usual, in words. */
function verdict(points) {
  const last = lastFinal(points);
  if (!last) return null;
  const when = `The last finished run (${moment(last.run.at)})`;
  if (last.unusual.length)
    return notice(
      "warning",
      `${when} was unusual`,
      h(
        "ul",
        { class: "plain-list" },
        last.unusual.map(({ name, text }) => h("li", { key: name }, text)),
      ),
    );
  if (Object.values(last.usual).every((range) => range === null))
    return h(
      "p",
      { class: "muted", key: "verdict" },
      `Nothing is said to be unusual yet: that takes ${ENOUGH} finished runs before a run.`,
    );
  return h(
    "p",
    { class: "as-usual", key: "verdict" },
    icon("check"),
    `${when} was as usual: ${costText(last)}, ${counted(last.nRows, "row")}, ${timeText(last)}.`,
  );
}

/** What is to be known of the newest run if it is not over. */
function newest(point) {
  if (!["going", "held", "stopped"].includes(point.state)) return null;
  const { icon: name, label, says } = RUN_STATES[point.state];
  const expected = point.expected === null ? "" : `, ${dollars(point.expected)} expected`;
  const money = point.parts ? ` Cost: ${costText(point)}${expected}.` : "";
  return h(
    "p",
    { class: "as-usual", key: "newest" },
    icon(name),
    `The newest run (${moment(point.run.at)}) is ${label.toLowerCase()}: ${says}.${money}`,
  );
}

/** The values of the run that is pointed at. */
function readout(point, links) {
  const pair = ([name, value]) => h("div", { key: name }, h("dt", null, name), h("dd", null, value));
  const unusual = point.unusual.map(({ text }) => text).join("; ");
  return h(
    "div",
    { class: "readout", key: "readout" },
    h(
      "div",
      null,
      h("strong", null, moment(point.run.at)),
      " ",
      h("span", { class: "muted" }, outLink(links.run(point.run.dagId, point.run.runId), point.run.runId)),
    ),
    h("dl", null, figuresOf(point).map(pair), unusual ? pair(["Unusual", h("strong", null, unusual)]) : null),
  );
}

/** A run with one job leads to it; with none or several, to the run in Airflow. */
function linkOf({ run, jobs }, links) {
  if (jobs.length === 1) return { href: jobHash(jobs[0]) };
  return { href: links.run(run.dagId, run.runId), "data-out": true };
}

function legend(points) {
  const kinds = {
    good: "succeeded",
    poor: "refused, truncated, invalid",
    bad: "failed, missing",
    lost: "expired, cancelled",
    skipped: "skipped",
    answered: "finished at OpenAI",
    open: "open",
  };
  const seen = new Set(points.flatMap((point) => point.parts?.outcomes.map(({ kind }) => kind) ?? []));
  if (points.some((point) => point.parts?.nAnswered)) seen.add("answered");
  if (points.some((point) => point.parts?.nOpen)) seen.add("open");
  const states = new Set(points.map((point) => point.state));
  const item = (sign, text) => h("span", { key: text }, sign, text);
  return h(
    "div",
    { class: "legend", key: "legend" },
    h(
      "div",
      null,
      Object.entries(kinds)
        .filter(([kind]) => seen.has(kind))
        .map(([kind, text]) => item(h("i", { class: `swatch ${kind}` }), text)),
    ),
    h(
      "div",
      null,
      Object.entries(RUN_STATES)
        .filter(([state]) => states.has(state))
        .map(([state, { icon: name, label, says }]) => item(icon(name), `${label}: ${says}`)),
    ),
    h(
      "div",
      null,
      points.some((point) => point.unusual.length)
        ? item(h("i", { class: "triangle" }), "outside the usual range of the runs before it")
        : null,
      lastFinal(points)?.usual.rows
        ? item(h("i", { class: "swatch usual" }), "usual range of the last finished run")
        : null,
      points.some((point) => point.cost !== null && !["done", "bad"].includes(point.state))
        ? item(h("i", { class: "swatch so-far" }), "so far")
        : null,
      points.some((point) => point.expected !== null)
        ? item(h("i", { class: "swatch expected" }), "expected in the end")
        : null,
      points.some((point) => point.parts && point.cost === null && point.state !== "going")
        ? item(h("i", { class: "sign" }, "?"), "cost not known")
        : null,
    ),
  );
}

function table(points, links) {
  const rows = [...points].reverse().map((point) => {
    const { run, state, parts, nBad, unusual } = point;
    return h(
      "tr",
      { key: run.runId },
      h("td", null, h("a", linkOf(point, links), moment(run.at))),
      h("td", null, RUN_STATES[state].label),
      number(parts ? costText(point) : "–"),
      number(parts ? parts.nRows.toLocaleString("en-US") : "–"),
      number(parts ? nBad.toLocaleString("en-US") : "–"),
      number(point.reused ? point.reused.toLocaleString("en-US") : "–"),
      number(point.seconds === null ? "–" : timeText(point)),
      h("td", { class: "wrap" }, unusual.length ? unusual.map(({ text }) => text).join("; ") : "–"),
    );
  });
  const names = ["Run", "State", "#Cost", "#Rows", "#Without a good answer", "#Reused", "#Time", "Unusual"];
  return h("table", { class: "plain" }, head(...names), h("tbody", null, rows));
}

function foot(history, points) {
  const known = points.filter((point) => point.cost !== null);
  const sum = known.reduce((total, point) => total + point.cost, 0);
  const cut = history.isCut ? " Older ones are left out, as their jobs are too many to read at once." : "";
  const total = known.length ? ` Together they cost ${dollars(sum)}, as far as it is known.` : "";
  const part = history.isPartial ? ` Of this run only ${counted(history.jobs.length, "job")} were read.` : "";
  const text = `The last ${counted(points.length, "run")}.${total}${cut}${part}`;
  return h("p", { class: "muted small", key: "foot" }, text);
}
