// Airflow's public REST API with the viewer's own session: the browser adds the cookie, this code holds no key.

const AT_ONCE = 6;
const TIMEOUT_MS = 30_000;
/** Airflow returns at most `[api] maximum_page_limit` entries, 100 by default. */
export const PAGE = 100;

/** A failed call. `status` is the HTTP status, 0 without a response. */
export class ApiFailure extends Error {
  constructor(status, detail) {
    super(detail || `HTTP ${status}`);
    this.status = status;
  }
}

export class Api {
  /** `root` is the address of Airflow's UI, with a slash at its end; `ownRoot` that of the package, without one. */
  constructor(root, ownRoot) {
    this.root = `${root}api/v2`;
    this.ownRoot = ownRoot;
    this.skewS = 0;
    /** Whether this Airflow sorts XComs; null until it is known. */
    this.canSort = null;
    this.waiting = [];
    this.running = 0;
  }

  /** The server's time in epoch seconds, estimated from its responses. */
  now() {
    return Date.now() / 1000 + this.skewS;
  }

  /** Return one page of XCom keys, without values, newest first where Airflow can sort them (3.3; 3.1 cannot). */
  keys({
    dagId,
    runId,
    taskId,
    mapIndex,
    key,
    pattern,
    dag,
    run,
    runAfter,
    offset = 0,
    limit = PAGE,
    order = "-timestamp",
  }) {
    const query = { limit, offset, order_by: order };
    if (key) query.xcom_key = key;
    if (pattern) query.xcom_key_pattern = pattern;
    if (dag) query.dag_display_name_pattern = dag;
    if (run) query.run_id_pattern = run;
    if (runAfter) query.run_after_gte = new Date(runAfter * 1000).toISOString();
    if (mapIndex !== undefined && mapIndex !== null) query.map_index = mapIndex;
    const where = path("dags", dagId ?? "~", "dagRuns", runId ?? "~", "taskInstances", taskId ?? "~", "xcomEntries");
    return this.call("GET", where, { query });
  }

  /** Return the value of an XCom. */
  async value(at, key) {
    const where = path("dags", at.dagId, "dagRuns", at.runId, "taskInstances", at.taskId, "xcomEntries", key);
    return (await this.call("GET", where, { query: { map_index: at.mapIndex } })).value;
  }

  /** Return the newest runs of a Dag, at most `n`. */
  runs(dagId, n) {
    return this.call("GET", path("dags", dagId, "dagRuns"), { query: { limit: n, order_by: "-run_after" } });
  }

  /** Return the task instances of a run, at most 100. The POST that takes many runs writes Airflow's audit log. */
  instances(dagId, runId) {
    return this.call("GET", path("dags", dagId, "dagRuns", runId, "taskInstances"), { query: { limit: PAGE } });
  }

  /** Return one task instance. */
  instance(at) {
    return this.call("GET", instancePath(at));
  }

  /** Check whether the viewer may mark a task failed, without doing it. Throws ApiFailure 403 if not. */
  tryMarkFailed(at) {
    return this.call("PATCH", `${instancePath(at)}/dry_run`, { body: { new_state: "failed" } });
  }

  /** Mark a task failed, as Airflow's UI does. */
  markFailed(at) {
    return this.call("PATCH", instancePath(at), { body: { new_state: "failed" } });
  }

  /** Return whether a triggerer is alive. */
  async hasTriggerer() {
    return (await this.call("GET", path("monitor", "health"))).triggerer?.status === "healthy";
  }

  /** Return a sample of a job's requests and answers. The package's own route: Airflow decides who may see it. */
  sample(owner, status) {
    const query = { run_id: owner.runId, task_id: owner.taskId, map_index: owner.mapIndex, ...(status && { status }) };
    return this.call("GET", path("sample", owner.dagId), { query, root: this.ownRoot });
  }

  /** Make one call; at most six run at a time. */
  async call(method, where, { query = {}, body, root = this.root } = {}) {
    await this.turn();
    try {
      return await this.fetch(method, root + where, query, body);
    } finally {
      this.running -= 1;
      this.waiting.shift()?.();
    }
  }

  async turn() {
    if (this.running >= AT_ONCE) await new Promise((resolve) => this.waiting.push(resolve));
    this.running += 1;
  }

  async fetch(method, address, query, body) {
    const url = new URL(address);
    for (const [name, value] of Object.entries(query)) url.searchParams.set(name, value);
    const headers = { accept: "application/json", ...(body && { "content-type": "application/json" }) };
    const options = {
      method,
      headers,
      body: body && JSON.stringify(body),
      credentials: "same-origin",
      signal: AbortSignal.timeout(TIMEOUT_MS),
    };
    let response;
    try {
      response = await fetch(url, options);
    } catch (error) {
      throw new ApiFailure(0, error.name === "TimeoutError" ? "no answer in 30 seconds" : "no connection");
    }
    this.learnTime(response);
    if (!response.ok) throw new ApiFailure(response.status, await detailOf(response));
    return response.status === 204 ? null : this.decoded(response);
  }

  async decoded(response) {
    try {
      return await response.json();
    } catch {
      throw new ApiFailure(response.status, "the answer is not JSON");
    }
  }

  learnTime(response) {
    const there = Date.parse(response.headers.get("date") ?? "") / 1000;
    // The header has whole seconds and the response took time: small differences are ignored.
    if (there) this.skewS = Math.abs(there - Date.now() / 1000) > 5 ? there - Date.now() / 1000 : 0;
  }
}

function path(...parts) {
  return parts.map((part) => `/${encodeURIComponent(part)}`).join("");
}

function instancePath(at) {
  const parts = ["dags", at.dagId, "dagRuns", at.runId, "taskInstances", at.taskId];
  return path(...parts, ...(at.mapIndex >= 0 ? [String(at.mapIndex)] : []));
}

async function detailOf(response) {
  try {
    const { detail } = await response.json();
    return typeof detail === "string" ? detail : (detail?.reason ?? detail?.[0]?.msg ?? "");
  } catch {
    return "";
  }
}
