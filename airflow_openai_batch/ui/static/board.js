// The page's data: jobs, their progress values and the states of their tasks. Reads as little as possible.

import { ApiFailure } from "./api.js";
import { SHARDS_KEY, entryOf, instanceId, instanceOf, jobsOf, shardsKey, standingOf, statesQuery } from "./jobs.js";
import { Listing, entryId } from "./listing.js";
import { progressOf, shardsOf } from "./values.js";

/** Jobs of which the values are read in one step. */
export const STEP = 25;

export class Board {
  /** `onChange` is called whenever there is something new to show. */
  constructor(api, onChange) {
    this.api = api;
    this.onChange = onChange;
    this.values = new Map();
    this.instances = new Map();
    this.details = new Map();
    this.open({});
  }

  /** Switch to another place, or to Dags whose name contains `dag`. Values already read are kept. */
  open(where, dag = "") {
    this.listing = new Listing(this.api, where, dag);
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

  standing(job) {
    return standingOf(job, this.progress(job), this.instances);
  }

  /** Read what has changed: the newest keys, the states of tasks, and new values. */
  async look() {
    const listing = this.listing;
    await listing.refresh();
    for (let n = 0; n < 3 && this.allJobs.length < this.nLooked && !listing.isComplete; n += 1) await listing.further();
    if (listing !== this.listing) return;
    this.onChange();
    await Promise.all([this.readInstances(this.jobs), this.readValues(this.jobs)]);
    if (listing !== this.listing) return;
    this.lookedAt = this.api.now();
    this.failure = null;
    this.onChange();
  }

  /** Read the next, older jobs. */
  async lookFurther() {
    this.nLooked += STEP;
    await this.look();
  }

  async readValues(jobs) {
    await Promise.all(jobs.map((job) => this.readValue(job.entries[0])));
  }

  async readValue(entry) {
    const id = entryId(entry);
    if (this.values.get(id)?.timestamp === entry.timestamp) return;
    try {
      const value = progressOf(await this.api.value(entry, entry.key));
      this.values.set(id, { timestamp: entry.timestamp, value });
    } catch (error) {
      if (!(error instanceof ApiFailure) || error.status !== 404) throw error;
      // The task was cleared or its run deleted since the keys were listed.
      this.listing.drop(entry);
    }
    this.onChange();
  }

  async readInstances(jobs) {
    // Finished jobs rarely change: beyond the first step only the others are read again.
    const asked = jobs.filter((job, i) => i < STEP || !this.isFinished(job));
    if (asked.length === 0) return;
    const { task_instances: instances, total_entries: total } = await this.api.instances(statesQuery(asked));
    const fresh = new Set(instances.map((raw) => this.keepInstance(raw)));
    this.onChange();
    // Many mapped tasks do not fit into one response; those of the first step are read one by one.
    if (total > instances.length) await this.readMissing(asked.slice(0, STEP), fresh);
  }

  async readMissing(jobs, fresh) {
    const missing = jobs.map((job) => job.entries[0]).filter((entry) => !fresh.has(instanceId(entry)));
    await Promise.all(missing.map(async (entry) => this.keepInstance(await this.api.instance(entry))));
    this.onChange();
  }

  keepInstance(raw) {
    const instance = instanceOf(raw);
    this.instances.set(instanceId(instance), instance);
    return instanceId(instance);
  }

  isFinished(job) {
    const hasStates = job.entries.every((entry) => this.instances.has(instanceId(entry)));
    return hasStates && ["done", "bad", "stopped"].includes(this.standing(job));
  }

  /** Read a job's shards, once for each new value; null if no task has written any. */
  async readShards(job) {
    const stamp = job.entries[0].timestamp;
    if (this.details.get(job.id)?.stamp === stamp) return;
    const shards = await this.newestShards(job);
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
