// The surrounding Airflow. Its address bar shows none of the frame's address, so the page keeps its place there too.

/** Return the window whose address a person sees and copies: Airflow's around the frame, else this one. */
function outerWindow() {
  try {
    return window.parent.location.href ? window.parent : window;
  } catch {
    return window; // around the page is something of another origin
  }
}

/** Take over the place that Airflow's address names: after a reload, or when somebody has sent it. */
export function readPlace() {
  const { hash } = outerWindow().location;
  if (hash.length > 1 && location.hash.length <= 1) history.replaceState(history.state, "", hash);
}

/** Write the page's place into Airflow's address. Airflow's own history stays as it is. */
export function writePlace() {
  const outer = outerWindow();
  if (outer === window || outer.location.hash === location.hash) return;
  const { pathname, search } = outer.location;
  outer.history.replaceState(outer.history.state, "", pathname + search + location.hash);
}

/** Copy text; returns whether that worked. Without encryption browsers offer only the old way. */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyBySelection(text);
  }
}

function copyBySelection(text) {
  const field = document.createElement("textarea");
  field.value = text;
  field.className = "sr";
  const focused = document.activeElement;
  document.body.append(field);
  field.select();
  const isCopied = document.execCommand("copy");
  field.remove();
  focused?.focus();
  return isCopied;
}
