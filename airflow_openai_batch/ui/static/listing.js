// The listing of jobs: pages of XCom keys. Airflow 3.3 sorts them newest first; for 3.1 time windows are used.

import { PROGRESS_KEY, entryOf, instanceId } from "./jobs.js";

const DAY_S = 86400;
/** Maximum ages of Dag runs, listed one after the other where Airflow cannot sort; null is all. */
const WINDOWS_S = [DAY_S, 7 * DAY_S, 60 * DAY_S, null];
const PAGES_A_WINDOW = 5;
/** Shows whether Airflow sorts: an unsupported order is ignored, so that the other end is the same. */
const OTHER_END = { order: "timestamp", limit: 1 };

export class Listing {
  /** `where` narrows the listing: dagId, runId, key; `dag`, `run` and `task` are parts of a name. */
  constructor(api, { dagId, runId, key, dag, run, task }) {
    this.api = api;
    this.where = { dagId, runId, key, dag, run };
    // The key names the owner's task, so that all entries of its jobs are found.
    this.pattern = key ? undefined : `${PROGRESS_KEY}.${task ? `%${task}` : ""}`;
    this.entries = new Map();
    this.offset = 0;
    this.isComplete = false;
    this.window = 0;
    this.isCut = false;
  }

  /** Read what is new. One request, one more the first time, or up to five where Airflow cannot sort. */
  async refresh() {
    if (this.api.canSort === false) return this.readWindow();
    // A short history needs no order, so only the first read requests the other end with the page.
    const isFirst = this.api.canSort === null && this.offset === 0;
    let [page, end] = await Promise.all([this.page(0), isFirst ? this.page(0, undefined, OTHER_END) : null]);
    const isAll = page.total_entries <= page.xcom_entries.length;
    if (!isAll && this.api.canSort === null) {
      end ??= await this.page(0, undefined, OTHER_END);
      this.api.canSort = isOther(end.xcom_entries, page.xcom_entries);
    }
    if (!isAll && !this.api.canSort) return this.readWindow();
    if (isAll) this.replace(page.xcom_entries);
    else this.renew(page.xcom_entries);
    this.offset = Math.max(this.offset, page.xcom_entries.length);
    this.isComplete = this.offset >= page.total_entries;
    return undefined;
  }

  /** Read one page, or one time window, further back. */
  async further() {
    if (this.isComplete) return;
    if (this.api.canSort === false) {
      this.window = Math.min(this.window + 1, WINDOWS_S.length - 1);
      await this.readWindow();
      return;
    }
    const page = await this.page(this.offset);
    this.add(page.xcom_entries);
    this.offset += page.xcom_entries.length;
    this.isComplete = page.xcom_entries.length === 0 || this.offset >= page.total_entries;
  }

  /** Remove an entry that is gone. */
  drop(entry) {
    this.entries.delete(entryId(entry));
  }

  async readWindow() {
    const age = WINDOWS_S[this.window];
    const runAfter = age === null ? undefined : this.api.now() - age;
    const entries = [];
    let total = Infinity;
    for (let n = 0; n < PAGES_A_WINDOW && entries.length < total; n += 1) {
      const page = await this.page(entries.length, runAfter);
      entries.push(...page.xcom_entries);
      total = page.xcom_entries.length ? page.total_entries : 0;
    }
    this.isCut = entries.length < total;
    this.replace(entries);
    this.isComplete = age === null;
  }

  page(offset, runAfter, more = {}) {
    return this.api.keys({ ...this.where, pattern: this.pattern, offset, runAfter, ...more });
  }

  replace(raw) {
    this.entries.clear();
    this.add(raw);
  }

  /** Apply the newest page: entries newer than its end that are not in it are gone. */
  renew(raw) {
    const oldest = Math.min(...raw.map((entry) => Date.parse(entry.timestamp) / 1000));
    for (const [id, entry] of this.entries) if (entry.at > oldest) this.entries.delete(id);
    this.add(raw);
  }

  add(raw) {
    for (const entry of raw.map((one) => entryOf(one))) if (entry) this.entries.set(entryId(entry), entry);
  }
}

/** A listing of the jobs whose Dag, run or task has `text` in its name: three listings, read as one. */
export class Search {
  constructor(api, text) {
    this.text = text;
    this.parts = [{ dag: text }, { run: text }, { task: text }].map((where) => new Listing(api, where));
  }

  get entries() {
    return new Map(this.parts.flatMap((part) => [...part.entries]));
  }

  get isComplete() {
    return this.parts.every((part) => part.isComplete);
  }

  get isCut() {
    return this.parts.some((part) => part.isCut);
  }

  async refresh() {
    await Promise.all(this.parts.map((part) => part.refresh()));
  }

  async further() {
    await Promise.all(this.parts.map((part) => part.further()));
  }

  drop(entry) {
    for (const part of this.parts) part.drop(entry);
  }
}

function isOther([end], [first]) {
  return Boolean(end) && entryId(entryOf(end)) !== entryId(entryOf(first));
}

/** Return the key of an entry for maps. */
export function entryId(entry) {
  return `${instanceId(entry)}${entry.key}`;
}
