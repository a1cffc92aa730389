// The pieces that list, detail and tabs have in common: badge, bar, outcomes, figures.

import { h, icon } from "./dom.js";
import { count, counted, donePercent, duration, moment, percent, relative, short } from "./format.js";
import { OVER, STANDINGS, countsText, partsOf } from "./jobs.js";

const ICONS = {
  loading: "dots",
  running: "play",
  planned: "clock",
  queued: "clock",
  answered: "inbox",
  done: "check",
  bad: "alert",
  held: "hand",
  stopped: "stop",
};
const PHASES = {
  build: "Build",
  upload: "Upload",
  create: "Create batches",
  wait: "Wait for OpenAI",
  harvest: "Fetch answers",
  ask: "Ask synchronously",
  results: "Write results",
};

/** A rounded badge with symbol and word, so that colour is never the only sign; `n` counts jobs, `word` is another one. */
export function badge(standing, { n = null, word = null } = {}) {
  const { label, says } = STANDINGS[standing];
  return h(
    "span",
    { class: `badge ${standing}`, title: says, key: standing },
    icon(ICONS[standing]),
    n === null ? (word ?? label) : `${count(n)} ${label}`,
  );
}

/** A moment as a relative time, with the exact one as its tooltip. */
export function time(at, now) {
  if (!at) return "–";
  return h("time", { datetime: new Date(at * 1000).toISOString(), title: moment(at) }, relative(at, now));
}

/** When a job that goes on is expected to end; an estimate that has passed becomes "any minute". */
export function estimate(progress, now) {
  if (!progress.eta_at) return h("span", { class: "muted" }, "no estimate yet");
  return progress.eta_at > now ? time(progress.eta_at, now) : "any minute";
}

/** The progress bar: outcomes, what is finished at OpenAI, what is open. Patterns distinguish them without colour. */
export function bar(progress, size = "") {
  const parts = partsOf(progress);
  const text = `${donePercent(parts, OVER.has(progress.phase))} of ${counted(parts.nRows, "row")}: ${countsText(parts, count)}`;
  const attributes = {
    class: `bar ${size}`,
    role: "progressbar",
    "aria-valuemin": 0,
    "aria-valuemax": parts.nRows,
    "aria-valuenow": parts.nDone,
    "aria-valuetext": text,
    "aria-label": "Rows",
  };
  const kinds = ["good", "poor", "bad", "lost", "skipped"].map((kind) => [
    kind,
    sum(parts.outcomes.filter((part) => part.kind === kind)),
  ]);
  const segments = [...kinds, ["answered", parts.nAnswered], ["open", parts.nOpen]].filter(([, n]) => n > 0);
  return h(
    "div",
    { ...attributes, title: text },
    segments.map(([kind, n]) => h("span", { class: `part ${kind}`, grow: n / parts.nRows, key: kind })),
  );
}

function sum(parts) {
  return parts.reduce((total, part) => total + part.n, 0);
}

/** The summary under a bar: "700 of 1,000 rows · 70%", the bad outcomes, and a remark. */
export function barText(progress, last = null) {
  const parts = partsOf(progress);
  const trouble = parts.outcomes.filter((part) => part.kind !== "good");
  return h(
    "div",
    { class: "bar-text" },
    h("span", { class: "strong" }, donePercent(parts, OVER.has(progress.phase))),
    h("span", null, `${count(parts.nDone)} of ${count(parts.nRows)}`),
    trouble.map((part) =>
      h(
        "span",
        { class: `outcome ${part.kind}`, key: part.status },
        h("i", { class: `swatch ${part.kind}` }),
        `${count(part.n)} ${part.status}`,
      ),
    ),
    last,
  );
}

/** The table of outcomes with counts and shares. */
export function outcomesTable(progress) {
  const parts = partsOf(progress);
  const rows = parts.outcomes.map((part) => [part.kind, part.status, part.n, part.says]);
  if (parts.nAnswered) rows.push(["answered", "finished", parts.nAnswered, "finished at OpenAI, not fetched yet"]);
  if (parts.nOpen) rows.push(["open", "open", parts.nOpen, "no answer yet"]);
  const body = rows.map(([kind, name, n, says]) =>
    h(
      "tr",
      { key: name },
      h("td", null, h("i", { class: `swatch ${kind}` }), name),
      number(count(n)),
      number(percent(n, parts.nRows)),
      h("td", { class: "muted says" }, says),
    ),
  );
  return section(
    "Rows by outcome",
    h("table", { class: "plain" }, head("Outcome", "#Rows", "#Share", "Meaning"), h("tbody", null, body)),
  );
}

/** The table of error codes with counts and example rows; null if there are none. */
export function errorsTable(progress) {
  const { errors } = progress;
  if (errors.length === 0) return null;
  const body = errors.map((error) =>
    h(
      "tr",
      { key: `${error.status} ${error.code}` },
      h("td", null, error.status ?? "–"),
      h("td", null, h("code", null, error.code ?? "–")),
      number(count(error.n)),
      h(
        "td",
        { class: "wrap" },
        error.customIds.map((id) => h("code", { class: "id" }, id)),
      ),
    ),
  );
  return section(
    "Errors",
    scroller(
      "Errors",
      h("table", { class: "plain" }, head("Outcome", "Code", "#Rows", "For example"), h("tbody", null, body)),
    ),
  );
}

/** Seconds by phase, as short bars. */
export function phasesTable(progress) {
  const order = Object.keys(PHASES);
  const phases = Object.entries(progress.phasesS)
    .filter(([, seconds]) => seconds > 0)
    .sort(([a], [b]) => order.indexOf(a) - order.indexOf(b));
  if (phases.length === 0) return null;
  const longest = Math.max(...phases.map(([, seconds]) => seconds));
  const body = phases.map(([phase, seconds]) =>
    h(
      "tr",
      { key: phase },
      h("td", null, PHASES[phase] ?? phase),
      number(duration(seconds)),
      h(
        "td",
        { class: "length", "aria-hidden": "true" },
        h(
          "div",
          { class: "track" },
          h("span", { class: "fill", grow: seconds / longest }),
          h("span", { grow: 1 - seconds / longest }),
        ),
      ),
    ),
  );
  return section("Time by phase", h("table", { class: "plain" }, head("Phase", "#Time", ""), h("tbody", null, body)));
}

/** Tokens as a short text for tables: "1.2M in · 45K out". */
export function tokensShort(progress) {
  const { usage } = progress;
  if (!usage.input_tokens && !usage.output_tokens) return "–";
  return h(
    "span",
    { title: `${count(usage.input_tokens)} input, ${count(usage.output_tokens)} output tokens` },
    h("span", { class: "nowrap" }, `${short(usage.input_tokens)} in`),
    " ",
    h("span", { class: "nowrap muted" }, `${short(usage.output_tokens)} out`),
  );
}

/** Tokens in full, for the figures of a job. */
export function tokenFigures(progress) {
  const { usage } = progress;
  return [
    figure(
      "Input tokens",
      count(usage.input_tokens ?? 0),
      usage.cached_tokens ? `${count(usage.cached_tokens)} cached` : null,
    ),
    figure(
      "Output tokens",
      count(usage.output_tokens ?? 0),
      usage.reasoning_tokens ? `${count(usage.reasoning_tokens)} for reasoning` : null,
    ),
  ];
}

/** One figure: a name, a value, and remarks: one or a list, of which those that are null are left out. */
export function figure(name, value, remarks) {
  const texts = [remarks].flat().filter(Boolean);
  return h(
    "div",
    { class: "figure", key: name },
    h("dt", null, name),
    h("dd", null, value, texts.map((text) => h("small", null, text))),
  );
}

/** A place such as a file's URI, with a button that copies it. */
export function copyable(text, label) {
  return h(
    "span",
    { class: "copyable" },
    h("code", { class: "uri" }, text),
    h(
      "button",
      {
        type: "button",
        class: "button square",
        "data-act": "copy",
        "data-text": text,
        "aria-label": label,
        title: label,
      },
      icon("copy"),
    ),
  );
}

/** A titled block. */
export function section(title, ...content) {
  return h("section", { class: "block", key: title }, h("h3", null, title), content);
}

/** A box that scrolls sideways on its own, also with the keyboard. */
export function scroller(name, table) {
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": name }, table);
}

/** A table's head; a leading # means numbers. */
export function head(...names) {
  const kind = (name) => (name.startsWith("#") ? "number" : name === "Meaning" ? "says" : null);
  const cells = names.map((name) => h("th", { scope: "col", class: kind(name) }, name.replace(/^#/, "")));
  return h("thead", null, h("tr", null, cells));
}

export function number(text) {
  return h("td", { class: "number" }, text);
}

/** A link out of the page: into Airflow, or to OpenAI in a new tab. */
export function outLink(href, text, attributes = {}) {
  const away = href.startsWith("https://") && { target: "_blank", rel: "noopener noreferrer" };
  return h("a", { href, "data-out": true, ...away, ...attributes }, text, away ? icon("out") : null);
}

/** A box with a message. `kind`: info, warning or error. */
export function notice(kind, title, ...content) {
  return h(
    "div",
    { class: `notice ${kind}`, role: kind === "error" ? "alert" : "note", key: `notice ${title}` },
    icon(kind === "info" ? "info" : "alert"),
    h("div", null, h("strong", null, title), content),
  );
}
