// Where the page is: in the navigation, on a Dag run or on a task instance. Pure.

/** Return the place that the page's own query names: `{dagId, runId, taskId, mapIndex}`, each null if absent. */
export function placeOf(query) {
  const given = new Map();
  for (const part of query.replace(/^\?/, "").split("&")) {
    const [name, value = ""] = part.split("=");
    given.set(name, decoded(value));
  }
  const taskId = given.get("task_id") || null;
  return {
    dagId: given.get("dag_id") || null,
    runId: given.get("run_id") || null,
    taskId,
    // Airflow leaves the placeholder as it is for a task that is not mapped.
    mapIndex: taskId === null ? null : /^\d+$/.test(given.get("map_index") ?? "") ? Number(given.get("map_index")) : -1,
  };
}

/** Decode one value. A plus sign stays one: it is part of run ids, which Airflow 3.1 does not encode. */
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** Return the part of the page's address that names a job, for links within the page. */
export function jobHash(job) {
  return `#${[job.dagId, job.runId, job.key].map(encodeURIComponent).join("/")}`;
}

/** Return the part of the page's address that names a Dag, of which the last runs are shown. */
export function dagHash(dagId) {
  return `#${encodeURIComponent(dagId)}`;
}

/** Return the Dag that such a part names, or null. */
export function dagOfHash(hash) {
  const parts = hash.replace(/^#/, "").split("/").map(decoded);
  return parts.length === 1 && parts[0] !== "" ? parts[0] : null;
}

/** Return the job that such a part names, or null. */
export function jobOfHash(hash) {
  const parts = hash.replace(/^#/, "").split("/").map(decoded);
  if (parts.length !== 3 || parts.some((part) => part === "")) return null;
  return { dagId: parts[0], runId: parts[1], key: parts[2] };
}

/** Return Airflow's own addresses of what the page links to, below `root`, which ends with a slash. */
export function airflowLinks(root) {
  const path = (...parts) => root + parts.map(encodeURIComponent).join("/");
  const task = (at) => [
    "dags",
    at.dagId,
    "runs",
    at.runId,
    "tasks",
    at.taskId,
    ...(at.mapIndex < 0 ? [] : ["mapped", String(at.mapIndex)]),
  ];
  return {
    // The hash is read by the page, in Airflow's address as in its own.
    job: (job) => path("plugin", "openai-batches") + jobHash(job),
    dag: (dagId) => path("dags", dagId),
    run: (dagId, runId) => path("dags", dagId, "runs", runId),
    log: (at) => path(...task(at)),
    xcom: (at) => path(...task(at), "xcom"),
  };
}

/** Return the address of a batch in OpenAI's dashboard, or null if the batch is somewhere else. */
export function dashboardLink(batchId, host) {
  const isOpenAI = typeof host === "string" && (host === "openai.com" || host.endsWith(".openai.com"));
  return isOpenAI && batchId ? `https://platform.openai.com/batches/${encodeURIComponent(batchId)}` : null;
}
