// Mapped jobs as one row, what they add up to, and the order of rows.

import assert from "node:assert/strict";
import { test } from "node:test";

import { pure } from "./modules.mjs";

const [groups, jobs, values] = await pure("groups.js", "jobs.js", "values.js");

/** Make a job: of the mapped task "label" if it has an index. */
function job(index, { run = "r", dag = "d", task = "label" } = {}) {
  const owner = index === null ? task : `${task}.${index}`;
  const [made] = jobs.jobsOf([
    jobs.entryOf({
      key: `openai_batch_progress.${owner}`,
      dag_id: dag,
      run_id: run,
      task_id: task,
      map_index: index ?? -1,
      timestamp: "2026-11-25T10:00:00Z",
    }),
  ]);
  return made;
}

/** Make what is told of jobs: a function from a job to its progress. */
function told(...pairs) {
  const all = new Map(pairs.map(([one, more]) => [one, values.progressOf({ version: 1, phase: "waiting", ...more })]));
  return (one) => all.get(one) ?? null;
}

const nothing = () => null;
const running = () => "running";
const ids = (rows) => rows.map((row) => `${row.runId}/${row.taskId} ${row.jobs.length}`);

test("the mapped jobs of a run are one row; those of another run, and of a task that is not mapped, are not", () => {
  const rows = groups.rowsOf([job(0), job(null), job(1), job(0, { run: "r2" }), job(2)], nothing);
  assert.deepEqual(ids(rows), ["r/label 3", "r/label 1", "r2/label 1"]);
});

test("a group is the same before and after its values are read", () => {
  const [a, b] = [job(0), job(1)];
  const read = told([a, { job: { task_id: "label", map_index: 0 } }]);
  const [before] = groups.rowsOf([a, b], nothing);
  const [after, ...others] = groups.rowsOf([a, b], read);
  assert.equal(others.length, 0);
  assert.equal(after.id, before.id);
});

test("a group adds up its rows, outcomes, tokens and cost, and is as old as its oldest job", () => {
  const [a, b] = [job(0), job(1)];
  const read = told(
    [a, { n_rows: 10, n_done: 5, by_status: { succeeded: 4, failed: 1 }, usage: { input_tokens: 7 }, created_at: 9 }],
    [b, { n_rows: 30, n_done: 30, by_status: { succeeded: 30 }, usage: { input_tokens: 3 }, created_at: 5 }],
  );
  read(a).cost = 0.5;
  read(b).phase = "written";
  const total = groups.sumOf([a, b].map(read));
  assert.deepEqual([total.n_rows, total.n_done, total.byStatus], [40, 35, { succeeded: 34, failed: 1 }]);
  assert.deepEqual([total.usage, total.created_at, total.cost], [{ input_tokens: 10 }, 5, 0.5]);
  assert.equal(total.phase, "waiting", "one of them goes on");
  assert.equal(groups.sumOf([read(b)]).phase, "written");
  assert.equal(groups.sumOf([read(b), null]).phase, "waiting", "one of them was not read yet");
  assert.equal(groups.sumOf([null]), null);
  assert.equal(groups.sumOf([read(b)]).cost, null, "unknown is not zero");
});

test("a group names its standings, the most urgent first", () => {
  assert.deepEqual(groups.standingsOf(["done", "running", "held", "running"]), [
    ["held", 1],
    ["running", 2],
    ["done", 1],
  ]);
});

test("rows are sorted by a column and the other way round; what has no value comes last both times", () => {
  const [a, b, c] = [job(null, { dag: "a" }), job(null, { dag: "b" }), job(null, { dag: "c" })];
  const read = told([a, { usage: { input_tokens: 5 } }], [b, { usage: { input_tokens: 9 } }]);
  const order = (by, isReversed) =>
    groups.sorted(groups.rowsOf([c, a, b], read), { by, isReversed }, running, read).map((row) => row.dagName);
  assert.deepEqual(order("tokens", false), ["b", "a", "c"]);
  assert.deepEqual(order("tokens", true), ["a", "b", "c"]);
  assert.deepEqual(order("job", false), ["a", "b", "c"]);
  assert.deepEqual(order("job", true), ["c", "b", "a"]);
  assert.deepEqual(order(null, false), ["c", "a", "b"], "as they were heard of");
});

test("each column sorts by what it shows", () => {
  const [a, b] = [job(null, { dag: "a" }), job(null, { dag: "b" })];
  const read = told(
    [a, { n_rows: 10, n_done: 9, created_at: 100, deadline_at: 900, cost: 1 }],
    [b, { n_rows: 10, n_done: 1, created_at: 200, eta_at: 500, deadline_at: 1000, cost: 2 }],
  );
  const standing = (one) => (one === a ? "done" : "held");
  const first = (by, standingOf = running) =>
    groups.sorted(groups.rowsOf([a, b], read), { by, isReversed: false }, standingOf, read)[0].dagName;
  assert.equal(first("state", standing), "b", "what needs attention comes first");
  assert.equal(first("progress"), "a");
  assert.equal(first("cost"), "b");
  assert.equal(first("age"), "b", "the youngest first");
  assert.equal(first("ends"), "b", "its estimate is before the other's deadline");
});

test("members of a group are in the order of their numbers", () => {
  const members = [job(10), job(9), job(2)].map((one) => groups.rowsOf([one], nothing)[0]);
  const sorted = groups.sorted(members, { by: "job", isReversed: false }, running, nothing);
  assert.deepEqual(sorted.map((row) => row.jobs[0].entries[0].mapIndex), [2, 9, 10]);
});
