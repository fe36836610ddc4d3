// Small helpers that build elements. Every text goes in as text, never as HTML.

export const $ = (id) => document.getElementById(id);

export function h(tag, properties = {}, ...children) {
  return fill(document.createElement(tag), properties, children);
}

export function svg(tag, properties = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), properties, children);
}

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") Object.entries(value).forEach(([key, to]) => element.style.setProperty(key, to));
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...present(children));
  return element;
}

const present = (children) => children.flat(Infinity).filter((child) => child != null && child !== false);

// Put new children into a container; the focus stays where it was, by the key of its element.
export function show(container, ...children) {
  const focused = container.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  container.replaceChildren(...present(children));
  if (focused) container.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
}

export const WHY = {
  eos: "the end token was chosen",
  stop: "a stop string came up, which isn’t shown",
  length: "the maximum length is reached",
  context: "the model’s window is full",
  blocked: "the filters have left no token to choose from",
};

// A text as far as it came: one that didn't end by itself may be cut within a word.
export const cut = (text, stop) => text + (stop === "length" || stop === "context" ? " …" : "");

// A log-probability; one that rounds to 0 has no sign.
export const log = (value, digits = 2) => (Math.round(value * 10 ** digits) / 10 ** digits || 0).toFixed(digits);

export function percent(p) {
  if (p === 0) return "0\u00a0%";
  if (p < 0.0001) return "<\u00a0.01\u00a0%";
  return `${(100 * p).toFixed(p < 0.001 ? 2 : 1)}\u00a0%`;
}

export const number = (n) => n.toLocaleString("en");

// A token's text with its blanks made visible.
export function readable(piece) {
  return piece.replaceAll("\n", "⏎").replaceAll("\t", "⇥").replace(/^ /, "␣").replace(/ $/, "␣") || "∅";
}

export function chip(token, extra = "") {
  return h("span", { class: `chip ${token.special ? "special" : ""} ${extra}` }, readable(token.piece));
}

export function table(caption, head, rows) {
  return h("table", {},
    h("caption", {}, caption),
    h("thead", {}, h("tr", {}, head.map((cell) => h("th", { scope: "col" }, cell)))),
    h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell) => h("td", {}, cell))))));
}

export const folded = (title, ...children) => h("details", {}, h("summary", {}, title), h("div", { class: "wide", tabindex: 0, role: "region", "aria-label": title }, ...children));

function fail(problem) {
  $("error").textContent = problem?.message ?? "";
  $("error").hidden = !problem;
}

// Do some work; if it is refused, the page says why, and the result is false.
export async function attempt(work) {
  try {
    const result = await work();
    fail(null);
    return result;
  } catch (problem) {
    fail(problem);
    return false;
  }
}

// A button starts its work, and stops it while it lasts.
export async function startOrStop(button, stop, work) {
  if (button.dataset.title) return stop();
  button.dataset.title = button.textContent;
  button.textContent = "Stop";
  await attempt(work);
  button.textContent = button.dataset.title;
  delete button.dataset.title;
}

export function say(text) {
  $("status").textContent = text;
}
