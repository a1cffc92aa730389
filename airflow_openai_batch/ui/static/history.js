// The last runs of one Dag and the jobs in them, read in a bounded number of requests whatever the history.

import { PAGE } from "./api.js";
import { PROGRESS_KEY, entryOf, jobsOf } from "./jobs.js";
import { runOf } from "./runs.js";

/** Runs that are shown at most. */
export const N_RUNS = 30;
/** Entries that are listed, and jobs whose values are read, at most: of Dags with many jobs in a run fewer runs. */
const N_ENTRIES = 3 * PAGE;
const N_JOBS = 150;

export class History {
  /** `values` reads and keeps progress values: a Board. */
  constructor(api, values, dagId) {
    this.api = api;
    this.values = values;
    this.dagId = dagId;
    this.runs = [];
    this.jobs = [];
    this.lookedAt = null;
    /** Whether there are more runs than are shown because theirs would be too many values. */
    this.isCut = false;
    /** Whether even the one run that is shown has more jobs than are read. */
    this.isPartial = false;
  }

  /** Whether a run is not over. */
  get isActive() {
    return this.runs.some((run) => ["queued", "running"].includes(run.state));
  }

  progress(job) {
    return this.values.progress(job);
  }

  /** Read what has changed: the runs, the keys of their jobs, and new values. */
  async look() {
    const { dag_runs: raw } = await this.api.runs(this.dagId, N_RUNS);
    const runs = raw.map(runOf);
    const listed = runs.length ? await this.list(runs) : { runs, entries: [] };
    const jobs = jobsOf(listed.entries);
    const shown = fitting(listed.runs, jobs);
    this.isCut = shown.length < runs.length;
    this.runs = shown;
    const ids = new Set(shown.map((run) => run.runId));
    this.jobs = jobs.filter((job) => ids.has(job.runId));
    this.values.onChange();
    await this.values.readValues(this.jobs);
    this.lookedAt = this.api.now();
  }

  /** List the entries of the jobs of as many runs as fit, the newest first: too many, and fewer runs are asked for. */
  async list(runs) {
    const first = await this.page(runs, 0);
    if (first.total_entries > N_ENTRIES && runs.length > 1) {
      return this.list(runs.slice(0, Math.max(1, Math.floor((runs.length * N_ENTRIES) / first.total_entries))));
    }
    this.isPartial = first.total_entries > N_ENTRIES;
    const entries = [...first.xcom_entries];
    const total = Math.min(first.total_entries, N_ENTRIES);
    for (let page = first; entries.length < total && page.xcom_entries.length; entries.push(...page.xcom_entries)) {
      page = await this.page(runs, entries.length);
    }
    return { runs, entries: entries.map((one) => entryOf(one)).filter(Boolean) };
  }

  page(runs, offset) {
    const runAfter = Date.parse(runs.at(-1).runAfter) / 1000;
    return this.api.keys({ dagId: this.dagId, pattern: `${PROGRESS_KEY}.`, runAfter, offset });
  }
}

/** Return the newest runs whose jobs are not too many to read; one at least. */
function fitting(runs, jobs) {
  const nJobs = new Map();
  for (const job of jobs) nJobs.set(job.runId, (nJobs.get(job.runId) ?? 0) + 1);
  let total = 0;
  const nFitting = runs.findIndex((run, i) => (total += nJobs.get(run.runId) ?? 0) > N_JOBS && i > 0);
  return nFitting < 0 ? runs : runs.slice(0, nFitting);
}
