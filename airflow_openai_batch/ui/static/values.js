// Validation of XCom values, which any Dag author can write. Pure.

const VERSION = 1;
const LATEST_AT = 1e11;

/** Return a progress value with every field of its type, or null if this page does not understand it. */
export function progressOf(value) {
  const fields = object(parsed(value));
  if (fields?.version !== VERSION) return null;
  const job = object(fields.job) ?? {};
  return {
    job: { taskId: text(job.task_id), mapIndex: number(job.map_index) ?? -1 },
    phase: text(fields.phase) ?? "waiting",
    live: fields.live === true,
    cancelsOnKill: fields.cancel_on_kill !== false,
    byStatus: counts(fields.by_status),
    usage: counts(fields.usage),
    ...pick(fields, amount, ["cost", "expected_cost", "upper_cost", "max_cost"]),
    // What older versions do not tell is none of it.
    cost_of_bad_rows: amount(fields.cost_of_bad_rows) ?? 0,
    saved: amount(fields.saved) ?? 0,
    saved_by_reuse: amount(fields.saved_by_reuse) ?? 0,
    reused_rows: number(fields.reused_rows) ?? 0,
    rows_without_price: number(fields.rows_without_price) ?? 0,
    phasesS: counts(fields.phases_s),
    batches: list(fields.batches).map(batchOf),
    errors: list(fields.errors).map(errorOf),
    ...pick(fields, text, [
      "problem",
      "limit",
      "endpoint",
      "model",
      "output",
      "dead_letter",
      "host",
      "estimate_basis",
      "estimate_unknown",
    ]),
    ...pick(fields, moment, ["updated_at", "created_at", "deadline_at", "expires_at", "eta_at", "finish_at"]),
    forecast: forecastOf(fields.forecast),
    ...pick(fields, number, [
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

/** A forecast; null if it is none, as of older versions. */
function forecastOf(value) {
  const fields = object(value);
  if (!fields || !["jobs", "batches"].includes(fields.basis)) return null;
  const isStep = (step) => Array.isArray(step) && moment(step[0]) !== null && step[1] >= 0 && step[1] <= 1;
  return {
    basis: fields.basis,
    nEarlier: number(fields.n_earlier) ?? 0,
    nShorter: number(fields.n_shorter) ?? 0,
    steps: list(fields.steps).filter(isStep),
  };
}

/** Return the shards in a value, or null. */
export function shardsOf(value) {
  const fields = object(parsed(value));
  if (fields?.version !== VERSION || !Array.isArray(fields.shards)) return null;
  return {
    n_shards: number(fields.n_shards) ?? fields.shards.length,
    updated_at: moment(fields.updated_at),
    shards: fields.shards.map(shardOf),
  };
}

function shardOf(value) {
  const fields = object(value) ?? {};
  return {
    tally: counts(fields.tally),
    batch: object(fields.batch) ? batchOf(fields.batch) : null,
    past_batches: list(fields.past_batches).map(String),
    ...pick(fields, text, ["id", "state", "parent", "problem"]),
    ...pick(fields, number, ["round", "n_rows", "n_bytes", "n_waits"]),
    ...pick(fields, moment, ["not_before", "settled_at"]),
  };
}

function batchOf(value) {
  const fields = object(value) ?? {};
  return {
    ...pick(fields, text, ["id", "status"]),
    ...pick(fields, number, ["n_total", "n_completed", "n_failed"]),
    ...pick(fields, moment, ["created_at", "in_progress_at", "ended_at"]),
  };
}

function errorOf(value) {
  const fields = object(value) ?? {};
  return {
    ...pick(fields, text, ["status", "code"]),
    n: number(fields.n),
    customIds: list(fields.custom_ids).map(String),
  };
}

/** API servers may return JSON as text. */
function parsed(value) {
  if (typeof value !== "string") return value;
  try {
    return JSON.parse(value);
  } catch {
    return null;
  }
}

function pick(fields, convert, names) {
  return Object.fromEntries(names.map((name) => [name, convert(fields[name])]));
}

function text(value) {
  return typeof value === "string" && value !== "" ? value : null;
}

function number(value) {
  return typeof value === "number" && Number.isFinite(value) ? value : null;
}

/** Dollars, as a number or as exact text; null if there are none. */
function amount(value) {
  const dollars = typeof value === "string" && value.trim() !== "" ? Number(value) : number(value);
  return dollars !== null && Number.isFinite(dollars) && dollars >= 0 ? dollars : null;
}

/** Epoch seconds, or null if no calendar date has them. */
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
