// The timeline of a job: a bar for each batch, now, the forecast as a band, and the same as a table.

import { stateOf } from "./batches.js";
import { h, svg } from "./dom.js";
import { asOf, forecastWords } from "./forecast.js";
import { clock, count, counted, duration, moment } from "./format.js";
import { head, number, scroller, section } from "./parts.js";
import { drawn, rangeOf, rowsOf, secondsOf, sentenceOf, SPANS, ticksOf } from "./spans.js";

const LEFT = 92;
const RIGHT = 10;
/** Room for the words of marks, and where there are none. */
const TOP = 40;
const BARE_TOP = 10;
const BOTTOM = 22;
const TICK_PX = 90;
/** Width of a character in a mark's label, about. */
const CHAR_PX = 6.3;

/** The timeline; null where no batch says when it was created. `width` in pixels; `pointed` is a shard's id. */
export function timeline(detail, progress, { now, width, pointed, isGoing }) {
  const listed = detail?.shards?.shards ?? [];
  const seenOf = (shard) => progress.batches.find((batch) => batch.id === shard.batch?.id) ?? null;
  const state = (shard) => stateOf(shard, progress, detail.shards.updated_at);
  const rows = rowsOf(listed, { stateOf: state, seenOf, now: isGoing ? now : progress.updated_at });
  if (rows.length === 0) return null;
  const forecast = isGoing ? asOf(progress.forecast, now) : null;
  const shown = drawn(rows);
  const marks = marksOf(progress, forecast, { now, isGoing });
  const range = rangeOf(shown, { now, isGoing, marks: [forecast?.p90At, forecast?.p50At, progress.finish_at] });
  const chosen = shown.find((row) => row.id === pointed) ?? shown.at(-1);
  const words = forecastWords(forecast, now);
  return section(
    titleOf(shown, rows, detail.shards.n_shards),
    picture(shown, { width, range, marks, forecast, chosen }),
    readout(chosen),
    legend(shown, marks, forecast),
    words && h("p", { class: "muted small", key: "words" }, `By ${words.of}: ${words.says}.`),
    h(
      "details",
      { key: "table" },
      h("summary", null, "The timeline as a table"),
      scroller("Timeline", table(rows, marks)),
    ),
  );
}

function titleOf(shown, rows, nShards) {
  if (shown.length < rows.length)
    return `Timeline (${shown.length} of ${counted(nShards, "shard")}: those that go on, and those that ended last)`;
  return rows.length < nShards ? `Timeline (${count(rows.length)} of ${counted(nShards, "shard")} have a batch)` : "Timeline";
}

/** The moments that are marked by a line. */
function marksOf(progress, forecast, { now, isGoing }) {
  return [
    isGoing && { name: "now", at: now, says: "now" },
    forecast?.p50At && { name: "half", at: forecast.p50At, says: `probably over ${clock(forecast.p50At, now)}` },
    forecast?.p90At && { name: "nine", at: forecast.p90At, says: `nine of ten before ${clock(forecast.p90At, now)}` },
    progress.finish_at && { name: "finish", at: progress.finish_at, says: `finish by ${clock(progress.finish_at, now)}` },
  ].filter(Boolean);
}

function picture(rows, { width, range, marks, forecast, chosen }) {
  const rowHeight = rows.length > 16 ? 14 : 20;
  const top = marks.length ? TOP : BARE_TOP;
  const bottom = top + rows.length * rowHeight;
  const height = bottom + BOTTOM;
  const x = (at) => LEFT + ((at - range.from) / (range.to - range.from)) * (width - LEFT - RIGHT);
  const parts = { x, top, bottom, width, rowHeight };
  const drawing = svg(
    "svg",
    { class: "timeline", width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" },
    patterns(),
    forecastBand(forecast, range, parts),
    axis(range, parts),
    rows.map((row, i) => bars(row, i, parts)),
    lines(marks.filter(({ at }) => at >= range.from && at <= range.to), parts),
  );
  const focusable = rows.map((row) =>
    h("div", {
      key: row.id,
      class: row.id === chosen.id ? "line chosen" : "line",
      role: "img",
      "data-point": row.id,
      tabindex: row.id === chosen.id ? 0 : -1,
      "aria-label": sentenceOf(row, moment),
    }),
  );
  const label = "Batches in the order of their creation; the arrow keys go from one to the next";
  return h(
    "div",
    { class: "timeline-box", key: "timeline" },
    drawing,
    h("div", { class: marks.length ? "lines" : "lines bare", role: "group", "aria-label": label }, focusable),
  );
}

function forecastBand(forecast, range, { x, top, bottom }) {
  if (!forecast?.p50At || !forecast.p90At || forecast.p50At >= range.to) return null;
  const [from, to] = [x(forecast.p50At), x(Math.min(forecast.p90At, range.to))];
  return svg("rect", { class: "forecast", x: from, width: Math.max(1, to - from), y: top - 4, height: bottom - top + 4 });
}

function axis(range, { x, top, bottom, width }) {
  const offsetS = -60 * new Date(range.from * 1000).getTimezoneOffset();
  const ticks = ticksOf(range, Math.max(2, Math.floor((width - LEFT - RIGHT) / TICK_PX)), offsetS);
  return [
    svg("line", { class: "axis", x1: LEFT, x2: width - RIGHT, y1: bottom, y2: bottom }),
    ticks.map((at, i) => {
      const text = clock(at, i ? ticks[i - 1] : range.from); // the day only where it begins
      const half = (text.length * CHAR_PX) / 2;
      const place = Math.min(x(at), width - half);
      return [
        svg("line", { class: "grid", x1: x(at), x2: x(at), y1: top - 4, y2: bottom }),
        svg("text", { x: place, y: bottom + 15, "text-anchor": "middle" }, text),
      ];
    }),
  ];
}

function bars(row, i, { x, top, rowHeight }) {
  const y = top + i * rowHeight;
  const text = svg("text", { x: LEFT - 8, y: y + rowHeight / 2 + 4, "text-anchor": "end" }, row.id);
  const drawnSpans = row.spans.map(({ name, from, to }) =>
    svg("rect", {
      class: `span ${name}`,
      fill: `url(#span-${name})`,
      x: x(from),
      width: Math.max(1.5, x(to) - x(from)),
      y: y + 3,
      height: rowHeight - 6,
    }),
  );
  return [text, drawnSpans];
}

/** Lines of moments, each with its word above: on two levels, so that neighbours do not cover each other. */
function lines(marks, { x, top, bottom, width }) {
  const rightmost = [-Infinity, -Infinity];
  return [...marks]
    .sort((a, b) => a.at - b.at)
    .map(({ name, at, says }) => {
      const half = (says.length * CHAR_PX) / 2;
      const middle = Math.min(width - half - 2, Math.max(half + 2, x(at)));
      const level = rightmost.findIndex((right) => middle - half > right + 6);
      if (level >= 0) rightmost[level] = middle + half;
      return svg(
        "g",
        { class: `mark-line ${name}` },
        svg("line", { x1: x(at), x2: x(at), y1: top - 8, y2: bottom }),
        level >= 0 && svg("text", { x: middle, y: 26 - 15 * level, "text-anchor": "middle" }, says),
      );
    });
}

function readout(row) {
  const pair = ([name, value]) => h("div", { key: name }, h("dt", null, name), h("dd", null, value));
  const times = row.spans.map(({ name, from, to }) => [SPANS[name], duration(to - from)]);
  return h(
    "div",
    { class: "readout", key: "readout" },
    h("div", null, h("strong", null, row.id), " ", h("span", { class: "muted" }, h("code", null, row.batchId))),
    h(
      "dl",
      null,
      [["created", moment(row.from)], ...times, ["state", row.state]].map(pair),
      row.round ? pair(["round", row.parent ? `${row.round}, for rows of ${row.parent}` : count(row.round)]) : null,
    ),
  );
}

function legend(rows, marks, forecast) {
  const seen = new Set(rows.flatMap((row) => row.spans.map(({ name }) => name)));
  const item = (sign, text) => h("span", { key: text }, sign, text);
  return h(
    "div",
    { class: "legend", key: "legend" },
    h(
      "div",
      null,
      Object.entries(SPANS)
        .filter(([name]) => seen.has(name))
        .map(([name, text]) => item(h("i", { class: `swatch span-${name}` }), text)),
      forecast?.p90At && item(h("i", { class: "swatch forecast" }), "forecast: from half to nine of ten"),
      marks.map(({ name, says }) => item(h("i", { class: `stroke ${name}` }), says)),
    ),
  );
}

function table(rows, marks) {
  const cell = (row, name) => {
    const seconds = secondsOf(row, name);
    return number(seconds === null ? "–" : duration(seconds));
  };
  const body = rows.map((row) =>
    h(
      "tr",
      { key: row.id },
      h("th", { scope: "row" }, row.id),
      number(count(row.round)),
      h("td", null, h("code", null, row.batchId)),
      h("td", null, moment(row.from)),
      Object.keys(SPANS).map((name) => cell(row, name)),
      h("td", null, row.state),
    ),
  );
  const ends = marks.map(({ at, says }) =>
    h("tr", { key: says }, h("th", { scope: "row", colspan: 3 }, says), h("td", { colspan: 5 }, moment(at))),
  );
  const names = ["Shard", "#Round", "Batch", "Created", "#Validating", "#Running", "#Until fetched", "State"];
  return h("table", { class: "plain" }, head(...names), h("tbody", null, body, ends));
}

/** Fills of the bars: patterns tell them apart without colour. */
function patterns() {
  const of = (name, drawnPattern, turn = 0) =>
    svg(
      "pattern",
      {
        id: `span-${name}`,
        width: 6,
        height: 6,
        patternUnits: "userSpaceOnUse",
        patternTransform: `rotate(${turn})`,
      },
      svg("rect", { class: `fill-${name}`, width: 6, height: 6 }),
      drawnPattern,
    );
  return svg(
    "defs",
    null,
    of("validating", svg("rect", { class: "stripe", width: 2.4, height: 6 }), 45),
    of("running", null),
    of("fetched", svg("circle", { class: "stripe", cx: 3, cy: 3, r: 1.3 })),
  );
}
