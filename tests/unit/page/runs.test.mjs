// The last runs of a Dag: what their jobs add up to, what is usual, and what lies outside of it.

import assert from "node:assert/strict";
import { test } from "node:test";

import { pure } from "./modules.mjs";

const [runs, jobs, values, chart, history] = await pure("runs.js", "jobs.js", "values.js", "chart.js", "history.js");

const HOUR = 3600;
const START = 1_790_000_000;

/** Make a world of runs: each is a list of what the jobs in it tell; the first run is the newest. */
function world(...told) {
  const all = new Map();
  const made = told.map(({ state = "success", jobs: owned = [] }, i) => {
    const at = START - i * 24 * HOUR;
    const run = runs.runOf({ dag_run_id: `r${i}`, dag_id: "d", state, run_after: new Date(at * 1000).toISOString() });
    for (const { task = "label", ...more } of owned) {
      const raw = { key: `openai_batch_progress.${task}`, dag_id: "d", run_id: run.runId, task_id: task };
      const [job] = jobs.jobsOf([jobs.entryOf({ ...raw, timestamp: run.runAfter })]);
      const given = { version: 1, phase: "written", created_at: at, updated_at: at + 2 * HOUR, ...more };
      all.set(job, more.isUnreadable ? null : values.progressOf({ ...given, n_done: more.n_rows }));
    }
    return run;
  });
  const progressOf = (job) => all.get(job) ?? null;
  const points = (more = {}) => runs.pointsOf(made, [...all.keys()], progressOf, { now: START + HOUR, ...more });
  return { points, tasks: () => runs.tasksOf([...all.keys()], progressOf) };
}

const good = (n, cost, more = {}) => ({ jobs: [{ n_rows: n, by_status: { succeeded: n }, cost, ...more }] });
const nights = (n) => Array.from({ length: n }, (_, i) => good(1000 + i, 10 + i / 10));

test("runs are points, the oldest first, with their jobs added up", () => {
  const { points, tasks } = world(
    {
      jobs: [
        { task: "a", n_rows: 10, by_status: { succeeded: 9, failed: 1 }, cost: 1.5, reused_rows: 3 },
        { task: "b", n_rows: 4, by_status: { succeeded: 3, skipped: 1 }, cost: 0.25 },
      ],
    },
    { jobs: [{ task: "a", n_rows: 2, by_status: { succeeded: 2 }, cost: 1 }] },
  );
  assert.deepEqual(tasks(), ["a", "b"]);
  const [old, last] = points();
  assert.deepEqual([old.run.runId, old.cost, old.nRows], ["r1", 1, 2]);
  assert.deepEqual([last.cost, last.nRows, last.nAsked, last.nBad, last.reused], [1.75, 14, 13, 1, 3]);
  const [, one] = points({ task: "b" });
  assert.deepEqual([one.cost, one.nRows, one.reused], [0.25, 4, 0]);
  const [none] = points({ task: "b" });
  assert.deepEqual([none.state, none.cost, none.nRows], ["none", null, null]);
});

test("a run stands as its jobs do, and as the run itself does where they do not say it", () => {
  const state = (told) => world(told).points()[0].state;
  const phase = (one, state_ = "success") => state({ state: state_, jobs: [{ phase: one, n_rows: 1 }] });
  assert.equal(phase("written"), "done");
  assert.equal(phase("bad", "failed"), "bad");
  assert.equal(phase("held", "failed"), "held");
  assert.equal(phase("held", "running"), "held");
  assert.equal(phase("waiting", "running"), "going");
  assert.equal(phase("waiting", "failed"), "stopped");
  assert.equal(phase("planned"), "planned");
  assert.equal(phase("planned", "running"), "going");
  assert.equal(phase("done"), "done", "a Dag need not write results");
  assert.equal(phase("done", "failed"), "stopped");
  assert.equal(state({ state: "queued" }), "going");
  assert.equal(state({ state: "success" }), "none", "skipped");
  assert.equal(state({ jobs: [{ isUnreadable: true }] }), "unread");
  const several = { state: "failed", jobs: [{ task: "a", phase: "written" }, { task: "b", phase: "held" }] };
  assert.equal(state(several), "held", "the most urgent of several");
});

test("a night that costs three times as much as the others is unusual, in words too", () => {
  const points = world(good(3000, 31.2), ...nights(6)).points();
  const last = points.at(-1);
  assert.deepEqual(last.unusual.map(({ name, isAbove }) => [name, isAbove]), [["cost", true], ["rows", true]]);
  assert.match(last.unusual[0].text, /^cost \$31\.20, above the usual \$7\.\d\d to \$12\.\d\d$/);
  assert.match(runs.sentenceOf(last, () => "today"), /^Run of today\. State: Done\. Cost: \$31\.20\. .*Unusual: cost/);
  assert.deepEqual(runs.lastFinal(points), last);
  assert.deepEqual(points.slice(0, -1).flatMap((point) => point.unusual), []);
});

test("too few rows, many bad ones and many hours are unusual; fewer bad rows and less than minutes are not", () => {
  const names = (told) => world(told, ...nights(5)).points().at(-1).unusual.map(({ name, isAbove }) => [name, isAbove]);
  assert.deepEqual(names(good(10, 10)), [["rows", false]]);
  const bad = { jobs: [{ n_rows: 1000, by_status: { succeeded: 950, failed: 50 }, cost: 10 }] };
  assert.deepEqual(names(bad), [["bad", true]]);
  assert.deepEqual(names(good(1000, 10, { updated_at: START + 9 * HOUR })), [["seconds", true]]);
  assert.deepEqual(names(good(1000, 10, { updated_at: START + 2 * HOUR + 200 })), []);
  const some = Array.from({ length: 4 }, () => bad);
  assert.deepEqual(world(good(1000, 10), ...some).points().at(-1).unusual, [], "better than usual is no warning");
});

test("without enough runs before, and for runs that are not over, nothing is said to be unusual", () => {
  assert.deepEqual(world(good(1000, 99), ...nights(2)).points().at(-1).unusual, []);
  const going = { state: "running", jobs: [{ phase: "waiting", n_rows: 9000, by_status: {}, cost: 99 }] };
  assert.deepEqual(world(going, ...nights(6)).points().at(-1).unusual, []);
  const held = { state: "failed", jobs: [{ phase: "held", n_rows: 9000, by_status: {}, cost: 99 }] };
  const points = world(good(1000, 11), held, ...nights(3)).points();
  assert.deepEqual(points.at(-1).unusual, []);
  assert.ok(points.at(-1).usual.cost.to < 15, "a held run does not widen what is usual");
});

test("an unknown cost is not zero: it neither is unusual nor makes others so", () => {
  const unknown = { jobs: [{ n_rows: 1000, by_status: { succeeded: 1000 } }] };
  const points = world(good(1000, 10), unknown, unknown, ...nights(3)).points();
  assert.deepEqual(points.at(-1).unusual, []);
  assert.equal(points.at(-2).cost, null);
  assert.deepEqual(runs.figuresOf(points.at(-2))[1], ["Cost", "not known"]);
  const partly = good(1000, 1, { rows_without_price: 900 });
  const last = world(partly, ...nights(4)).points().at(-1);
  assert.deepEqual([last.isCostPartial, runs.costText(last), last.unusual], [true, "at least $1.00", []]);
});

test("of a run that goes on it is told what it costs so far, and what is expected", () => {
  const counts = { n_rows: 100, by_status: { succeeded: 40 } };
  const told = { phase: "waiting", ...counts, cost: 2, expected_cost: 5, created_at: START };
  const [point] = world({ state: "running", jobs: [told] }).points();
  assert.deepEqual(runs.figuresOf(point), [
    ["State", "Running"],
    ["Cost", "$2.00 so far"],
    ["Expected", "$5.00"],
    ["Rows", "100: 40 succeeded, 60 finished at OpenAI"],
    ["Time", "1 h so far"],
  ]);
  const [other] = world({ state: "running", jobs: [told, { ...told, task: "b", expected_cost: null }] }).points();
  assert.equal(other.expected, null, "what is expected of one of them is not known");
});

test("what is usual are the quartiles and what is near, and never less than a quarter around the middle", () => {
  assert.equal(runs.rangeOf([1, 2, null], { ratio: 0.25, slack: 0 }), null);
  assert.deepEqual(runs.rangeOf([8, 8, 8, 8], { ratio: 0.25, slack: 0 }), { from: 6, to: 10 });
  assert.deepEqual(runs.rangeOf([0, 10, 20, 30, 40], { ratio: 0, slack: 0 }), { from: 0, to: 60 });
  assert.deepEqual(runs.rangeOf([1, 1, 1], { ratio: 0.25, slack: 300 }), { from: 0, to: 301 });
});

test("axes have round numbers that hold all values", () => {
  assert.deepEqual(chart.decimalTicks(0), [0]);
  assert.deepEqual(chart.decimalTicks(31.2), [0, 20, 40]);
  assert.deepEqual(chart.decimalTicks(0.29), [0, 0.1, 0.2, 0.3]);
  assert.deepEqual(chart.decimalTicks(1200), [0, 500, 1000, 1500]);
  assert.deepEqual(chart.timeTicks(2 * HOUR), [0, HOUR, 2 * HOUR]);
  for (const most of [1e-9, 0.7, 3, 9.99, 10, 12345, 9e9]) {
    for (const ticks of [chart.decimalTicks(most), chart.timeTicks(most)]) {
      assert.ok(ticks.at(-1) >= most * (1 - 1e-9) && ticks.length <= 5, `${most}: ${ticks}`);
    }
  }
});

/** An API of a Dag with so many runs, each with so many entries of a task each. */
function api(nRuns, nEntries, { maxPage = 100 } = {}) {
  const calls = [];
  const at = (i) => new Date((START - i * HOUR) * 1000).toISOString();
  const raw = (i) => ({ dag_run_id: `r${i}`, dag_id: "d", state: "success", run_after: at(i) });
  const all = Array.from({ length: nRuns }, (_, i) => raw(i));
  return {
    calls,
    now: () => START,
    async runs(_, n) {
      calls.push("runs");
      return { dag_runs: all.slice(0, n) };
    },
    async keys({ runAfter, offset }) {
      calls.push("keys");
      const entries = all
        .filter((run) => Date.parse(run.run_after) / 1000 >= runAfter)
        .flatMap((run) =>
          Array.from({ length: nEntries }, (_, k) => ({
            key: `openai_batch_progress.t${k}`,
            dag_id: "d",
            run_id: run.dag_run_id,
            task_id: `t${k}`,
            timestamp: run.run_after,
          })),
        );
      // In no order of time, as Airflow 3.1.
      entries.sort((a, b) => a.key.localeCompare(b.key));
      return { xcom_entries: entries.slice(offset, offset + maxPage), total_entries: entries.length };
    },
  };
}

async function read(source) {
  const readValues = async (all) => source.calls.push(...all.map(() => "value"));
  const made = new history.History(source, { onChange: () => {}, progress: () => null, readValues }, "d");
  await made.look();
  return made;
}

const count = (calls, what) => calls.filter((call) => call === what).length;

test("thirty runs are read in one request for runs, one for keys and one for each job", async () => {
  const source = api(500, 1);
  const made = await read(source);
  assert.deepEqual([made.runs.length, made.jobs.length, made.isCut], [30, 30, false]);
  assert.deepEqual(["runs", "keys", "value"].map((what) => count(source.calls, what)), [1, 1, 30]);
});

test("however many jobs a run has, requests are bounded, and the runs that are shown are whole", async () => {
  for (const [nEntries, nRuns] of [[3, 30], [10, 15], [40, 3], [1000, 1]]) {
    const source = api(100, nEntries);
    const made = await read(source);
    assert.equal(made.runs.length, nRuns, `${nEntries} jobs in each run`);
    assert.equal(made.isCut, nRuns < 30);
    assert.ok(count(source.calls, "keys") <= 8, `${count(source.calls, "keys")} listings`);
    assert.ok(count(source.calls, "value") <= 300);
    assert.equal(made.isPartial, nEntries > 300);
    if (nEntries < 300) assert.equal(made.jobs.length, nRuns * nEntries, "no run is shown in part");
  }
});

test("a server with smaller pages is read all the same, and a Dag without runs is no error", async () => {
  const made = await read(api(30, 3, { maxPage: 20 }));
  assert.equal(made.jobs.length, 90);
  const none = await read(api(0, 3));
  assert.deepEqual([none.runs, none.jobs], [[], []]);
});
