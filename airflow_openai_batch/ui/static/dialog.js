// The question before a job is cancelled. A wrong click here costs money, so it says what will happen to it.

import { h, icon, update } from "./dom.js";
import { counted } from "./format.js";
import { ownerName, waitingTask } from "./jobs.js";
import { notice } from "./parts.js";

/** The dialog of the page; one at a time. */
export class CancelDialog {
  /** `element` is a `<dialog>`; `onDone(text)` is told what was done. */
  constructor(element, api, onDone) {
    this.element = element;
    this.api = api;
    this.onDone = onDone;
    element.addEventListener("click", (event) => this.click(event));
    element.addEventListener("keydown", (event) => keepFocus(event, element));
    element.addEventListener("close", () => this.opener?.isConnected && this.opener.focus());
  }

  /** Ask about a job. `opener` gets the focus back. */
  async open(board, job, opener) {
    const progress = board.progress(job);
    const task = waitingTask(job, progress, board.instances);
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

  /** Say why the viewer cannot do this, or null. Asks Airflow without changing anything. */
  async refusal(task) {
    try {
      await this.api.tryMarkFailed(task);
      return null;
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
    const { progress, task, name } = this.asked;
    const may = !refusal && !isChecking && !isBusy;
    update(
      this.element,
      h("h2", { id: "dialog-title" }, `Cancel ${name}?`),
      h(
        "div",
        { class: "dialog-body", id: "dialog-body" },
        consequences(progress, task),
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

function consequences(progress, task) {
  const nRunning = progress.n_running ?? progress.batches.length;
  const batches = nRunning
    ? `the ${nRunning === 1 ? "batch that runs" : `${counted(nRunning, "batch")} that run`}`
    : "what it has running";
  const deferred = [
    "Task ",
    h("code", null, task.taskName),
    ` is marked failed. Its trigger then asks OpenAI to cancel ${batches}. Tasks that depend on it do not run.`,
  ];
  const running = [
    "Task ",
    h("code", null, task.taskName),
    " is marked failed. It works on a worker right now instead of waiting in the triggerer, so its batches run on at OpenAI: try again in a minute, when it waits.",
  ];
  return h(
    "ul",
    null,
    h("li", null, task.state === "deferred" ? deferred : running),
    h(
      "li",
      null,
      h("strong", null, "Paid: "),
      "answers that are finished by then. They are kept, at OpenAI or in the job store.",
    ),
    h(
      "li",
      null,
      h("strong", null, "Not paid: "),
      "rows that OpenAI has not begun. It may take OpenAI up to ten minutes to stop.",
    ),
    h(
      "li",
      null,
      h("strong", null, "To go on: "),
      "clear the task. It takes up the finished answers for free and sends only the other rows.",
    ),
  );
}

function refusalText(error, task) {
  if (error.status === 403)
    return `You may not change task instances of Dag ${task.dagName}. Airflow asks for “can edit” on the Dag, on Dag runs and on task instances.`;
  if (error.status === 401) return "You are logged out. Log in to Airflow again, then repeat this.";
  if (error.status === 404) return `Task ${task.taskName} is gone: its run was deleted or its Dag no longer has it.`;
  return `Airflow did not accept it: ${error.message}`;
}

/** Keep the Tab key inside the dialog: a frame would let it out into the page around. */
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
