// What is said of a job's money, and of what keeps its rest back.

import assert from "node:assert/strict";
import { test } from "node:test";

import { pure } from "./modules.mjs";

const [money, values] = await pure("money.js", "values.js");

const progress = (more = {}) => values.progressOf({ version: 1, phase: "waiting", n_rows: 10, n_done: 0, ...more });

test("a held job says what of its own holds it, and any other job does not", () => {
  const words = ["cap", "pilot", "probe", null].map((limit) => money.heldBy("held", progress({ limit })));
  assert.deepEqual(words, ["Held by its cap", "Held by its pilot", "Held by its probe", null]);
  assert.equal(money.heldBy("running", progress({ limit: "cap" })), null);
  assert.equal(money.heldBy("held", null), null);
});

test("of a job that runs it is said what the rest waits for, if it is the job's own", () => {
  assert.equal(money.keptBack("running", progress({ limit: "cap" })), "the cap is reached: the rest is not sent");
  assert.equal(money.keptBack("queued", progress({ limit: "pilot" })), "the pilot runs first");
  assert.equal(money.keptBack("running", progress()), null);
  assert.equal(money.keptBack("held", progress({ limit: "cap" })), null);
});

test("there is a column of costs where any job tells of money, and old values tell of none", () => {
  assert.equal(money.tellsMoney(progress()), false);
  assert.equal(money.tellsMoney(null), false);
  for (const name of ["cost", "expected_cost", "upper_cost", "max_cost"]) {
    assert.equal(money.tellsMoney(progress({ [name]: 0.5 })), true, name);
    assert.equal(money.tellsMoney(progress({ [name]: "nonsense" })), false, name);
  }
});

test("values of before money was told have none of it, and nothing nonsensical is taken for an amount", () => {
  const old = progress();
  for (const name of ["cost", "expected_cost", "upper_cost", "max_cost"]) assert.equal(old[name], null, name);
  for (const name of ["saved", "saved_by_reuse", "reused_rows", "rows_without_price", "cost_of_bad_rows"]) {
    assert.equal(old[name], 0, name);
    assert.equal(progress({ [name]: {} })[name], 0, name);
  }
});
