// The timeline's pure parts: shards become bars, a forecast is as of now, an axis has round moments.

import assert from "node:assert/strict";
import { test } from "node:test";

import { pure } from "./modules.mjs";

const [spans, forecast, values] = await pure("spans.js", "forecast.js", "values.js");

const T = 1_750_000_000;
const shard = (id, batch, more = {}) => ({
  id,
  state: "running",
  round: 0,
  parent: null,
  settled_at: null,
  batch: batch && { id: `batch_${id}`, status: "in_progress", ...batch },
  ...more,
});
const rows = (shards, { now = T + 1000, seen = () => null, state } = {}) =>
  spans.rowsOf(shards, { now, seenOf: seen, stateOf: state ?? ((one) => one.batch?.status ?? one.state) });
const lengths = (row) => Object.fromEntries(row.spans.map(({ name, from, to }) => [name, to - from]));

test("a batch that is done was validated, ran, and waited for its fetch", () => {
  const times = { status: "completed", created_at: T, in_progress_at: T + 60, ended_at: T + 600 };
  const [row] = rows([shard("a", times, { state: "settled", settled_at: T + 660 })]);
  assert.deepEqual(lengths(row), { validating: 60, running: 540, fetched: 60 });
  assert.equal(row.isOpen, false);
  assert.equal(row.to, T + 660);
});

test("what goes on goes on until now", () => {
  const [validating] = rows([shard("a", { created_at: T, status: "validating" })]);
  assert.deepEqual(lengths(validating), { validating: 1000 });
  const [running] = rows([shard("a", { created_at: T, in_progress_at: T + 60 })]);
  assert.deepEqual(lengths(running), { validating: 60, running: 940 });
  const ended = shard("a", { created_at: T, in_progress_at: T + 60, ended_at: T + 800, status: "completed" });
  assert.deepEqual(lengths(rows([ended])[0]), { validating: 60, running: 740, fetched: 200 });
  assert.ok(rows([ended])[0].isOpen);
});

test("the trigger has seen more than the last worker", () => {
  const old = shard("a", { created_at: T, status: "validating" });
  const seen = () => ({ id: "batch_a", status: "in_progress", in_progress_at: T + 300 });
  const [row] = rows([old], { seen, state: () => "in_progress" });
  assert.deepEqual(lengths(row), { validating: 300, running: 700 });
});

test("shards without a batch, and batches of a server without times, have no bar", () => {
  assert.deepEqual(rows([shard("a", null), shard("b", { created_at: null })]), []);
});

test("a batch whose validation nobody saw counts as running, and never backwards", () => {
  const [row] = rows([shard("a", { created_at: T, status: "completed", ended_at: T + 500 })]);
  assert.equal(lengths(row).running, 500);
  const [odd] = rows([shard("a", { created_at: T, in_progress_at: T + 900, ended_at: T + 500, status: "completed" })]);
  assert.ok(odd.spans.every(({ from, to }) => to > from));
});

test("of very many those that go on are drawn, then those that ended last, in the order of their creation", () => {
  const many = Array.from({ length: 200 }, (_, i) =>
    shard(String(i).padStart(3, "0"), { created_at: T + i, in_progress_at: T + i + 1, ended_at: T + 1000 + i, status: "completed" },
      { state: "settled", settled_at: T + 2000 + i }),
  );
  many[3] = shard("003", { created_at: T + 3 });
  const found = spans.drawn(rows(many, { now: T + 5000 }));
  assert.equal(found.length, spans.MOST_ROWS);
  assert.equal(found[0].id, "003");
  assert.equal(found.at(-1).id, "199");
  assert.deepEqual(found.map(({ from }) => from), found.map(({ from }) => from).toSorted((a, b) => a - b));
});

test("a mark that lies far ahead does not squeeze the bars", () => {
  const one = rows([shard("a", { created_at: T })]);
  const near = spans.rangeOf(one, { now: T + 1000, isGoing: true, marks: [T + 3000, null] });
  assert.ok(near.from === T && near.to > T + 3000);
  const far = spans.rangeOf(one, { now: T + 1000, isGoing: true, marks: [T + 400_000] });
  assert.ok(far.to < T + 2000);
});

test("ticks are round on the viewer's own clock, and not too many", () => {
  const ticks = spans.ticksOf({ from: T, to: T + 36_000 }, 6, 5.5 * 3600);
  assert.ok(ticks.length >= 3 && ticks.length <= 7);
  for (const at of ticks) assert.equal((at + 5.5 * 3600) % 7200, 0);
  assert.ok(spans.ticksOf({ from: T, to: T + 1e8 }, 6, 0).length <= 8);
});

test("a row as a sentence", () => {
  const [row] = rows([
    shard("0-00001.1", { created_at: T, in_progress_at: T + 60, status: "in_progress" }, { round: 1, parent: "0-00001" }),
  ]);
  assert.equal(
    spans.sentenceOf(row, () => "then"),
    "Shard 0-00001.1, round 1 for rows of 0-00001: created then; 1 min validating, 15 min 40 s running; now in_progress",
  );
});

const raw = { basis: "jobs", n_earlier: 9, n_shorter: 0, steps: [1, 2, 3, 4, 5, 6, 7, 8, 9].map((k) => [T + k * 3600, k / 10]) };
const read = (more) => values.progressOf({ version: 1, forecast: { ...raw, ...more } }).forecast;

test("a forecast is as of now: what has passed counts no more", () => {
  const now = forecast.asOf(read(), T);
  assert.deepEqual([now.p50At - T, now.p90At - T], [5 * 3600, 9 * 3600]);
  const later = forecast.asOf(read(), T + 4.5 * 3600);
  assert.deepEqual([later.p50At - T, later.p90At, later.nShorter], [7 * 3600, null, 4]);
  const late = forecast.asOf(read(), T + 10 * 3600);
  assert.deepEqual([late.p50At, late.p90At, late.nShorter], [null, null, 9]);
  assert.equal(forecast.forecastWords(late, T).says, "longer than 9 of 9 earlier runs");
});

test("a forecast in words says no more than is known", () => {
  assert.match(forecast.forecastWords(forecast.asOf(read(), T), T).says, /^probably .*\d\d:\d\d, nine of ten before .*\d\d:\d\d$/);
  const five = { steps: [1, 2, 3, 4, 5].map((k) => [T + k * 60, k / 6]), n_earlier: 5 };
  assert.match(forecast.forecastWords(forecast.asOf(read(five), T), T).says, /^probably [^,]*\d\d:\d\d$/);
  assert.equal(forecast.forecastWords(forecast.asOf(read({ steps: [] }), T), T), null);
  assert.equal(forecast.forecastWords(forecast.asOf(null, T), T), null);
});

test("what is no forecast is none", () => {
  for (const wrong of [null, 3, [], {}, { basis: "stars" }])
    assert.equal(values.progressOf({ version: 1, forecast: wrong }).forecast, null);
  assert.deepEqual(read({ steps: [["x", 1], [T], 5, null, [T, 0.5], [T, 7]] }).steps, [[T, 0.5]]);
});
