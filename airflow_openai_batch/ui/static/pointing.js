// Pointing at one of several things in a row: with the mouse, by touch, or with the keyboard's arrows.

const STEPS = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1, Home: -Infinity, End: Infinity };

/** Call `onPoint` with the `data-point` of what is pointed at or has the focus. Arrow keys move the focus in a group. */
export function followPointing(onPoint) {
  for (const eventType of ["mouseover", "focusin"]) {
    document.addEventListener(eventType, ({ target }) => {
      const at = target.closest?.("[data-point]");
      if (at) onPoint(at.dataset.point);
    });
  }
  document.addEventListener("keydown", step);
}

function step(event) {
  const at = event.target.closest?.("[data-point]");
  if (!at || !(event.key in STEPS) || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  const all = [...at.parentElement.querySelectorAll("[data-point]")];
  const next = Math.max(0, Math.min(all.length - 1, all.indexOf(at) + STEPS[event.key]));
  all[next].focus();
}
