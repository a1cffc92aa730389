// When a job will be over, by how long earlier ones took, as of now. Pure; times are epoch seconds.

import { clock } from "./format.js";

/** A sum of chances may miss its exact value by so much. */
const TINY = 1e-6;

/** Return a forecast as it is at a later moment, at which the job is not over: what has passed counts no more. */
export function asOf(forecast, now) {
  if (!forecast) return null;
  const past = forecast.steps.filter(([at]) => at <= now);
  const gone = Math.max(0, ...past.map(([, chance]) => chance));
  const left = gone < 1 ? forecast.steps.filter(([at]) => at > now) : [];
  const at = (wanted) => left.find(([, chance]) => (chance - gone) / (1 - gone) >= wanted - TINY)?.[0] ?? null;
  const nShorter = forecast.nShorter + (forecast.basis === "jobs" ? past.length : 0);
  return { ...forecast, nShorter, p50At: at(0.5), p90At: at(0.9) };
}

/** Return what a forecast says in words: a sentence, its two parts, and what it stands on. Null if it says nothing. */
export function forecastWords(forecast, now) {
  if (!forecast) return null;
  const { p50At, p90At, nShorter, nEarlier, basis } = forecast;
  const of = basis === "jobs" ? `${nEarlier} earlier runs` : `batches of ${nEarlier} earlier jobs`;
  if (p50At === null) {
    const says = `longer than ${nShorter} of ${nEarlier} earlier runs`;
    return nShorter ? { says, half: says, nine: null, of } : null;
  }
  const half = `probably ${clock(p50At, now)}`;
  const nine = p90At === null ? null : `nine of ten before ${clock(p90At, now)}`;
  return { says: [half, nine].filter(Boolean).join(", "), half, nine, of };
}
