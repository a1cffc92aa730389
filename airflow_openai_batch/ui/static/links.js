// Links out of the frame. Airflow's frame forbids navigation and new windows, so the surrounding page does both.

/** Open links with `data-out` in the surrounding page, or in a new tab if requested. */
export function openLinksOutside() {
  if (window.parent === window) return;
  for (const eventType of ["click", "auxclick"]) document.addEventListener(eventType, follow);
}

function follow(event) {
  const link = event.target.closest?.("a[data-out]");
  if (!link || event.button > 1 || event.defaultPrevented) return;
  event.preventDefault();
  const inNewTab = link.target === "_blank" || event.button === 1 || event.ctrlKey || event.metaKey || event.shiftKey;
  const outer = window.parent.document;
  const copy = outer.createElement("a");
  copy.href = link.href;
  copy.rel = "noopener noreferrer";
  if (inNewTab) copy.target = "_blank";
  outer.body.append(copy);
  copy.click();
  copy.remove();
}

/** Return the address of Airflow's login, which returns to the present page. */
export function loginLink(root) {
  return `${root}api/v2/auth/login?next=${encodeURIComponent(window.parent.location.href)}`;
}
