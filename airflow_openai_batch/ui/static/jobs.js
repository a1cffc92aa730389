// From what Airflow's API returns to jobs: XCom keys, progress values and task instances. Pure.

export const PROGRESS_KEY = "openai_batch_progress";
export const SHARDS_KEY = "openai_batch_shards";

/** Outcomes in the order in which they are shown, and what each is to the person who pays. */
export const OUTCOMES = {
  succeeded: { kind: "good", says: "a usable answer" },
  refused: { kind: "poor", says: "the model refused" },
  truncated: { kind: "poor", says: "the answer is cut off" },
  invalid: { kind: "poor", says: "the answer does not match the schema" },
  failed: { kind: "bad", says: "the API's error" },
  missing: { kind: "bad", says: "no line came back" },
  expired: { kind: "lost", says: "not begun in time, unbilled" },
  cancelled: { kind: "lost", says: "cancelled before it began, unbilled" },
};

const ALIVE = new Set([
  "running",
  "deferred",
  "queued",
  "scheduled",
  "restarting",
  "up_for_retry",
  "up_for_reschedule",
]);
const FAILED = new Set(["failed", "upstream_failed", "removed", "skipped"]);
/** Task states in which a job's waiting task can be marked failed so that its batches are cancelled. */
const CANCELLABLE = new Set(["deferred", "running"]);

/** What a job can be, and the group of the filter that it belongs to. */
export const STANDINGS = {
  loading: { label: "…", group: "active", says: "" },
  running: { label: "Running", group: "active", says: "Batches run at OpenAI." },
  queued: {
    label: "Queued",
    group: "active",
    says: "Waits for room or for its turn; nothing of it runs at OpenAI now.",
  },
  answered: { label: "Answered", group: "active", says: "All outcomes are fetched; the results are not written yet." },
  done: { label: "Done", group: "done", says: "The results are written." },
  bad: {
    label: "Bad rows",
    group: "attention",
    says: "The results are written, and worse than the job's thresholds allow.",
  },
  held: { label: "Held", group: "attention", says: "A person must act." },
  stopped: {
    label: "Stopped",
    group: "attention",
    says: "No task works on it any more. Clearing the failed task takes the job up again.",
  },
};

export const GROUPS = { all: "All", active: "Active", attention: "Needs attention", done: "Done" };

/** Return one text for a task instance, for maps. */
export function instanceId(at) {
  return JSON.stringify([at.dagId, at.runId, at.taskId, at.mapIndex]);
}

/** Turn an entry of the API's listing of XCom keys into ours; null if it is not of the kind. */
export function entryOf(raw, kind = PROGRESS_KEY) {
  if (typeof raw?.key !== "string" || !raw.key.startsWith(`${kind}.`)) return null;
  return {
    dagId: raw.dag_id,
    dagName: raw.dag_display_name ?? raw.dag_id,
    runId: raw.run_id,
    taskId: raw.task_id,
    taskName: raw.task_display_name ?? raw.task_id,
    mapIndex: raw.map_index ?? -1,
    key: raw.key,
    timestamp: raw.timestamp,
    at: Date.parse(raw.timestamp) / 1000 || 0,
  };
}

/** Group entries into jobs, the one that was heard of last first. A job's entries are in the same order. */
export function jobsOf(entries) {
  const jobs = new Map();
  for (const entry of [...entries].sort((a, b) => b.at - a.at)) {
    const id = JSON.stringify([entry.dagId, entry.runId, entry.key]);
    const job = jobs.get(id);
    if (job) job.entries.push(entry);
    else
      jobs.set(id, {
        id,
        dagId: entry.dagId,
        dagName: entry.dagName,
        runId: entry.runId,
        key: entry.key,
        entries: [entry],
      });
  }
  return [...jobs.values()];
}

/** Return the name of the job's owner for people: "submit", or "label [3]" of a mapped task. */
export function ownerName(job, progress) {
  const owner = progress?.job;
  if (!owner?.taskId) return job.key.slice(PROGRESS_KEY.length + 1);
  return owner.mapIndex >= 0 ? `${owner.taskId} [${owner.mapIndex}]` : owner.taskId;
}

/** Return the XCom key of the job's shards. */
export function shardsKey(job) {
  return SHARDS_KEY + job.key.slice(PROGRESS_KEY.length);
}

/** Say where a job stands: its phase, seen with the states of the tasks that work on it. */
export function standingOf(job, progress, instances) {
  if (!progress) return "loading";
  if (progress.phase === "written") return "done";
  if (progress.phase === "bad") return "bad";
  const states = job.entries.map((entry) => instances.get(instanceId(entry))?.state).filter(Boolean);
  const isAlive = states.some((state) => ALIVE.has(state));
  // A retry may mend what is held; until then a person should know.
  if (progress.phase === "held") return "held";
  if (!isAlive && states.some((state) => FAILED.has(state))) return "stopped";
  if (progress.phase === "done") return "answered";
  return progress.phase === "queued" ? "queued" : "running";
}

/** Return the task instance that waits for the job and can be marked failed, or null. */
export function waitingTask(job, progress, instances) {
  if (!progress || !["waiting", "queued"].includes(progress.phase)) return null;
  const found = job.entries.map((entry) => ({ ...entry, state: instances.get(instanceId(entry))?.state }));
  return found.find((at) => at.state === "deferred") ?? found.find((at) => CANCELLABLE.has(at.state)) ?? null;
}

/** Return outcomes with their counts in order, and how many rows are where: the parts of the progress bar. */
export function partsOf(progress) {
  const { byStatus } = progress;
  const known = Object.keys(OUTCOMES).filter((status) => byStatus[status] > 0);
  const others = Object.keys(byStatus)
    .filter((status) => !(status in OUTCOMES) && byStatus[status] > 0)
    .sort();
  const outcomes = [...known, ...others].map((status) => ({
    status,
    n: byStatus[status],
    kind: OUTCOMES[status]?.kind ?? "bad",
    says: OUTCOMES[status]?.says ?? "",
  }));
  const nSettled = outcomes.reduce((sum, part) => sum + part.n, 0);
  const nRows = Math.max(progress.n_rows ?? 0, nSettled);
  const nDone = Math.min(nRows, Math.max(progress.n_done ?? 0, nSettled));
  return { outcomes, nRows, nDone, nSettled, nAnswered: nDone - nSettled, nOpen: nRows - nDone };
}

/** Name a job's standing in figures, for screen readers and as the bar's text. */
export function countsText(parts, format) {
  const words = parts.outcomes.map((part) => `${format(part.n)} ${part.status}`);
  if (parts.nAnswered) words.push(`${format(parts.nAnswered)} finished at OpenAI`);
  return words.join(", ") || "no row finished yet";
}

/** Return the body of the one request that asks for the states of all tasks of these jobs. */
export function statesQuery(jobs) {
  const unique = (pick) => [...new Set(jobs.flatMap((job) => job.entries.map(pick)))];
  return {
    dag_ids: unique((entry) => entry.dagId),
    dag_run_ids: unique((entry) => entry.runId),
    task_ids: unique((entry) => entry.taskId),
    page_limit: 300,
  };
}

/** Turn a task instance of the API into ours. */
export function instanceOf(raw) {
  return {
    dagId: raw.dag_id,
    runId: raw.dag_run_id,
    taskId: raw.task_id,
    mapIndex: raw.map_index ?? -1,
    state: raw.state,
    tryNumber: raw.try_number,
    operator: raw.operator_name ?? raw.operator ?? "",
  };
}

/** Count jobs by group of the filter. */
export function countGroups(standings) {
  const counts = { all: 0, active: 0, attention: 0, done: 0 };
  for (const standing of standings) {
    counts.all += 1;
    counts[STANDINGS[standing].group] += 1;
  }
  return counts;
}
