// A sample of a job's requests and answers, read when it is asked for and kept nowhere.

import { h, icon } from "./dom.js";
import { count, counted } from "./format.js";
import { OUTCOMES } from "./jobs.js";
import { notice, section } from "./parts.js";

/** The samples that were asked for, by job. */
export class Samples {
  /** `onChange` is called whenever there is something new to show. */
  constructor(api, onChange) {
    this.api = api;
    this.onChange = onChange;
    this.byJob = new Map();
  }

  /** Read a sample of the job of `owner`; `status` is an outcome, or empty for any. */
  async read(jobId, owner, status) {
    const asked = { status, isBusy: true, rows: [], failure: null };
    this.byJob.set(jobId, asked);
    this.onChange();
    try {
      Object.assign(asked, sampleOf(await this.api.sample(owner, status)));
    } catch (error) {
      asked.failure = error;
    }
    asked.isBusy = false;
    this.onChange();
  }

  /** Forget a job's sample. */
  hide(jobId) {
    this.byJob.delete(jobId);
  }
}

function sampleOf(value) {
  const rows = Array.isArray(value?.rows) ? value.rows : [];
  return { rows: rows.filter((row) => row && typeof row === "object"), isCut: value?.is_cut === true };
}

/** The block of a job's view: the question, then the rows or why there are none. */
export function sampleView(samples, job, progress) {
  const asked = samples.byJob.get(job.id);
  const statuses = Object.keys(progress.byStatus).filter((status) => progress.byStatus[status] > 0);
  const choices = ["", ...Object.keys(OUTCOMES).filter((status) => statuses.includes(status))];
  return section(
    "Sample of requests and answers",
    h(
      "div",
      { class: "choices" },
      choices.map((status) =>
        h(
          "button",
          {
            type: "button",
            class: "button",
            "data-act": "sample",
            "data-job": job.id,
            "data-status": status,
            "aria-pressed": String(asked?.status === status),
            disabled: asked?.isBusy === true,
          },
          icon("table"),
          status || "Any rows",
        ),
      ),
      asked && h("button", { type: "button", class: "button", "data-act": "hide", "data-job": job.id }, "Hide"),
    ),
    asked
      ? content(asked)
      : h(
          "p",
          { class: "muted small" },
          "Read from the job store when you ask; for those who may read the task's logs.",
        ),
  );
}

function content({ isBusy, failure, rows, isCut, status }) {
  if (isBusy) return h("p", { class: "muted" }, "Reading the job store…");
  if (failure) return refusal(failure);
  if (rows.length === 0) {
    const text = status ? `No row is ${status} in what was looked at.` : "The job store has no rows of this job yet.";
    return h("p", { class: "muted" }, text);
  }
  return [
    h("ol", { class: "sample" }, rows.map(row)),
    h(
      "p",
      { class: "muted small" },
      `${counted(rows.length, "row")}, long texts cut.`,
      isCut && " There are more: the results have all of them.",
    ),
  ];
}

function refusal(failure) {
  if (failure.status === 403)
    return notice(
      "warning",
      "You may not see requests and answers",
      h("p", null, "They are for those who may read the logs of this Dag's tasks: ask for “can read” on Task Logs."),
    );
  if (failure.status === 401)
    return notice("warning", "You are not logged in", h("p", null, "Log in to Airflow, then ask again."));
  if (failure.status === 410) return notice("info", "The job was removed", h("p", { class: "pre" }, failure.message));
  const title = failure.status === 503 ? "The API server cannot read the job store" : "There is no sample";
  return notice("warning", title, h("p", { class: "pre" }, failure.message));
}

function row({ custom_id: id, status, request, answer, error, row: ordinal }) {
  return h(
    "li",
    null,
    h(
      "div",
      { class: "sample-head" },
      h("code", { class: "id" }, text(id)),
      h("span", { class: "muted small" }, `row ${count(ordinal)}`),
      h("i", { class: `swatch ${OUTCOMES[status]?.kind ?? "open"}` }),
      h("span", null, status ? text(status) : "no answer yet"),
    ),
    part("Request", request),
    part("Answer", answer),
    error ? h("p", { class: "problem pre" }, text(error)) : null,
  );
}

function part(title, value) {
  if (value === null || value === undefined) return null;
  return h("div", { class: "sample-part" }, h("h4", null, title), h("pre", { tabindex: 0 }, text(value)));
}

function text(value) {
  return typeof value === "string" ? value : JSON.stringify(value, null, 1);
}
