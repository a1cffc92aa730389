// Numbers and times as people read them. Pure; times are epoch seconds.

const NUMBER = new Intl.NumberFormat("en-US");
const SHORT = new Intl.NumberFormat("en-US", { notation: "compact", maximumFractionDigits: 1 });

/** 1234567 → "1,234,567"; anything but a number → "–". */
export function count(n) {
  return isNumber(n) ? NUMBER.format(n) : "–";
}

/** 1234567 → "1.2M". */
export function short(n) {
  return isNumber(n) ? SHORT.format(n) : "–";
}

/** 1, "row" → "1 row"; 2, "row" → "2 rows"; "batch" → "2 batches". */
export function counted(n, word) {
  const ending = word.endsWith("ch") ? "es" : "s";
  return `${count(n)} ${n === 1 ? word : word + ending}`;
}

/** The part of a whole in percent, never 0 once something is done, and never 100 before all is. */
export function percent(n, whole) {
  if (!whole) return "–";
  const exact = (100 * n) / whole;
  if (exact > 0 && exact < 0.1) return "<0.1%";
  if (exact > 99.9 && exact < 100) return ">99.9%";
  return `${Number.isInteger(exact) ? exact : exact.toFixed(1)}%`;
}

/** A job's finished rows in percent: 100 only once its results are written. */
export function donePercent({ nDone, nRows }, isOver) {
  return nRows && nDone === nRows && !isOver ? ">99%" : percent(nDone, nRows);
}

/** Dollars: 12.345 → "$12.35", 0.00012 → "$0.00012", unknown → "–". */
export function dollars(amount) {
  if (!isNumber(amount)) return "–";
  const digits = amount === 0 || amount >= 0.1 ? 2 : Math.min(9, 1 - Math.floor(Math.log10(amount)));
  return `$${amount.toLocaleString("en-US", { minimumFractionDigits: 2, maximumFractionDigits: Math.max(2, digits) })}`;
}

/** 7380 → "2 h 3 min"; two units at most. */
export function duration(seconds) {
  if (!isNumber(seconds)) return "–";
  const s = Math.max(0, Math.round(seconds));
  if (s < 1 && seconds > 0) return "<1 s";
  if (s < 60) return `${s} s`;
  if (s < 3600) return two(Math.floor(s / 60), "min", s % 60, "s");
  if (s < 86400) return two(Math.floor(s / 3600), "h", Math.floor((s % 3600) / 60), "min");
  return two(Math.floor(s / 86400), "d", Math.floor((s % 86400) / 3600), "h");
}

function two(first, unit, second, smaller) {
  return second ? `${first} ${unit} ${second} ${smaller}` : `${first} ${unit}`;
}

/** A moment relative to now: "in 2 h 3 min", "5 min ago", "now". */
export function relative(at, now) {
  if (!isNumber(at) || !at) return "–";
  const seconds = at - now;
  if (Math.abs(seconds) < 5) return "now";
  return seconds > 0 ? `in ${duration(seconds)}` : `${duration(-seconds)} ago`;
}

/** A moment on the viewer's own clock, for the tooltip. */
export function moment(at) {
  if (!isNumber(at) || !at) return "";
  return new Date(at * 1000).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "medium" });
}

/** A moment on the viewer's own clock as people say it: "02:10", or "29 Nov 02:10" if it is another day than `now`. */
export function clock(at, now) {
  const [then, today] = [new Date(at * 1000), new Date(now * 1000)];
  const time = then.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
  return then.toDateString() === today.toDateString() ? time : `${day(at)} ${time}`;
}

/** The day of a moment on the viewer's own clock: "28 Nov". */
export function day(at) {
  return new Date(at * 1000).toLocaleDateString("en-GB", { day: "numeric", month: "short" });
}

/** 12345678 → "12.3 MB". */
export function bytes(n) {
  if (!isNumber(n)) return "–";
  for (const [unit, size] of [
    ["GB", 1e9],
    ["MB", 1e6],
    ["kB", 1e3],
  ]) {
    if (n >= size) return `${(n / size).toFixed(n >= 100 * size ? 0 : 1)} ${unit}`;
  }
  return `${n} B`;
}

function isNumber(n) {
  return typeof n === "number" && Number.isFinite(n);
}
