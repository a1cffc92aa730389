// The page: where it is, what it shows, when it reads again.

import { Api, ApiFailure } from "./api.js";
import { Board } from "./board.js";
import { detailView, summaryCard } from "./detail.js";
import { CancelDialog } from "./dialog.js";
import { h, icon, update } from "./dom.js";
import { failureNotice } from "./failures.js";
import { relative } from "./format.js";
import { rowsOf } from "./groups.js";
import { PROGRESS_KEY, STANDINGS, entryOf, instanceOf, ownerOf } from "./jobs.js";
import { groupButtons, jobsTable, listView } from "./list.js";
import { loginLink, openLinksOutside } from "./links.js";
import { copyText, readPlace, writePlace } from "./outer.js";
import { airflowLinks, jobHash, jobOfHash, placeOf } from "./place.js";
import { Pulse } from "./pulse.js";
import { Samples } from "./sample.js";
import { followTheme } from "./theme.js";

/** Seconds between two reads while a job is active, and while none is. */
const ACTIVE_S = 10;
const IDLE_S = 60;
const TYPING_MS = 350;
const DRAW_MS = 60;

const own = new URL(".", location.href).href;
const root = new URL("..", own).href;
const place = placeOf(location.search);
const api = new Api(root, own.replace(/\/$/, ""));
const links = airflowLinks(root);
const at = (id) => document.getElementById(id);

class Page {
  constructor() {
    this.board = new Board(api, () => this.drawSoon());
    this.samples = new Samples(api, () => this.drawSoon());
    /** What the viewer has chosen for lists: the group of states, the order, and which rows were folded or unfolded. */
    this.view = { group: "all", order: { by: null, isReversed: false }, toggled: new Set(), areOpen: false };
    this.pulse = new Pulse(() => this.look());
    this.dialog = new CancelDialog(at("dialog"), api, (text) => this.cancelled(text));
    this.foreign = null;
  }

  start() {
    document.body.dataset.place = place.taskId ? "task" : place.runId ? "run" : "all";
    document.addEventListener("click", (event) => this.click(event));
    addEventListener("hashchange", () => this.turn());
    at("search").addEventListener("input", () => this.typed());
    at("refresh").addEventListener("click", () => this.pulse.now());
    setInterval(() => this.draw(), 15_000);
    this.turn();
  }

  /** Show what the address names: a job, or the list. */
  turn() {
    const wanted = jobOfHash(location.hash);
    writePlace();
    const before = this.wanted;
    this.wanted = wanted;
    if (wanted) this.openJob(wanted);
    else if (this.list) this.board.listing = this.list;
    else if (!place.taskId) this.openList();
    this.draw();
    this.pulse.now();
    this.moveFocus(before);
  }

  /** A job of the list has been read already; one opened by its address is read alone. */
  openJob(wanted) {
    if (!this.job()) this.board.open(wanted);
  }

  openList() {
    this.board.open({ dagId: place.dagId, runId: place.runId }, at("search").value.trim());
    this.list = this.board.listing;
  }

  moveFocus(before) {
    if (this.wanted) at("title")?.focus();
    else if (before) document.querySelector(`[data-open="${CSS.escape(jobHash(before))}"] a`)?.focus();
    if (this.wanted || before) scrollTo(0, 0);
  }

  job() {
    const { dagId, runId, key } = this.wanted ?? {};
    return this.board.allJobs.find((job) => job.dagId === dagId && job.runId === runId && job.key === key) ?? null;
  }

  /** Read once; returns the seconds until the next read. */
  async look() {
    at("refresh").classList.add("busy");
    try {
      if (place.taskId && !this.wanted && !this.foreign?.isFound) await this.findTask();
      if (this.foreign?.isFound !== false) await this.board.look();
      const job = this.shown();
      if (job) await this.board.readDetail(job);
    } catch (error) {
      if (!(error instanceof ApiFailure)) throw error;
      this.board.failure = error;
    } finally {
      at("refresh").classList.remove("busy");
      this.draw();
    }
    if (this.board.failure?.status === 401) return null;
    if (this.board.failure) throw this.board.failure;
    const isActive = this.board.jobs.some((job) => STANDINGS[this.board.standing(job)].group === "active");
    return isActive || this.foreign?.isOurs ? ACTIVE_S : IDLE_S;
  }

  /** Find the job that the tab's task works on. */
  async findTask() {
    const { xcom_entries: raw } = await api.keys({ ...place, pattern: `${PROGRESS_KEY}.` });
    const entry = raw.map((one) => entryOf(one)).find(Boolean);
    if (entry) {
      this.foreign = { isFound: true };
      this.board.open({ dagId: place.dagId, runId: place.runId, key: entry.key });
      return;
    }
    const operator = this.foreign?.operator ?? instanceOf(await api.instance(place)).operator;
    this.foreign = {
      isFound: false,
      operator,
      isOurs: /OpenAIBatch(Submit|Results)?(Operator|Sensor)$/i.test(operator) || /openai_batch/i.test(operator),
    };
    this.board.failure = null;
    this.board.lookedAt = api.now();
  }

  /** The job that is shown in full, or null. */
  shown() {
    if (this.wanted) return this.job();
    return place.taskId && this.foreign?.isFound ? (this.board.jobs[0] ?? null) : null;
  }

  /** Render once for all responses that arrive together. */
  drawSoon() {
    this.drawing ??= setTimeout(() => this.draw(), DRAW_MS);
  }

  draw() {
    clearTimeout(this.drawing);
    this.drawing = null;
    const { board, wanted } = this;
    const now = api.now();
    const failure = board.failure && failureNotice(board.failure, board.jobs.length > 0, loginLink(root));
    document.body.dataset.view = wanted || place.taskId ? "detail" : "list";
    update(at("main"), failure, this.content(now, Boolean(failure)));
    update(at("groups"), groupButtons(board, this.view.group));
    const names = new Set(board.allJobs.flatMap((job) => [job.dagName, ownerOf(job, board.progress(job)).taskId]));
    update(
      at("names"),
      [...names].sort().map((name) => h("option", { value: name, key: name })),
    );
    update(at("seen"), board.lookedAt ? `Updated ${relative(board.lookedAt, now)}` : "");
  }

  content(now, hasFailed) {
    const job = this.shown();
    if (job) return detailView(this.board, job, { links, now, isAlone: !this.wanted, samples: this.samples });
    if (this.wanted || place.taskId) return this.absent(hasFailed);
    if (place.runId) return this.runView(now, hasFailed);
    return hasFailed && !this.board.jobs.length ? null : listView(this.board, this.view, now);
  }

  absent(hasFailed) {
    if (hasFailed) return null;
    if (!this.board.lookedAt) return h("p", { class: "quiet" }, "Looking…");
    if (this.wanted)
      return [
        h("a", { href: "#", class: "back" }, icon("left"), "All jobs"),
        h(
          "p",
          { class: "quiet" },
          "This job is not there: its run was deleted, its tasks were cleared, or you may not see it.",
        ),
      ];
    if (this.foreign?.isOurs)
      return h(
        "p",
        { class: "quiet" },
        "This task has not looked at its job yet. Its progress appears here when it has.",
      );
    return h("p", { class: "quiet" }, "This task has no OpenAI batch job.");
  }

  runView(now, hasFailed) {
    const jobs = this.board.jobs;
    if (jobs.length) {
      const more =
        this.board.hasMore &&
        h(
          "div",
          { class: "list-foot" },
          h("button", { type: "button", class: "button", "data-act": "further" }, icon("down"), "Look further"),
        );
      return [rowsOf(jobs, (job) => this.board.progress(job)).map((row) => this.cardOf(row, now)), more];
    }
    if (hasFailed) return null;
    return h(
      "p",
      { class: "quiet" },
      this.board.lookedAt ? "This Dag run has no OpenAI batch job, or its tasks have not begun." : "Looking…",
    );
  }

  /** A job in full, and mapped jobs as one table. */
  cardOf({ id, taskId, jobs }, now) {
    if (jobs.length === 1) return summaryCard(this.board, jobs[0], { links, now });
    const view = { ...this.view, areOpen: true };
    return h("article", { class: "card", key: id, "aria-label": taskId }, jobsTable(this.board, jobs, view, now));
  }

  click(event) {
    const act = event.target.closest?.("[data-act]");
    if (act) return this.act(act);
    const row = event.target.closest?.("[data-open]");
    // Selecting text in a row is not a click on it.
    if (event.target.closest("a, button") || String(getSelection()) !== "") return undefined;
    if (row) location.hash = row.dataset.open;
    const group = event.target.closest?.("[data-toggle]");
    if (group) this.toggle(group.dataset.toggle);
    return undefined;
  }

  act(element) {
    const { act, group, job: id, by, row, status, text } = element.dataset;
    const { view } = this;
    if (act === "group") view.group = group;
    if (act === "sort") view.order = { by, isReversed: view.order.by === by && !view.order.isReversed };
    if (act === "toggle") this.toggle(row);
    if (act === "copy") this.copy(text);
    if (act === "hide") this.samples.hide(id);
    if (act === "further") this.further(element);
    if (act === "again") this.pulse.now();
    const job = this.board.allJobs.find((one) => one.id === id);
    if (job && act === "cancel") this.dialog.open(this.board, job, element);
    if (job && act === "sample") this.sample(job, status);
    this.draw();
  }

  toggle(id) {
    const { toggled } = this.view;
    if (!toggled.delete(id)) toggled.add(id);
    this.draw();
  }

  sample(job, status) {
    const owner = ownerOf(job, this.board.progress(job));
    this.samples.read(job.id, { dagId: job.dagId, runId: job.runId, ...owner }, status);
  }

  async copy(text) {
    const isCopied = await copyText(text);
    update(at("said"), isCopied ? `Copied: ${text}` : `Your browser did not let the page copy this: ${text}`);
  }

  further(button) {
    button.disabled = true;
    this.board.nLooked += 25;
    this.pulse.now();
  }

  typed() {
    clearTimeout(this.typing);
    this.typing = setTimeout(() => {
      this.openList();
      this.draw();
      this.pulse.now();
    }, TYPING_MS);
  }

  cancelled(text) {
    update(at("said"), text);
    this.pulse.now();
  }
}

followTheme();
openLinksOutside();
readPlace();
new Page().start();
