// The page's data: jobs, their progress values and the states of their tasks. Reads as little as possible.

import { ApiFailure } from "./api.js";
import {
  SHARDS_KEY,
  STANDINGS,
  entryOf,
  instanceId,
  instanceOf,
  jobsOf,
  needsStates,
  shardsKey,
  standingOf,
} from "./jobs.js";
import { Listing, Search, entryId } from "./listing.js";
import { progressOf, shardsOf } from "./values.js";

/** Jobs of which the values are read in one step. */
export const STEP = 25;
/** Seconds after which the states of tasks that no longer work are read again, in case one was cleared. */
const STATES_S = 60;
const GONE = Symbol("gone");

export class Board {
  /** `onChange` is called whenever there is something new to show. */
  constructor(api, onChange) {
    this.api = api;
    this.onChange = onChange;
    this.values = new Map();
    this.instances = new Map();
    /** When the states of a job's tasks were read, and after which value of it. */
    this.statesOf = new Map();
    this.details = new Map();
    this.open({});
  }

  /** Switch to another place, or to the jobs that have `text` in a name. Values already read are kept. */
  open(where, text = "") {
    this.listing = text ? new Search(this.api, text) : new Listing(this.api, where);
    this.nLooked = STEP;
    this.lookedAt = null;
    this.failure = null;
  }

  /** The jobs that are shown, newest first. */
  get jobs() {
    return this.allJobs.slice(0, this.nLooked);
  }

  get allJobs() {
    return jobsOf(this.listing.entries.values());
  }

  /** Whether there may be more jobs than are shown. */
  get hasMore() {
    return this.allJobs.length > this.nLooked || !this.listing.isComplete;
  }

  progress(job) {
    return this.values.get(entryId(job.entries[0]))?.value ?? null;
  }

  /** Whether the job's newest value was read, even if this page does not understand it. */
  wasRead(job) {
    return this.values.has(entryId(job.entries[0]));
  }

  /** The job's standing; "loading" until all that it depends on was read. */
  standing(job) {
    const progress = this.progress(job);
    if (needsStates(progress) && !this.statesOf.has(job.id)) return "loading";
    return standingOf(job, progress, this.instances);
  }

  /** Read what has changed: the newest keys, the states of tasks, and new values. */
  async look() {
    const listing = this.listing;
    await listing.refresh();
    for (let n = 0; n < 3 && this.allJobs.length < this.nLooked && !listing.isComplete; n += 1) await listing.further();
    if (listing !== this.listing) return;
    this.onChange();
    await this.readValues(this.jobs);
    await this.readStates(this.jobs.filter((job) => this.wantsStates(job)));
    if (listing !== this.listing) return;
    this.lookedAt = this.api.now();
    this.failure = null;
    this.onChange();
  }

  async readValues(jobs) {
    await Promise.all(jobs.map((job) => this.readValue(job.entries[0])));
  }

  async readValue(entry) {
    const id = entryId(entry);
    if (this.values.get(id)?.timestamp === entry.timestamp) return;
    const value = await this.orGone(this.api.value(entry, entry.key));
    // The task was cleared or its run deleted since the keys were listed.
    if (value === GONE) this.listing.drop(entry);
    else this.values.set(id, { timestamp: entry.timestamp, value: progressOf(value) });
    this.onChange();
  }

  /** Whether the states of the job's tasks decide how it stands, and may have changed. */
  wantsStates(job) {
    if (!needsStates(this.progress(job))) return false;
    const before = this.statesOf.get(job.id);
    if (!before || before.stamp !== job.entries[0].timestamp) return true;
    return STANDINGS[this.standing(job)].group === "active" || this.api.now() - before.at >= STATES_S;
  }

  /** Read the states of the tasks of jobs: a request for each run, and one for each task that a large run cuts off. */
  async readStates(jobs) {
    const runs = new Set(jobs.map(runOf));
    await Promise.all([...runs].map((run) => this.readRun(jobs.filter((job) => runOf(job) === run))));
    if (jobs.length) this.onChange();
  }

  async readRun(jobs) {
    const { dagId, runId } = jobs[0];
    // Whose tasks one may not read, of that job the state stays unknown.
    const answer = await this.orGone(this.api.instances(dagId, runId), [403, 404]);
    if (answer === GONE) return;
    const { task_instances: instances, total_entries: total } = answer;
    const fresh = new Set(instances.map((raw) => this.keepInstance(raw)));
    const missing = total > instances.length ? jobs.map((job) => job.entries[0]) : [];
    await Promise.all(
      missing
        .filter((entry) => !fresh.has(instanceId(entry)))
        .map(async (entry) => {
          const raw = await this.orGone(this.api.instance(entry));
          if (raw !== GONE) this.keepInstance(raw);
        }),
    );
    for (const job of jobs) this.statesOf.set(job.id, { at: this.api.now(), stamp: job.entries[0].timestamp });
  }

  /** Wait for an answer; `GONE` if it is one of these: by default that something was deleted since it was listed. */
  async orGone(answer, statuses = [404]) {
    try {
      return await answer;
    } catch (error) {
      if (!(error instanceof ApiFailure) || !statuses.includes(error.status)) throw error;
      return GONE;
    }
  }

  keepInstance(raw) {
    const instance = instanceOf(raw);
    this.instances.set(instanceId(instance), instance);
    return instanceId(instance);
  }

  /** Read what only the full view of a job shows, once for each new value: its shards, the states of its tasks. */
  async readDetail(job) {
    const stamp = job.entries[0].timestamp;
    if (this.details.get(job.id)?.stamp === stamp) return;
    const [shards] = await Promise.all([
      this.newestShards(job),
      needsStates(this.progress(job)) ? null : this.readStates([job]),
    ]);
    this.details.set(job.id, { stamp, shards });
    this.onChange();
  }

  shards(job) {
    return this.details.get(job.id) ?? null;
  }

  /** Return the newest shards of the job's tasks, in two requests: the trigger writes only progress. */
  async newestShards(job) {
    const key = shardsKey(job);
    const { xcom_entries: raw } = await this.api.keys({ dagId: job.dagId, runId: job.runId, key });
    const [newest] = raw
      .map((entry) => entryOf(entry, SHARDS_KEY))
      .filter(Boolean)
      .sort((a, b) => b.at - a.at);
    return newest ? shardsOf(await this.api.value(newest, key)) : null;
  }
}

function runOf(job) {
  return JSON.stringify([job.dagId, job.runId]);
}
