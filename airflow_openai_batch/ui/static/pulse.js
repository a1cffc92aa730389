// The polling schedule: regular, paused while the page is hidden, less often while it fails.

const LONGEST_S = 300;
const FIRST_PAUSE_S = 10;

/** Calls `work` again and again; it returns the seconds until the next time, or null to stop until asked. */
export class Pulse {
  constructor(work) {
    this.work = work;
    this.nFailed = 0;
    this.isBusy = false;
    this.isWanted = false;
    document.addEventListener("visibilitychange", () => this.seen());
    addEventListener("online", () => this.now());
  }

  /** Work now, or right after the present work. */
  async now() {
    clearTimeout(this.timer);
    this.isWanted = true;
    if (this.isBusy) return;
    this.isBusy = true;
    let pauseS = null;
    while (this.isWanted) {
      this.isWanted = false;
      pauseS = await this.once();
    }
    this.isBusy = false;
    this.rest(pauseS);
  }

  async once() {
    try {
      const pauseS = await this.work();
      this.nFailed = 0;
      return pauseS;
    } catch {
      // The work has shown the failure; here it is only counted.
      this.nFailed += 1;
      return Math.min(LONGEST_S, FIRST_PAUSE_S * 2 ** (this.nFailed - 1));
    }
  }

  rest(pauseS) {
    clearTimeout(this.timer);
    this.dueAt = pauseS === null ? Infinity : Date.now() + pauseS * 1000;
    if (pauseS !== null && !document.hidden) this.timer = setTimeout(() => this.now(), pauseS * 1000);
  }

  /** Pause while the page is hidden; work at once when it is visible again. */
  seen() {
    clearTimeout(this.timer);
    if (document.hidden || this.isBusy) return;
    if (Date.now() >= this.dueAt) this.now();
    else if (this.dueAt !== Infinity) this.timer = setTimeout(() => this.now(), this.dueAt - Date.now());
  }
}
