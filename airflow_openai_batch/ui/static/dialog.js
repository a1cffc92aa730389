// The confirmation before a job is cancelled. A wrong click costs money, so it says what will happen.

import { h, icon, update } from "./dom.js";
import { counted } from "./format.js";
import { cancellableTask, ownerName } from "./jobs.js";
import { notice } from "./parts.js";

const NO_TRIGGERER =
  "No triggerer is alive, and it is the triggerer that cancels batches. Start one, or use `python -m airflow_openai_batch cancel`, which needs none.";

/** The dialog of the page; one at a time. */
export class CancelDialog {
  /** `element` is a `<dialog>`; `onDone(text)` receives what was done. */
  constructor(element, api, onDone) {
    this.element = element;
    this.api = api;
    this.onDone = onDone;
    element.addEventListener("click", (event) => this.click(event));
    element.addEventListener("keydown", (event) => keepFocus(event, element));
    element.addEventListener("close", () => this.opener?.isConnected && this.opener.focus());
  }

  /** Open the dialog for a job. `opener` gets the focus afterwards. */
  async open(board, job, opener) {
    const progress = board.progress(job);
    const task = cancellableTask(job, progress, board.instances);
    if (!task) return;
    this.opener = opener;
    this.asked = { job, progress, task, name: ownerName(job, progress) };
    this.show({ isChecking: true });
    this.element.showModal();
    this.element.querySelector("[data-answer=no]").focus();
    const asked = this.asked;
    const refusal = await this.refusal(task);
    if (this.element.open && this.asked === asked) this.show({ refusal });
  }

  /** Return why the viewer cannot do this, or null. Asks Airflow without changing anything. */
  async refusal(task) {
    try {
      await this.api.tryMarkFailed(task);
      return (await this.api.hasTriggerer()) ? null : NO_TRIGGERER;
    } catch (error) {
      return refusalText(error, task);
    }
  }

  async click(event) {
    if (event.target === this.element) this.element.close();
    const answer = event.target.closest?.("[data-answer]")?.dataset.answer;
    if (answer === "no") this.element.close();
    if (answer === "yes" && !this.isBusy) await this.cancel();
  }

  async cancel() {
    const { task, name } = this.asked;
    this.isBusy = true;
    this.show({ isBusy: true });
    try {
      await this.api.markFailed(task);
      this.element.close();
      this.onDone(`Task ${task.taskName} is marked failed; the batches of ${name} are being cancelled.`);
    } catch (error) {
      this.show({ refusal: refusalText(error, task) });
    } finally {
      this.isBusy = false;
    }
  }

  show({ isChecking = false, isBusy = false, refusal = null }) {
    const { name } = this.asked;
    const may = !refusal && !isChecking && !isBusy;
    update(
      this.element,
      h("h2", { id: "dialog-title" }, `Cancel ${name}?`),
      h(
        "div",
        { class: "dialog-body", id: "dialog-body" },
        consequences(this.asked),
        refusal ? notice("error", "You cannot do this", h("p", null, refusal)) : null,
      ),
      h(
        "div",
        { class: "dialog-foot" },
        h("button", { type: "button", class: "button", "data-answer": "no" }, refusal ? "Close" : "Keep it running"),
        h(
          "button",
          { type: "button", class: "button danger solid", "data-answer": "yes", disabled: !may },
          isBusy || isChecking ? h("span", { class: "spinner small" }) : icon("stop"),
          "Cancel the job",
        ),
      ),
    );
  }
}

function consequences({ progress, task }) {
  const marked = ["Task ", h("code", null, task.taskName), " is marked failed. "];
  return points([
    [marked, `Its trigger then asks OpenAI to cancel ${runningText(progress)}. Tasks that depend on it do not run.`],
    ["Paid: ", "answers that are finished by then. They are kept, at OpenAI or in the job store."],
    ["Not paid: ", "rows that OpenAI has not begun. It may take OpenAI up to ten minutes to stop."],
    ["To go on: ", "clear the task. It takes up the finished answers for free and sends only the other rows."],
  ]);
}

function runningText(progress) {
  const nRunning = progress.n_running ?? progress.batches.length;
  if (!nRunning) return "what it has running";
  return nRunning === 1 ? "the batch that runs" : `the ${counted(nRunning, "batch")} that run`;
}

/** A list of points; a text at a point's beginning is its heading. */
function points(items) {
  const point = ([first, ...rest]) => h("li", null, typeof first === "string" ? h("strong", null, first) : first, rest);
  return h("ul", null, items.map(point));
}

function refusalText(error, task) {
  if (error.status === 403)
    return `You may not change task instances of Dag ${task.dagName}. Airflow asks for “can edit” on the Dag, on Dag runs and on task instances.`;
  if (error.status === 401) return "You are not logged in. Log in to Airflow, then repeat this.";
  if (error.status === 404) return `Task ${task.taskName} is gone: its run was deleted or its Dag no longer has it.`;
  return `Airflow did not accept it: ${error.message}`;
}

/** Keep the focus inside the dialog: in a frame the Tab key would leave it. */
function keepFocus(event, element) {
  if (event.key !== "Tab") return;
  const inside = [...element.querySelectorAll("button:not(:disabled), a[href], [tabindex='0']")];
  const [first, last] = [inside[0], inside.at(-1)];
  const at = document.activeElement;
  if (event.shiftKey ? at === first || at === element : at === last) {
    event.preventDefault();
    (event.shiftKey ? last : first).focus();
  }
}
