// Elements. What strangers say becomes text nodes and attributes, never markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

export function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

export function set(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    const text = String(value);
    if (element.getAttribute(name) !== text) element.setAttribute(name, text);
  }
}

/** Shows a field of the status: `text` for people, and the value as it came for programs. */
export function tell(element, field, value, text) {
  set(element, { "data-field": field, "data-value": JSON.stringify(value ?? null) });
  if (element.textContent !== text) element.textContent = text;
  return element;
}

/**
 * Keeps one child of `parent` for each item, in the items' order, and touches nothing that stays:
 * so focus, hover and animations outlive an update.
 */
export function each(parent, items, keyOf, make, update) {
  const before = (parent.keyed ??= new Map());
  const now = new Map();
  for (const item of items) {
    const key = keyOf(item);
    const child = before.get(key) ?? make(item);
    before.delete(key);
    now.set(key, child);
    update(child, item);
  }
  for (const child of before.values()) child.remove();
  let next = parent.firstChild;
  for (const child of now.values()) {
    if (child === next) next = next.nextSibling;
    else parent.insertBefore(child, next);
  }
  parent.keyed = now;
}
