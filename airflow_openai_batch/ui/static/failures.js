// Messages for failed calls of Airflow's API.

import { h } from "./dom.js";
import { notice } from "./parts.js";

/** Return a message for a failed read. `hasContent` if older content remains below; `login` is the login page. */
export function failureNotice(failure, hasContent, login) {
  const still = hasContent ? " What you see below is from before." : "";
  const again = h("button", { type: "button", class: "button", "data-act": "again" }, "Try again");
  if (failure.status === 401) {
    const link = h("a", { class: "button", href: login, "data-out": "" }, "Log in");
    return notice("warning", "You are not logged in", h("p", null, `Airflow does not know your session.${still}`), link);
  }
  if (failure.status === 403) {
    return notice(
      "warning",
      "You may not read this",
      h(
        "p",
        null,
        "The page shows what Airflow's API lets you see. It reads XComs and task instances of Dags: ask for “can read” on XComs, Dag runs and task instances, and on the Dags whose jobs you need.",
      ),
      again,
    );
  }
  if (failure.status === 404)
    return notice(
      "info",
      "It is not there",
      h("p", null, "The run or the task was deleted, or you may not see it."),
      again,
    );
  if (failure.status === 0)
    return notice(
      "error",
      "Airflow does not answer",
      h("p", null, `The API server could not be reached (${failure.message}).${still} The page tries again by itself.`),
      again,
    );
  return notice(
    "error",
    "Airflow's API failed",
    h(
      "p",
      null,
      `HTTP ${failure.status}${failure.message ? `: ${failure.message}` : ""}.${still} The page tries again by itself.`,
    ),
    again,
  );
}
