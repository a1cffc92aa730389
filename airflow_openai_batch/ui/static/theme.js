// The colours of the surrounding Airflow. Inside its frame the page adopts them, alone it follows the system.

/** Our names and the Chakra names that Airflow gives them, also when a deployment has a theme of its own. */
const COLOURS = {
  "--bg": "bg",
  "--bg-subtle": "bg-subtle",
  "--bg-muted": "bg-muted",
  "--bg-panel": "bg-panel",
  "--fg": "fg",
  "--fg-muted": "fg-muted",
  "--fg-subtle": "fg-subtle",
  "--border": "border",
  "--border-strong": "border-emphasized",
  "--brand": "brand-solid",
  "--brand-fg": "brand-fg",
  "--brand-subtle": "brand-subtle",
  "--focus": "brand-focus-ring",
  // The states of tasks: a job that runs has the colour of a task that runs.
  "--running": "running-solid",
  "--queued": "queued-solid",
  "--scheduled": "scheduled-solid",
  "--success": "success-solid",
  "--failed": "failed-solid",
  "--none": "none-solid",
};

/** Follow Airflow's light or dark mode from now on, and every change of it. */
export function followTheme() {
  const outer = outerRoot();
  const system = matchMedia("(prefers-color-scheme: dark)");
  const apply = () => {
    const theme = (outer && themeOf(outer)) ?? (system.matches ? "dark" : "light");
    document.documentElement.dataset.theme = theme;
    if (outer) takeColours(outer);
  };
  apply();
  system.addEventListener("change", apply);
  if (outer)
    new MutationObserver(apply).observe(outer, { attributes: true, attributeFilter: ["class", "style", "data-theme"] });
}

/** Return the root element of the surrounding page, or null if there is none or it is of another origin. */
function outerRoot() {
  try {
    return window.parent === window ? null : window.parent.document.documentElement;
  } catch {
    return null;
  }
}

function themeOf(root) {
  if (root.classList.contains("dark") || root.dataset.theme === "dark") return "dark";
  if (root.classList.contains("light") || root.dataset.theme === "light") return "light";
  return null;
}

function takeColours(outer) {
  const theirs = getComputedStyle(outer);
  for (const [ours, name] of Object.entries(COLOURS)) {
    const colour = theirs.getPropertyValue(`--chakra-colors-${name}`).trim();
    if (colour && CSS.supports("color", colour)) document.documentElement.style.setProperty(ours, colour);
    else document.documentElement.style.removeProperty(ours);
  }
}
