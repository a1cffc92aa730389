// Jobs as rows of the list: the jobs of a mapped task's run are one row; rows can be sorted. Pure.

import { OVER, STANDINGS, ownerOf, partsOf } from "./jobs.js";

/** The columns that rows can be sorted by; true if the highest value comes first. */
export const SORTS = { state: false, job: false, progress: true, tokens: true, cost: true, age: false, ends: false };

const ORDER = Object.keys(STANDINGS);

/** Return the jobs as rows, each at the place of its first job. A row of several jobs is those of one mapped task. */
export function rowsOf(jobs, progressOf) {
  const rows = new Map();
  for (const job of jobs) {
    const owner = ownerOf(job, progressOf(job));
    const id = owner.mapIndex < 0 ? job.id : JSON.stringify([job.dagId, job.runId, owner.taskId, "mapped"]);
    const row = rows.get(id);
    if (row) row.jobs.push(job);
    else rows.set(id, { id, dagName: job.dagName, runId: job.runId, taskId: owner.taskId, jobs: [job] });
  }
  return [...rows.values()];
}

/** Return what several jobs add up to, in the form of one progress; null if nothing was read of any. */
export function sumOf(all) {
  const read = all.filter(Boolean);
  if (read.length === 0) return null;
  return {
    n_rows: sum(read.map((one) => partsOf(one).nRows)),
    n_done: sum(read.map((one) => partsOf(one).nDone)),
    byStatus: added(read.map((one) => one.byStatus)),
    usage: added(read.map((one) => one.usage)),
    cost: read.some((one) => one.cost !== null) ? sum(read.map((one) => one.cost ?? 0)) : null,
    expected_cost: inTheEnd(read, "expected_cost"),
    upper_cost: inTheEnd(read, "upper_cost"),
    // Each job has a cap of its own.
    max_cost: null,
    limit: null,
    estimate_basis: read.some((one) => one.estimate_basis === "bound") ? "bound" : null,
    reused_rows: sum(read.map((one) => one.reused_rows)),
    saved_by_reuse: sum(read.map((one) => one.saved_by_reuse)),
    // Sums are over when all are.
    phase: read.length === all.length && read.every((one) => OVER.has(one.phase)) ? "written" : "waiting",
    created_at: least(read.map((one) => one.created_at)),
    updated_at: most(read.map((one) => one.updated_at)),
    deadline_at: most(read.map((one) => one.deadline_at)),
  };
}

/** What jobs will cost together in the end: of those with all answers what they cost. Null if one of them is unknown. */
function inTheEnd(read, name) {
  const costs = read.map((one) => one[name] ?? (OVER.has(one.phase) || one.phase === "done" ? one.cost : null));
  const isTold = read.some((one) => one[name] !== null) && costs.every((cost) => cost !== null);
  return isTold ? sum(costs) : null;
}

/** Return how many jobs have each standing, the most urgent first: pairs of standing and number. */
export function standingsOf(standings) {
  const counts = added(standings.map((standing) => ({ [standing]: 1 })));
  return Object.entries(counts).sort(([a], [b]) => ORDER.indexOf(a) - ORDER.indexOf(b));
}

/**
 * Return rows in the order of a column; without a value they come last, and equal ones stay as they are.
 * `by` is one of `SORTS`, or null; `standingOf` and `progressOf` tell of a job.
 */
export function sorted(rows, { by, isReversed }, standingOf, progressOf) {
  if (!by) return rows;
  const keyed = rows.map((row) => ({ row, value: VALUES[by](row, standingOf, progressOf) }));
  const sign = SORTS[by] === isReversed ? 1 : -1;
  keyed.sort((a, b) => {
    if (a.value === null || b.value === null) return (a.value === null) - (b.value === null);
    return sign * compare(a.value, b.value);
  });
  return keyed.map(({ row }) => row);
}

const VALUES = {
  state: ({ jobs }, standingOf) => least(jobs.map((job) => ORDER.indexOf(standingOf(job)))),
  job: (row) => [row.dagName, row.runId, row.taskId, ownerOf(row.jobs[0], null).mapIndex],
  progress: ofSum((total) => (partsOf(total).nRows ? partsOf(total).nDone / partsOf(total).nRows : null)),
  tokens: ofSum(({ usage }) => (usage.input_tokens ?? 0) + (usage.output_tokens ?? 0)),
  cost: ofSum(({ cost }) => cost),
  // The youngest first: the later it was made, the smaller its age.
  age: ofSum(({ created_at: at }) => (at === null ? null : -at)),
  ends: ({ jobs }, standingOf, progressOf) => most(jobs.map((job) => endOf(standingOf(job), progressOf(job)))),
};

function ofSum(pick) {
  return ({ jobs }, _, progressOf) => {
    const total = sumOf(jobs.map(progressOf));
    return total && pick(total);
  };
}

function endOf(standing, progress) {
  if (!progress) return null;
  return STANDINGS[standing].group === "active" ? (progress.eta_at ?? progress.deadline_at) : progress.updated_at;
}

function compare(a, b) {
  if (!Array.isArray(a)) return a - b;
  for (const [i, part] of a.entries()) {
    const difference = typeof part === "number" ? part - b[i] : part.localeCompare(b[i], "en", { numeric: true });
    if (difference) return difference;
  }
  return 0;
}

function added(counts) {
  const total = {};
  for (const one of counts) for (const [name, n] of Object.entries(one)) total[name] = (total[name] ?? 0) + n;
  return total;
}

function sum(numbers) {
  return numbers.reduce((total, n) => total + n, 0);
}

function least(numbers) {
  const present = numbers.filter((n) => n !== null);
  return present.length ? Math.min(...present) : null;
}

function most(numbers) {
  const present = numbers.filter((n) => n !== null);
  return present.length ? Math.max(...present) : null;
}
