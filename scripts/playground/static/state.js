// What the page shows: model, prompt, knobs, seed, and the tree of tokens chosen so far. It lives in the URL's hash.

import { post } from "./api.js";
import { attempt } from "./dom.js";

const FORMS = ["text", "question"];
const listeners = [];

export const state = {
  start: null, // what the server told at first
  model: "",
  text: "Meet Selma. She",
  form: "text",
  knobs: {}, // name -> number, or null when it is off
  seed: 0,
  stop: "", // a text that ends what is written
  tab: "next",
  nodes: [root()], // tokens; each knows its parent
  at: 0, // the node where the next token goes
  tip: 0, // the end of the text that is shown: what follows `at` was undone
  uniform: null, // a number of the student's own, in place of the seed's
  endless: false, // are special tokens left out?
  shown: 12, // bars
  view: null, // the server's newest answer
};

function root() {
  return { token: null, parent: null, children: [] };
}

export const onView = (listener) => listeners.push(listener);

export function path(node = state.at) {
  const found = [];
  for (let at = node; state.nodes[at].parent !== null; at = state.nodes[at].parent) found.unshift(at);
  return found;
}

export const ids = () => path().map((node) => state.nodes[node].token.id);

export function asked(more = {}) {
  return { model: state.model, text: state.text, form: state.form, ids: ids(), knobs: state.knobs, seed: state.seed, stop: state.stop, endless: state.endless, ...more };
}

// Ask for the next token's distribution, and let every panel show it.
export function refresh() {
  remember();
  return attempt(async () => {
    const view = await post("next", asked({ uniform: state.uniform, shown: state.shown }));
    if (view === null) return false;
    path().forEach((node, place) => (state.nodes[node].token = view.chosen[place]));
    state.view = view;
    listeners.forEach((listener) => listener(view));
    return true;
  });
}

export function choose(token, byHand = true) {
  const { nodes, at } = state;
  let child = nodes[at].children.find((node) => nodes[node].token.id === token.id);
  if (child === undefined) {
    child = nodes.push({ token, parent: at, children: [], byHand }) - 1;
    nodes[at].children.push(child);
  }
  state.at = child;
  if (!path(state.tip).includes(child)) state.tip = child;
  state.uniform = null;
  return refresh();
}

// Go to a node of the tree; tip: the end of the text that is shown.
export function go(node, tip = state.tip) {
  Object.assign(state, { at: node, tip: path(tip).includes(node) || node === 0 ? tip : node, uniform: null });
  return refresh();
}

export function begin(changes = {}) {
  Object.assign(state, { nodes: [root()], at: 0, tip: 0, uniform: null }, changes);
  return refresh();
}

function remember() {
  const knobs = Object.entries(state.knobs).filter(([name, value]) => value !== state.start.knobs[name].default);
  const fields = { model: state.model, text: state.text, form: state.form, ids: ids().join("."), seed: state.seed, tab: state.tab };
  if (state.endless) fields.endless = 1;
  if (state.stop) fields.stop = state.stop;
  if (state.uniform !== null) fields.uniform = state.uniform;
  history.replaceState(null, "", `#${new URLSearchParams({ ...fields, ...Object.fromEntries(knobs) })}`);
}

export const rememberTab = (tab) => {
  state.tab = tab;
  remember();
};

// Read the state from the URL's hash; what is missing keeps its default.
export function recall() {
  const given = new URLSearchParams(location.hash.slice(1));
  for (const [name, knob] of Object.entries(state.start.knobs)) {
    if (name !== "seed") state.knobs[name] = given.has(name) ? numberOr(given.get(name), knob.default) : knob.default;
  }
  state.model = given.get("model") ?? state.start.first;
  state.text = given.get("text") ?? state.text;
  state.form = FORMS.includes(given.get("form")) ? given.get("form") : "text";
  state.seed = numberOr(given.get("seed"), 0);
  state.endless = given.has("endless");
  state.stop = given.get("stop") ?? "";
  state.tab = given.get("tab") ?? "next";
  state.nodes = [root()];
  for (const id of (given.get("ids") ?? "").split(".").filter(Boolean).map(Number)) {
    state.nodes.at(-1).children.push(state.nodes.length);
    state.nodes.push({ token: { id, piece: "…" }, parent: state.nodes.length - 1, children: [], byHand: true });
  }
  state.at = state.tip = state.nodes.length - 1;
  state.uniform = given.has("uniform") ? numberOr(given.get("uniform"), null) : null;
}

function numberOr(text, otherwise) {
  return text === null || text.trim() === "" || Number.isNaN(Number(text)) ? otherwise : Number(text);
}
