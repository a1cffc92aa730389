// Building and updating the document. Text is only ever set as text: what the API returns is never read as HTML.

const SVG = "http://www.w3.org/2000/svg";

/**
 * Make an element. Children are nodes, texts, lists of both, or null; `key` says which element is which in an update.
 * No attribute here is a script or a style: the page's policy forbids both.
 */
export function h(name, attributes, ...children) {
  const node = document.createElement(name);
  for (const [attribute, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (attribute === "grow") node.style.flexGrow = String(value);
    else if (attribute === "key") node.dataset.key = value;
    else if (attribute === "href") node.setAttribute("href", safeAddress(value));
    else node.setAttribute(attribute, value === true ? "" : String(value));
  }
  add(node, children);
  return node;
}

function add(node, children) {
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) node.append(child);
  }
}

/** Make an SVG element; see `h`. */
export function svg(name, attributes, ...children) {
  const node = document.createElementNS(SVG, name);
  for (const [attribute, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (attribute === "key") node.dataset.key = value;
    else node.setAttribute(attribute, String(value));
  }
  add(node, children);
  return node;
}

/** A small line drawing from `index.html`'s set; screen readers skip it. */
export function icon(name) {
  return svg("svg", { class: "icon", "aria-hidden": "true" }, svg("use", { href: `#icon-${name}` }));
}

/** Anything but http and this page's own parts becomes an address that does nothing. */
function safeAddress(address) {
  return /^(https?:\/\/|#|\/(?!\/))/.test(address) ? address : "#";
}

/** Make `target`'s children like `fresh`'s, keeping the nodes that stay: focus, selection and scrolling survive. */
export function update(target, ...fresh) {
  const wanted = h("div", null, ...fresh);
  updateChildren(target, wanted);
}

function updateChildren(target, wanted) {
  const keyed = new Map();
  for (const child of target.children) if (child.dataset?.key) keyed.set(child.dataset.key, child);
  let current = target.firstChild;
  for (const next of [...wanted.childNodes]) {
    const key = next.dataset?.key;
    const same = key ? keyed.get(key) : current;
    if (same && isAlike(same, next) && (key || !same.dataset?.key)) {
      if (same === current) current = current.nextSibling;
      else target.insertBefore(same, current);
      updateNode(same, next);
    } else {
      target.insertBefore(next, current);
    }
  }
  while (current) {
    const gone = current;
    current = current.nextSibling;
    gone.remove();
  }
}

function isAlike(node, other) {
  return node.nodeType === other.nodeType && node.nodeName === other.nodeName;
}

function updateNode(node, next) {
  if (node.nodeType === Node.TEXT_NODE) {
    if (node.data !== next.data) node.data = next.data;
    return;
  }
  if (node.isEqualNode(next)) return;
  updateAttributes(node, next);
  if (node.style && node.style.flexGrow !== next.style.flexGrow) node.style.flexGrow = next.style.flexGrow;
  updateChildren(node, next);
}

function updateAttributes(node, next) {
  for (const { name, value } of next.attributes) {
    if (name !== "style" && node.getAttribute(name) !== value) node.setAttribute(name, value);
  }
  for (const { name } of [...node.attributes]) {
    // What the viewer has opened stays open.
    if (name !== "style" && !next.hasAttribute(name) && !(name === "open" && node.nodeName === "DETAILS")) {
      node.removeAttribute(name);
    }
  }
}
