// The page: where it is, what it shows, when it reads again.

import { Api, ApiFailure } from "./api.js";
import { Board } from "./board.js";
import { detailView } from "./detail.js";
import { CancelDialog } from "./dialog.js";
import { h, update } from "./dom.js";
import { failureNotice } from "./failures.js";
import { relative } from "./format.js";
import { History } from "./history.js";
import { PROGRESS_KEY, STANDINGS, entryOf, instanceOf, ownerOf } from "./jobs.js";
import { lastRunsView } from "./lastruns.js";
import { groupButtons, listView } from "./list.js";
import { loginLink, openLinksOutside } from "./links.js";
import { copyText, readPlace, writePlace } from "./outer.js";
import { airflowLinks, dagOfHash, jobHash, jobOfHash, placeOf } from "./place.js";
import { followPointing } from "./pointing.js";
import { Pulse } from "./pulse.js";
import { Samples } from "./sample.js";
import { absentView, runTab } from "./tabs.js";
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
    /**
     * What the viewer has chosen: for lists the group of states, the order, and which rows were folded or unfolded; for
     * a Dag's runs the task, and the run that is pointed at, or of a job the shard.
     */
    const lists = { group: "all", order: { by: null, isReversed: false }, toggled: new Set(), areOpen: false };
    this.view = { ...lists, task: null, run: null };
    this.history = null;
    this.pulse = new Pulse(() => this.look());
    this.dialog = new CancelDialog(at("dialog"), api, (text) => this.cancelled(text));
    this.foreign = null;
  }

  start() {
    document.body.dataset.place = place.taskId ? "task" : place.runId ? "run" : place.dagId ? "dag" : "all";
    document.addEventListener("click", (event) => this.click(event));
    followPointing((runId) => this.point(runId));
    addEventListener("resize", () => this.drawSoon());
    addEventListener("hashchange", () => this.turn());
    at("search").addEventListener("input", () => this.typed());
    at("refresh").addEventListener("click", () => this.pulse.now());
    setInterval(() => this.draw(), 15_000);
    this.turn();
  }

  /** Show what the address names: a job, the last runs of a Dag, or the list. */
  turn() {
    const wanted = jobOfHash(location.hash);
    writePlace();
    const before = this.wanted;
    this.wanted = wanted;
    this.dagId = wanted ? null : (dagOfHash(location.hash) ?? (place.runId ? null : place.dagId));
    if (wanted) this.openJob(wanted);
    else if (this.dagId) this.openRuns(this.dagId);
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

  openRuns(dagId) {
    if (this.history?.dagId !== dagId) this.history = new History(api, this.board, dagId);
  }

  moveFocus(before) {
    if (this.wanted || dagOfHash(location.hash)) at("title")?.focus();
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
      await (this.dagId ? this.lookAtRuns() : this.lookAtJobs());
    } catch (error) {
      if (!(error instanceof ApiFailure)) throw error;
      this.board.failure = error;
    } finally {
      at("refresh").classList.remove("busy");
      this.draw();
    }
    if (this.board.failure?.status === 401) return null;
    if (this.board.failure) throw this.board.failure;
    if (this.dagId) return this.history.isActive ? ACTIVE_S : IDLE_S;
    const isActive = this.board.jobs.some((job) => STANDINGS[this.board.standing(job)].group === "active");
    return isActive || this.foreign?.isOurs ? ACTIVE_S : IDLE_S;
  }

  async lookAtRuns() {
    await this.history.look();
    this.board.failure = null;
  }

  async lookAtJobs() {
    if (place.taskId && !this.wanted && !this.foreign?.isFound) await this.findTask();
    if (this.foreign?.isFound !== false) await this.board.look();
    const job = this.shown();
    if (job) await this.board.readDetail(job);
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
    const { jobs, lookedAt } = this.dagId ? this.history : board;
    const failure = board.failure && failureNotice(board.failure, jobs.length > 0, loginLink(root));
    document.body.dataset.view = wanted || place.taskId || this.dagId ? "detail" : "list";
    update(at("main"), failure, this.content(now, Boolean(failure)));
    update(at("groups"), groupButtons(board, this.view.group));
    const names = new Set(board.allJobs.flatMap((job) => [job.dagName, ownerOf(job, board.progress(job)).taskId]));
    update(
      at("names"),
      [...names].sort().map((name) => h("option", { value: name, key: name })),
    );
    update(at("seen"), lookedAt ? `Updated ${relative(lookedAt, now)}` : "");
  }

  content(now, hasFailed) {
    if (this.dagId) return this.runs(now, hasFailed);
    const job = this.shown();
    const { board, view } = this;
    if (job) {
      const { samples, width } = this;
      return detailView(board, job, { links, now, isAlone: !this.wanted, samples, width, pointed: view.run });
    }
    if (this.wanted || place.taskId) return hasFailed ? null : absentView(board, Boolean(this.wanted), this.foreign);
    if (place.runId) return runTab(board, view, { links, now, hasFailed });
    return hasFailed && !board.jobs.length ? null : listView(board, view, now);
  }

  /** Of a chart in pixels. Something has to be drawn where nothing has a width yet. */
  get width() {
    return Math.max(280, at("main").clientWidth);
  }

  runs(now, hasFailed) {
    if (hasFailed && !this.history.jobs.length) return null;
    const { width } = this;
    return lastRunsView(this.history, this.view, { links, now, width, canGoBack: Boolean(dagOfHash(location.hash)) });
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
    const { act, group, job: id, by, row, status, task, text } = element.dataset;
    const { view } = this;
    if (act === "group") view.group = group;
    if (act === "sort") view.order = { by, isReversed: view.order.by === by && !view.order.isReversed };
    if (act === "toggle") this.toggle(row);
    if (act === "copy") this.copy(text);
    if (act === "hide") this.samples.hide(id);
    if (act === "further") this.further(element);
    if (act === "again") this.pulse.now();
    if (act === "task") view.task = task || null;
    const job = this.board.allJobs.find((one) => one.id === id);
    if (job && act === "cancel") this.dialog.open(this.board, job, element);
    if (job && act === "sample") this.sample(job, status);
    this.draw();
  }

  point(runId) {
    if (this.view.run === runId) return;
    this.view.run = runId;
    this.drawSoon();
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
