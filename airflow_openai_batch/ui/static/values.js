// What a Dag left in XCom becomes what the page may rely on. Anybody who writes a Dag can write anything there. Pure.

const VERSION = 1;
const LATEST_AT = 1e11;

/** Return a progress value with every field of its type, or null if it is none that this page understands. */
export function progressOf(value) {
  const found = object(parsed(value));
  if (found?.version !== VERSION) return null;
  const job = object(found.job) ?? {};
  return {
    job: { taskId: text(job.task_id), mapIndex: number(job.map_index) ?? -1 },
    phase: text(found.phase) ?? "waiting",
    live: found.live === true,
    cancelsOnKill: found.cancel_on_kill !== false,
    byStatus: counts(found.by_status),
    usage: counts(found.usage),
    phasesS: counts(found.phases_s),
    batches: list(found.batches).map(batchOf),
    errors: list(found.errors).map(errorOf),
    ...pick(found, text, ["problem", "endpoint", "model", "output", "host"]),
    ...pick(found, moment, ["updated_at", "created_at", "deadline_at", "expires_at", "eta_at"]),
    ...pick(found, number, [
      "n_rows",
      "n_done",
      "rate_per_h",
      "n_shards",
      "n_settled",
      "n_unsent",
      "n_batches",
      "n_running",
      "round",
    ]),
  };
}

/** Return the shards in a value, or null. */
export function shardsOf(value) {
  const found = object(parsed(value));
  if (found?.version !== VERSION || !Array.isArray(found.shards)) return null;
  return {
    n_shards: number(found.n_shards) ?? found.shards.length,
    updated_at: moment(found.updated_at),
    shards: found.shards.map(shardOf),
  };
}

function shardOf(value) {
  const found = object(value) ?? {};
  return {
    tally: counts(found.tally),
    batch: object(found.batch) ? batchOf(found.batch) : null,
    past_batches: list(found.past_batches).map(String),
    ...pick(found, text, ["id", "state", "parent", "problem"]),
    ...pick(found, number, ["round", "n_rows", "n_bytes", "n_waits"]),
    not_before: moment(found.not_before),
  };
}

function batchOf(value) {
  const found = object(value) ?? {};
  return { ...pick(found, text, ["id", "status"]), ...pick(found, number, ["n_total", "n_completed", "n_failed"]) };
}

function errorOf(value) {
  const found = object(value) ?? {};
  return {
    ...pick(found, text, ["status", "code"]),
    n: number(found.n),
    customIds: list(found.custom_ids).map(String),
  };
}

/** API servers may hand out JSON as text. */
function parsed(value) {
  if (typeof value !== "string") return value;
  try {
    return JSON.parse(value);
  } catch {
    return null;
  }
}

function pick(found, kind, names) {
  return Object.fromEntries(names.map((name) => [name, kind(found[name])]));
}

function text(value) {
  return typeof value === "string" && value !== "" ? value : null;
}

function number(value) {
  return typeof value === "number" && Number.isFinite(value) ? value : null;
}

/** Epoch seconds; what no calendar holds is no moment. */
function moment(value) {
  const at = number(value);
  return at !== null && at > 0 && at < LATEST_AT ? at : null;
}

function object(value) {
  return value !== null && typeof value === "object" && !Array.isArray(value) ? value : null;
}

function list(value) {
  return Array.isArray(value) ? value : [];
}

function counts(value) {
  return Object.fromEntries(Object.entries(object(value) ?? {}).filter(([, n]) => number(n) !== null && n >= 0));
}
