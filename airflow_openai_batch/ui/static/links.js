// Leaving the frame. Airflow's frame lets the page neither navigate nor open windows, so the page around it does.

/** Let links with `data-out` open in the page around the frame, or in a new tab if asked for. */
export function openLinksOutside() {
  if (window.parent === window) return;
  for (const kind of ["click", "auxclick"]) document.addEventListener(kind, follow);
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

/** Return the address where Airflow logs a person in and leads back to the page they look at. */
export function loginLink(root) {
  return `${root}api/v2/auth/login?next=${encodeURIComponent(window.parent.location.href)}`;
}
