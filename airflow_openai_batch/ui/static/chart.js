// The chart of a Dag's runs: three rows of bars with one axis of runs, drawn in pixels of the width that there is.

import { h, svg } from "./dom.js";
import { dollars, duration, short } from "./format.js";
import { MEASURES, RUN_STATES, sentenceOf } from "./runs.js";

const LEFT = 70;
const RIGHT = 6;
const TITLE = 28;
const GAP = 12;
const STATES = 24;
const DATES = 20;
const HALF_DATE = 22;
/** Columns that the width is for at least, so that a few runs are no broad blocks; and a bar's greatest width. */
const LEAST_COLUMNS = 10;
const BROADEST = 34;
const MARK = 14;

/** Kinds of outcomes from the bottom up. */
const KINDS = ["good", "poor", "bad", "lost", "skipped", "answered", "open"];

const HOURS = [10, 30, 60, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400];

const PANELS = [
  { name: "cost", title: "Cost", height: 96, of: costOf, ticks: decimalTicks, show: dollars, draw: costBar },
  { name: "rows", title: "Rows by outcome", height: 96, of: rowsOf, ticks: decimalTicks, show: short, draw: rowsBar },
  { name: "seconds", title: "Time", height: 72, of: timeOf, ticks: timeTicks, show: duration, draw: timeBar },
];

/**
 * The chart. Each run is a link above its bars: with the keyboard one of them is reached by Tab, the others by arrows.
 * `width` is in pixels; `chosen` is the id of the run that is pointed at; `linkOf` returns the attributes of its link.
 */
export function chart(points, { width, chosen, linkOf, moment, day }) {
  const nColumns = Math.max(points.length, LEAST_COLUMNS);
  const column = (width - LEFT - RIGHT) / nColumns;
  const last = points.findLast((point) => ["done", "bad"].includes(point.state));
  const at = { column, bar: Math.min(BROADEST, Math.max(2, column * 0.72)), right: width - RIGHT, last };
  let y = 0;
  const panels = PANELS.map((panel) => {
    const drawn = panelOf(panel, points, { ...at, top: y + TITLE });
    y += TITLE + panel.height + GAP;
    return drawn;
  });
  const height = y + STATES + DATES;
  const drawing = svg(
    "svg",
    { class: "chart", width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" },
    patterns(),
    panels,
    stateRow(points, at, y),
    dates(points, at, y + STATES + 14, day),
  );
  const links = points.map((point) =>
    h("a", {
      ...linkOf(point),
      key: point.run.runId,
      class: point.run.runId === chosen ? "run chosen" : "run",
      "data-point": point.run.runId,
      tabindex: point.run.runId === chosen ? 0 : -1,
      "aria-label": sentenceOf(point, moment),
    }),
  );
  const filler = h("span", { key: "filler", grow: nColumns - points.length });
  const group = h("div", { class: "runs", role: "group", "aria-label": "Runs, the oldest first" }, links, filler);
  return h("div", { class: "chart-box", key: "chart" }, drawing, group);
}

/** The middle of a column. */
function middle(i, { column }) {
  return LEFT + (i + 0.5) * column;
}

function panelOf(panel, points, at) {
  const { title, name, height, of, ticks, show, draw } = panel;
  const usual = at.last?.usual[name] ?? null;
  const values = points.map(of).filter((value) => value !== null);
  const marks = ticks(Math.max(...values, usual?.to ?? 0, 0));
  const most = marks.at(-1) || 1;
  const y = (value) => at.top + height - (value / most) * height;
  const parts = { ...at, height, y, bottom: at.top + height };
  return svg(
    "g",
    null,
    svg("text", { class: "panel-title", x: 0, y: at.top - 14 }, title),
    usual && band(usual, most, parts),
    marks.map((value) => [
      svg("line", { class: value ? "grid" : "axis", x1: LEFT, x2: at.right, y1: y(value), y2: y(value) }),
      svg("text", { class: "tick", x: LEFT - 8, y: y(value) + 4, "text-anchor": "end" }, tickText(value, show)),
    ]),
    values.length === 0 &&
      svg("text", { class: "tick", x: LEFT + 8, y: parts.bottom - 8 }, `No run tells its ${MEASURES[name].label}.`),
    points.map((point, i) => {
      const value = of(point);
      const x = middle(i, at) - at.bar / 2;
      if (value === null) return point.parts && name === "cost" ? unknown(i, parts) : null;
      return [draw(point, x, parts), mark(point, name, i, Math.min(value, most), parts)];
    }),
  );
}

/** A tick's value, without a unit at 0 and cents that are none. */
function tickText(value, show) {
  return value ? show(value).replace(/\.00$/, "") : "0";
}

/** The range that is usual for the last run. */
function band({ from, to }, most, { y, right }) {
  const top = y(Math.min(to, most));
  return svg("rect", { class: "usual", x: LEFT, width: right - LEFT, y: top, height: Math.max(1, y(from) - top) });
}

function bar(x, from, to, { y, bar: width }, attributes) {
  return svg("rect", { x, width, y: y(to), height: Math.max(to > from ? 1 : 0, y(from) - y(to)), ...attributes });
}

function costOf(point) {
  return point.cost === null && point.expected === null ? null : Math.max(point.cost ?? 0, point.expected ?? 0);
}

function costBar(point, x, parts) {
  const isSoFar = !["done", "bad"].includes(point.state);
  const paid = bar(x, 0, point.cost ?? 0, parts, { class: "money", fill: isSoFar ? "url(#fill-so-far)" : null });
  return [point.expected !== null && bar(x, 0, point.expected, parts, { class: "expected" }), paid];
}

function rowsOf(point) {
  return point.nRows;
}

function rowsBar(point, x, parts) {
  const { outcomes, nAnswered, nOpen } = point.parts;
  const counts = { answered: nAnswered, open: nOpen };
  for (const { kind, n } of outcomes) counts[kind] = (counts[kind] ?? 0) + n;
  let from = 0;
  return KINDS.filter((kind) => counts[kind]).map((kind) => {
    const drawn = bar(x, from, from + counts[kind], parts, { fill: `url(#fill-${kind})` });
    from += counts[kind];
    return drawn;
  });
}

function timeOf(point) {
  return point.seconds;
}

function timeBar(point, x, parts) {
  const fill = point.state === "going" ? "url(#fill-so-far)" : null;
  return bar(x, 0, point.seconds, parts, { class: "money", fill });
}

/** A triangle at a bar that is outside its usual range: upwards above it, downwards below it. */
function mark(point, panel, i, value, { y, top, ...at }) {
  const found = point.unusual.filter(({ name }) => name === panel || (panel === "rows" && name === "bad"));
  if (found.length === 0) return null;
  const [x, size] = [middle(i, at), Math.min(MARK, Math.max(8, at.column))];
  const base = Math.max(y(value) - 4, top - 8 + size);
  const [tip, foot] = found.some(({ isAbove }) => isAbove) ? [base - size, base] : [base, base - size];
  return svg("path", { class: "mark", d: `M${x - size / 2} ${foot}h${size}L${x} ${tip}z` });
}

function unknown(i, { bottom, ...at }) {
  return svg("text", { class: "tick", x: middle(i, at), y: bottom - 4, "text-anchor": "middle" }, "?");
}

/** A symbol for how each run stands. */
function stateRow(points, at, y) {
  const size = Math.min(16, Math.max(7, at.column));
  return svg(
    "g",
    null,
    svg("text", { class: "panel-title", x: 0, y: y + 13 }, "State"),
    points.map((point, i) =>
      svg("use", {
        class: `state-mark ${point.state}`,
        href: `#icon-${RUN_STATES[point.state].icon}`,
        x: middle(i, at) - size / 2,
        y: y + 9 - size / 2,
        width: size,
        height: size,
      }),
    ),
  );
}

/** Days below as many columns as have room for them, the last one among them. */
function dates(points, at, y, day) {
  const every = Math.ceil((2 * HALF_DATE + 8) / at.column);
  return points.map((point, i) => {
    if ((points.length - 1 - i) % every) return null;
    const x = middle(i, at);
    const isAtEdge = x + HALF_DATE > at.right + RIGHT;
    const place = isAtEdge ? { x: at.right + RIGHT, "text-anchor": "end" } : { x, "text-anchor": "middle" };
    return svg("text", { class: "tick", y, ...place }, day(point.run.at));
  });
}

/** Fills of bars: patterns tell kinds apart without colour, as in the bars of the list. */
function patterns() {
  const dots = (size) => svg("circle", { class: "stripe", cx: size / 2, cy: size / 2, r: 1.2 });
  const stripe = (size) => svg("rect", { class: "stripe", width: size / 2.5, height: size });
  const of = (name, size, turn, drawn) =>
    svg(
      "pattern",
      {
        id: `fill-${name}`,
        width: size,
        height: size,
        patternUnits: "userSpaceOnUse",
        patternTransform: `rotate(${turn})`,
      },
      svg("rect", { class: `fill-${name}`, width: size, height: size }),
      drawn,
    );
  return svg(
    "defs",
    null,
    of("good", 8, 0, null),
    of("poor", 5, 0, dots(5)),
    of("bad", 5, 45, stripe(5)),
    of("lost", 5, -45, stripe(5)),
    of("skipped", 5, 90, stripe(5)),
    of("answered", 6, 0, stripe(6)),
    of("open", 8, 0, null),
    of("so-far", 6, 45, stripe(6)),
  );
}

/** Return 0 and two to four round numbers, the last one not below `most`. */
export function decimalTicks(most) {
  if (!(most > 0)) return [0];
  const power = 10 ** Math.floor(Math.log10(most / 2));
  const step = [1, 2, 2.5, 5, 10].map((n) => n * power).find((one) => one * 3 >= most);
  return upTo(most, step);
}

/** The same for seconds. */
export function timeTicks(most) {
  if (!(most > 0)) return [0];
  const step = HOURS.find((one) => one * 3 >= most) ?? 86400 * Math.ceil(most / 86400 / 3);
  return upTo(most, step);
}

function upTo(most, step) {
  // Without the error of a floating-point sum: 0.3, not 0.30000000000000004.
  const nSteps = Math.max(1, Math.ceil(most / step - 1e-9));
  return Array.from({ length: nSteps + 1 }, (_, i) => Number((i * step).toPrecision(12)));
}
