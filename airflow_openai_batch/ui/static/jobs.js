// From what Airflow's API returns to jobs: XCom keys, progress values and task instances. Pure.

export const PROGRESS_KEY = "openai_batch_progress";
export const SHARDS_KEY = "openai_batch_shards";

/** Outcomes in the order in which they are shown, and what each means for cost and result. */
export const OUTCOMES = {
  succeeded: { kind: "good", says: "a usable answer" },
  refused: { kind: "poor", says: "the model refused" },
  truncated: { kind: "poor", says: "the answer is cut off" },
  invalid: { kind: "poor", says: "the answer does not match the schema" },
  failed: { kind: "bad", says: "the API's error" },
  missing: { kind: "bad", says: "no line came back" },
  expired: { kind: "lost", says: "not begun in time, unbilled" },
  cancelled: { kind: "lost", says: "cancelled before it began, unbilled" },
  skipped: { kind: "skipped", says: "not sent, as the prompt is empty; unbilled" },
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
/** Phases in which the results are written. */
export const OVER = new Set(["written", "bad"]);

/** The standings of a job, the most urgent first, and the filter's group of each. */
export const STANDINGS = {
  held: { label: "Held", group: "attention", says: "A person must act." },
  bad: {
    label: "Bad rows",
    group: "attention",
    says: "The results are written, and worse than the job's thresholds allow.",
  },
  stopped: {
    label: "Stopped",
    group: "attention",
    says: "No task works on it any more. Clearing the failed task takes the job up again.",
  },
  planned: {
    label: "Planned",
    group: "active",
    says: "Nothing was sent, and nothing is before a task that waits for the job begins.",
  },
  running: { label: "Running", group: "active", says: "Batches run at OpenAI." },
  queued: {
    label: "Queued",
    group: "active",
    says: "Waits for room or for its turn; nothing of it runs at OpenAI now.",
  },
  answered: { label: "Answered", group: "active", says: "All outcomes are fetched; the results are not written yet." },
  done: { label: "Done", group: "done", says: "The results are written." },
  loading: { label: "…", group: "active", says: "Not read yet, or you may not read the states of its tasks." },
};

export const GROUPS = { all: "All", active: "Active", attention: "Needs attention", done: "Done" };

/** Return the key of a task instance for maps. */
export function instanceId(at) {
  return JSON.stringify([at.dagId, at.runId, at.taskId, at.mapIndex]);
}

/** Convert an entry of the API's listing of XCom keys; null if its key has another prefix. */
export function entryOf(raw, prefix = PROGRESS_KEY) {
  if (typeof raw?.key !== "string" || !raw.key.startsWith(`${prefix}.`)) return null;
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

/** Group entries into jobs, most recently updated first. A job's entries are in the same order. */
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

/** Return the task that the job belongs to: `{taskId, mapIndex}`, from its value or, before that is read, its key. */
export function ownerOf(job, progress) {
  if (progress?.job.taskId) return progress.job;
  const name = job.key.slice(PROGRESS_KEY.length + 1);
  const { mapIndex } = job.entries[0];
  const ending = `.${mapIndex}`;
  if (mapIndex < 0 || !name.endsWith(ending)) return { taskId: name, mapIndex: -1 };
  return { taskId: name.slice(0, -ending.length), mapIndex };
}

/** Return the display name of the job's owner: "submit", or "label [3]" of a mapped task. */
export function ownerName(job, progress) {
  const owner = ownerOf(job, progress);
  return owner.mapIndex >= 0 ? `${owner.taskId} [${owner.mapIndex}]` : owner.taskId;
}

/** Return the XCom key of the job's shards. */
export function shardsKey(job) {
  return SHARDS_KEY + job.key.slice(PROGRESS_KEY.length);
}

/** Whether how a job stands depends on the states of its tasks: its phase alone does not say it. */
export function needsStates(progress) {
  return ["waiting", "asking", "queued", "done"].includes(progress?.phase);
}

/** Return a job's standing: its phase together with the states of the tasks that work on it. */
export function standingOf(job, progress, instances) {
  if (!progress) return "loading";
  if (OVER.has(progress.phase)) return progress.phase === "bad" ? "bad" : "done";
  const states = job.entries.map((entry) => instances.get(instanceId(entry))?.state).filter(Boolean);
  const isAlive = states.some((state) => ALIVE.has(state));
  // A retry may resolve what is held; until then it needs manual intervention.
  if (progress.phase === "held") return "held";
  // A task that only plans may well be skipped: nothing is left to take up.
  if (progress.phase === "planned") return "planned";
  if (!isAlive && states.some((state) => FAILED.has(state))) return "stopped";
  if (progress.phase === "done") return "answered";
  return progress.phase === "queued" ? "queued" : "running";
}

/**
 * Return the task instance whose trigger cancels the job's batches when it is marked failed, or null if none does:
 * the task must wait in a trigger, and the Dag must let it.
 */
export function cancellableTask(job, progress, instances) {
  if (!progress?.cancelsOnKill || !["waiting", "queued"].includes(progress.phase)) return null;
  const tasks = job.entries.map((entry) => ({ ...entry, state: instances.get(instanceId(entry))?.state }));
  return tasks.find((task) => task.state === "deferred") ?? null;
}

/** Return the parts of the progress bar: outcomes with their counts, in order, and the other rows. */
export function partsOf(progress) {
  const { byStatus } = progress;
  const listed = Object.keys(OUTCOMES).filter((status) => byStatus[status] > 0);
  const others = Object.keys(byStatus)
    .filter((status) => !(status in OUTCOMES) && byStatus[status] > 0)
    .sort();
  const outcomes = [...listed, ...others].map((status) => ({
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

/** Return a job's counts as a text, for screen readers and the bar. */
export function countsText(parts, format) {
  const words = parts.outcomes.map((part) => `${format(part.n)} ${part.status}`);
  if (parts.nAnswered) words.push(`${format(parts.nAnswered)} finished at OpenAI`);
  return words.join(", ") || "no row finished yet";
}

/** Convert a task instance of the API. */
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
