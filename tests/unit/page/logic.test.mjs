// The page's pure parts: entries of the API become jobs, standings, parts and words.

import assert from "node:assert/strict";
import { test } from "node:test";

import { pure } from "./modules.mjs";

const names = ["jobs.js", "format.js", "place.js", "values.js", "batches.js"];
const [jobs, format, place, values, batches] = await pure(...names);

const entry = (more = {}) => ({
  key: "openai_batch_progress.submit",
  dag_id: "d",
  run_id: "r",
  task_id: "submit",
  map_index: -1,
  timestamp: "2026-11-25T10:00:00.000001Z",
  ...more,
});
const known = (...raw) => jobs.jobsOf(raw.map((one) => jobs.entryOf(one)).filter(Boolean));
const states = (...pairs) =>
  new Map(
    pairs.map(([taskId, state]) => [jobs.instanceId({ dagId: "d", runId: "r", taskId, mapIndex: -1 }), { state }]),
  );
const progress = (more = {}) =>
  values.progressOf({ version: 1, phase: "waiting", n_rows: 10, n_done: 0, by_status: {}, ...more });

test("entries of the tasks of one job are one job, the newest entry first", () => {
  const [job, ...others] = known(
    entry(),
    entry({ task_id: "wait", timestamp: "2026-11-25T11:00:00Z" }),
    entry({ task_id: "results", timestamp: "2026-11-25T10:30:00Z" }),
  );
  assert.equal(others.length, 0);
  assert.deepEqual(
    job.entries.map((one) => one.taskId),
    ["wait", "results", "submit"],
  );
});

test("other runs, other Dags and other owners are other jobs; the one heard of last is first", () => {
  const found = known(
    entry(),
    entry({ run_id: "r2", timestamp: "2026-11-25T12:00:00Z" }),
    entry({ dag_id: "d2" }),
    entry({ key: "openai_batch_progress.submit.3", map_index: 3 }),
  );
  assert.equal(found.length, 4);
  assert.equal(found[0].runId, "r2");
});

test("keys that only look alike are no jobs", () => {
  assert.deepEqual(
    known(entry({ key: "my_openai_batch_progress.x" }), entry({ key: "openai_batch_progress" }), entry({ key: 3 })),
    [],
  );
});

test("a job is named by its owner, with the index of a mapped task", () => {
  const [job] = known(entry({ key: "openai_batch_progress.group.label.7", map_index: 7 }));
  assert.equal(jobs.ownerName(job, progress({ job: { task_id: "group.label", map_index: 7 } })), "group.label [7]");
  assert.equal(jobs.ownerName(job, null), "group.label [7]", "before its value is read");
  const [other] = known(entry({ key: "openai_batch_progress.group.7", task_id: "wait" }));
  assert.equal(jobs.ownerName(other, null), "group.7", "a task's own name may end like that");
  assert.equal(jobs.shardsKey(job), "openai_batch_shards.group.label.7");
});

test("a standing is the phase, seen with the states of the tasks", () => {
  const [job] = known(entry(), entry({ task_id: "wait" }));
  const at = (phase, ...pairs) => jobs.standingOf(job, progress({ phase }), states(...pairs));
  assert.equal(jobs.standingOf(job, null, states()), "loading");
  assert.equal(at("waiting", ["submit", "success"], ["wait", "deferred"]), "running");
  assert.equal(at("waiting", ["submit", "success"]), "running", "nothing is known of the sensor yet");
  assert.equal(at("queued", ["wait", "deferred"]), "queued");
  assert.equal(at("planned", ["submit", "success"]), "planned");
  assert.equal(at("planned", ["submit", "skipped"]), "planned", "a run that only plans skips its tasks");
  assert.equal(at("waiting", ["submit", "success"], ["wait", "failed"]), "stopped");
  assert.equal(at("waiting", ["submit", "failed"], ["wait", "deferred"]), "running", "somebody still works on it");
  assert.equal(at("waiting", ["wait", "up_for_retry"]), "running");
  assert.equal(at("done", ["wait", "success"]), "answered");
  assert.equal(at("done", ["wait", "failed"]), "stopped");
  assert.equal(at("held", ["wait", "failed"]), "held");
  assert.equal(at("written", ["wait", "failed"]), "done");
  assert.equal(at("bad", ["wait", "failed"]), "bad");
});

test("a job can be cancelled only where marking its task failed does cancel it: while a trigger waits", () => {
  const [job] = known(entry(), entry({ task_id: "wait" }));
  const found = (more, ...pairs) => jobs.cancellableTask(job, progress(more), states(...pairs))?.taskId ?? null;
  assert.equal(found({}, ["submit", "success"], ["wait", "deferred"]), "wait");
  assert.equal(found({ phase: "queued" }, ["submit", "running"], ["wait", "deferred"]), "wait");
  for (const state of ["running", "success", "failed", "queued", "up_for_retry", "up_for_reschedule", "scheduled"]) {
    assert.equal(found({}, ["wait", state]), null, state);
  }
  assert.equal(found({ cancel_on_kill: false }, ["wait", "deferred"]), null, "its Dag does not let it");
  for (const phase of ["done", "written", "bad", "held"]) {
    assert.equal(found({ phase }, ["wait", "deferred"]), null, phase);
  }
});

test("states of tasks are read only where they decide how a job stands", () => {
  for (const phase of ["waiting", "queued", "done"]) assert.equal(jobs.needsStates(progress({ phase })), true, phase);
  for (const phase of ["written", "bad", "held"]) assert.equal(jobs.needsStates(progress({ phase })), false, phase);
  assert.equal(jobs.needsStates(null), false);
});

test("the parts of a bar are the rows, whatever the counts say", () => {
  const parts = jobs.partsOf(
    progress({ n_rows: 100, n_done: 70, by_status: { failed: 2, succeeded: 50, strange: 1, refused: 0 } }),
  );
  assert.deepEqual(
    parts.outcomes.map((part) => part.status),
    ["succeeded", "failed", "strange"],
  );
  assert.equal(parts.nSettled + parts.nAnswered + parts.nOpen, 100);
  assert.equal(parts.nAnswered, 17);
  const lies = jobs.partsOf(progress({ n_rows: 10, n_done: 99, by_status: { succeeded: 4 } }));
  assert.deepEqual([lies.nDone, lies.nAnswered, lies.nOpen], [10, 6, 0]);
});

test("a cost is a number or exact text, and unknown is not zero", () => {
  assert.equal(progress({ cost: 0.25 }).cost, 0.25);
  assert.equal(progress({ cost: "0.000000125" }).cost, 0.000000125);
  assert.equal(progress({ cost: 0 }).cost, 0);
  for (const cost of [undefined, null, "", "free", -1, {}, NaN]) {
    assert.equal(progress({ cost }).cost, null, String(cost));
  }
});

test("rows that were not sent have a place of their own", () => {
  const [part] = jobs.partsOf(progress({ n_rows: 3, by_status: { skipped: 3 } })).outcomes;
  assert.deepEqual([part.kind, part.n], ["skipped", 3]);
});

test("values of other versions and other things are not read as progress", () => {
  for (const value of [{ version: 2 }, "no json", "[]", null, 7, [], undefined])
    assert.equal(values.progressOf(value), null);
  assert.equal(
    values.progressOf('{"version": 1, "phase": "done"}').phase,
    "done",
    "some API servers hand out JSON as text",
  );
  for (const value of [{ version: 1, shards: "x" }, { version: 1 }, null]) assert.equal(values.shardsOf(value), null);
});

test("whatever a Dag has left there, every field has its type", () => {
  const odd = values.progressOf({
    version: 1,
    phase: 3,
    job: "x",
    n_rows: "12",
    by_status: { succeeded: "3", failed: -1, refused: 2 },
    usage: [],
    phases_s: 5,
    batches: [null, { id: 4 }],
    errors: [{ custom_ids: "abc", n: "x" }, 1],
    eta_at: 1e300,
    created_at: -5,
    updated_at: NaN,
    problem: {},
  });
  assert.deepEqual(odd.byStatus, { refused: 2 });
  assert.equal(odd.batches.length, 2);
  assert.deepEqual(odd.errors[0], { status: null, code: null, n: null, customIds: [] });
  for (const name of ["cost", "dead_letter", "n_rows", "eta_at", "created_at", "updated_at", "problem"]) assert.equal(odd[name], null, name);
  assert.equal(jobs.partsOf(odd).nRows, 2);
  const { shards } = values.shardsOf({
    version: 1,
    shards: [null, { id: "a", tally: { x: "1" }, batch: [], past_batches: [5] }],
  });
  assert.deepEqual([shards[1].id, shards[1].tally, shards[1].batch, shards[1].past_batches], ["a", {}, null, ["5"]]);
});

test("a place is read from the query as Airflow fills it, also as 3.1 does: without encoding", () => {
  const run = "scheduled__2026-11-25T00:00:00+00:00";
  const wanted = { dagId: "d", runId: run, taskId: "t", mapIndex: -1 };
  assert.deepEqual(
    place.placeOf(`?dag_id=d&run_id=${encodeURIComponent(run)}&task_id=t&map_index=%7BMAP_INDEX%7D`),
    wanted,
  );
  assert.deepEqual(place.placeOf(`?dag_id=d&run_id=${run}&task_id=t&map_index={MAP_INDEX}`), wanted);
  assert.equal(place.placeOf("?dag_id=d&run_id=r&task_id=t&map_index=4").mapIndex, 4);
  assert.deepEqual(place.placeOf(""), { dagId: null, runId: null, taskId: null, mapIndex: null });
});

test("a job's part of the address survives a round trip", () => {
  const job = { dagId: "a/b #1", runId: "manual__2026+00:00%", key: "openai_batch_progress.x" };
  assert.deepEqual(place.jobOfHash(place.jobHash(job)), job);
  for (const hash of ["", "#", "#a", "#a//b"]) assert.equal(place.jobOfHash(hash), null);
});

test("a batch has one state: the one that was seen last", () => {
  const { shards } = values.shardsOf({
    version: 1,
    shards: ["running", "running", "uploaded", "settled"].map((state, i) => ({
      id: `s${i}`,
      state,
      batch: { id: `b${i}`, status: "in_progress" },
    })),
  });
  const latest = { n_running: 1, batches: [{ id: "b0", status: "finalizing" }] };
  const seen = (at, more) => progress({ updated_at: at, ...latest, ...more });
  const states = (at, more) => shards.map((shard) => batches.stateOf(shard, seen(at, more), 100));
  assert.deepEqual(states(200), ["finalizing", "ended", "uploaded", "settled"], "a trigger has seen that b1 ended");
  assert.deepEqual(states(100), ["finalizing", "in_progress", "uploaded", "settled"]);
  assert.deepEqual(states(200, { n_running: 2 })[1], "in_progress", "not all that run are listed");
});

test("links to the dashboard exist for OpenAI's hosts alone", () => {
  assert.equal(place.dashboardLink("batch_1", "api.openai.com"), "https://platform.openai.com/batches/batch_1");
  assert.equal(place.dashboardLink("batch_1", "eu.api.openai.com"), "https://platform.openai.com/batches/batch_1");
  for (const host of ["127.0.0.1", "openai.com.example.org", "notopenai.com", "", null])
    assert.equal(place.dashboardLink("batch_1", host), null);
  assert.equal(place.dashboardLink("../x?y", "openai.com"), "https://platform.openai.com/batches/..%2Fx%3Fy");
});

test("Airflow's addresses stay below its root, also behind a prefix", () => {
  const links = place.airflowLinks("https://x.example/team/airflow/");
  const at = { dagId: "d", runId: "r+1", taskId: "g.t", mapIndex: 2 };
  assert.equal(links.log(at), "https://x.example/team/airflow/dags/d/runs/r%2B1/tasks/g.t/mapped/2");
  assert.equal(
    links.job({ dagId: "d", runId: "r+1", key: "openai_batch_progress.g.t" }),
    "https://x.example/team/airflow/plugin/openai-batches#d/r%2B1/openai_batch_progress.g.t",
  );
  assert.equal(links.log({ ...at, mapIndex: -1 }), "https://x.example/team/airflow/dags/d/runs/r%2B1/tasks/g.t");
});

test("numbers and times read well", () => {
  assert.equal(format.count(1234567), "1,234,567");
  assert.equal(format.count(undefined), "–");
  assert.equal(format.short(1234567), "1.2M");
  assert.equal(format.counted(1, "batch"), "1 batch");
  assert.equal(format.counted(1200, "batch"), "1,200 batches");
  assert.equal(format.percent(999999, 1000000), ">99.9%");
  assert.equal(format.percent(1, 1000000), "<0.1%");
  assert.equal(format.percent(625, 1000), "62.5%");
  assert.equal(format.percent(0, 0), "–");
  assert.equal(format.donePercent({ nDone: 10, nRows: 10 }, false), ">99%", "finished at OpenAI is not done");
  assert.equal(format.donePercent({ nDone: 10, nRows: 10 }, true), "100%");
  assert.equal(format.donePercent({ nDone: 5, nRows: 10 }, false), "50%");
  assert.equal(format.donePercent({ nDone: 0, nRows: 0 }, true), "–");
  assert.equal(format.dollars(12.345), "$12.35");
  assert.equal(format.dollars(1234), "$1,234.00");
  assert.equal(format.dollars(0.00012), "$0.00012");
  assert.equal(format.dollars(0), "$0.00");
  assert.equal(format.dollars(null), "–");
  assert.equal(format.duration(0.3), "<1 s");
  assert.equal(format.duration(7380), "2 h 3 min");
  assert.equal(format.duration(90000), "1 d 1 h");
  assert.equal(format.relative(1000, 400), "in 10 min");
  assert.equal(format.relative(400, 1000), "10 min ago");
  assert.equal(format.bytes(213456), "213 kB");
});
