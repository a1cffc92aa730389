// What is shown of a job's money: the cell of the list, the figures of a job, and what keeps the rest back.

import { h } from "./dom.js";
import { counted, dollars } from "./format.js";
import { OVER, partsOf } from "./jobs.js";
import { figure } from "./parts.js";

const BASES = {
  own: "by this job's own answers",
  earlier: "by an earlier job of this task",
};
const LIMITS = { cap: "Held by its cap", pilot: "Held by its pilot", probe: "Held by its probe" };
const MEANWHILE = { cap: "the cap is reached: the rest is not sent", pilot: "the pilot runs first" };

/** Whether a job tells anything for a column of costs. */
export function tellsMoney(progress) {
  return [progress?.cost, progress?.expected_cost, progress?.upper_cost, progress?.max_cost].some(isKnown);
}

/** A job's cost in the list: what its answers have cost, as far as they are fetched, what is expected, and its cap. */
export function moneyCell(progress) {
  const cap = isKnown(progress.max_cost) ? `cap ${dollars(progress.max_cost)}` : null;
  const end = endText(progress);
  const [first, ...others] = [isKnown(progress.cost) || !end ? spentText(progress) : null, end, cap].filter(Boolean);
  return [h("span", null, first), others.map((text) => h("div", { class: "muted small" }, text))];
}

/** What is spent so far; of a job that has an estimate but no answer, nothing yet. */
function spentText(progress) {
  if (isKnown(progress.cost)) return `${progress.rows_without_price ? "≥ " : ""}${dollars(progress.cost)}`;
  return isKnown(progress.expected_cost) || isKnown(progress.upper_cost) ? dollars(0) : dollars(null);
}

function endText(progress) {
  const { expected_cost: expected, upper_cost: upper, estimate_basis: basis } = progress;
  if (OVER.has(progress.phase)) return null;
  if (isKnown(expected) && basis !== "bound") return `${dollars(expected)} expected`;
  return isKnown(upper) ? `at most ${dollars(upper)}` : null;
}

/** The figures of a job: spent, expected, cap, saved, reused; those of which nothing is known are left out. */
export function moneyFigures(progress) {
  const { expected_cost: expected, upper_cost: upper, max_cost: cap, saved, reused_rows: nReused } = progress;
  const isBound = progress.estimate_basis === "bound";
  return [
    tellsMoney(progress) || progress.rows_without_price
      ? figure(OVER.has(progress.phase) ? "Cost" : "Spent", spentText(progress), spentRemarks(progress))
      : null,
    isKnown(expected) && !isBound
      ? figure("Expected cost", dollars(expected), [
          isKnown(upper) ? `at most ${dollars(upper)}` : null,
          BASES[progress.estimate_basis],
        ])
      : isKnown(upper)
        ? figure("Cost at most", dollars(upper), "by the bound in the bodies")
        : null,
    isKnown(cap) ? figure("Cap", dollars(cap), capRemark(progress)) : null,
    saved > 0 ? figure("Saved", dollars(saved), "against synchronous prices") : null,
    nReused > 0 ? figure("Reused", counted(nReused, "row"), `saved ${dollars(progress.saved_by_reuse)}`) : null,
  ];
}

function spentRemarks(progress) {
  return [
    progress.cost_of_bad_rows > 0 ? `${dollars(progress.cost_of_bad_rows)} for bad rows` : null,
    progress.rows_without_price > 0 ? `without ${counted(progress.rows_without_price, "row")} of unknown price` : null,
    partsOf(progress).nAnswered > 0 ? "without answers not fetched yet" : null,
  ];
}

function capRemark({ limit, cost, max_cost: cap, phase }) {
  if (limit === "cap") return "reached: the rest is not sent";
  return OVER.has(phase) ? null : `${dollars(Math.max(0, cap - (cost ?? 0)))} left`;
}

/** The words for a held job whose own cap or pilot holds it; null for any other. */
export function heldBy(standing, progress) {
  return standing === "held" ? (LIMITS[progress?.limit] ?? null) : null;
}

/** What keeps the rest of a job back that still runs; null if it is nothing of its own. */
export function keptBack(standing, progress) {
  return standing === "running" || standing === "queued" ? (MEANWHILE[progress.limit] ?? null) : null;
}

function isKnown(amount) {
  return amount !== null && amount !== undefined;
}
