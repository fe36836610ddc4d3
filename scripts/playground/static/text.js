// The text so far: step, run, stop, undo, go back and branch (G1, G2).

import { $, h, readable, say, show, WHY } from "./dom.js";
import { begin, choose, go, onView, path, refresh, state } from "./state.js";

const MORE = { eos: "Undo, or choose a token to go on regardless.", length: "A higher maximum allows more." };
const PAUSE = 90; // ms between two tokens of a run, so that one can watch
let running = false;

export async function step() {
  const { view } = state;
  if (!view || view.choice == null || running) return;
  await take(view);
}

function take(view) {
  const token = view.rows.find((row) => row.id === view.choice);
  say(`${readable(token.piece)}, ${(100 * token.p[0]).toFixed(1)} percent`);
  return choose(token, state.uniform !== null);
}

export async function run() {
  running = !running;
  label();
  while (running && state.view?.choice != null && !state.view.ended) {
    if (!(await take(state.view))) break;
    await new Promise((done) => setTimeout(done, PAUSE));
  }
  running = false;
  label();
}

export function undo() {
  running = false;
  if (state.at !== 0) go(state.nodes[state.at].parent);
}

function label() {
  $("run").firstChild.textContent = running ? "Stop " : "Run ";
  $("run").classList.toggle("main", running);
}

function display(view) {
  // the prompt, the chosen tokens, and those that were undone
  const prompt = view.prompt.map((token) => h("span", { class: `token given ${token.special ? "special" : ""}` }, readable(token.piece)));
  const here = path();
  const tokens = path(state.tip).map((node, place) => {
    const { token, byHand, parent } = state.nodes[node];
    if (token.held && !token.piece && view.ended) return null;
    const kind = `token ${token.special ? "special" : ""} ${byHand ? "by-hand" : ""} ${here.includes(node) ? "" : "undone"} ${token.held ? "held" : ""} ${token.repeat ? "repeat" : ""}`;
    const label_ = `${readable(token.piece)}, token ${place + 1}${byHand ? ", chosen by hand" : ""}: go back to before it`;
    return h("button", { class: kind, "data-key": `t${place}`, "aria-label": label_, title: token.held && "held back: it may be the beginning of the stop string", onclick: () => { running = false; go(parent); } }, token.held && !view.ended ? "…" : readable(token.piece));
  });
  tokens.splice(here.length, 0, h("span", { class: "caret", title: "the next token goes here" }, "▏"));
  show($("text"), prompt, tokens);

  // why it ended, what is possible, and the same from the command line
  const why = view.blocked ? "blocked" : view.ended;
  $("ended").textContent = why ? `Ended: ${WHY[why]}. ${MORE[why] ?? ""}` : "";
  $("ended").hidden = !why;
  $("step").disabled = view.choice == null;
  $("undo").disabled = state.at === 0;
  $("command").textContent = view.command;
  $("figures").textContent = here.length ? `${here.length} new tokens, repeated 4-grams ${(100 * view.repetition).toFixed(0)} %${view.repetition ? ", underlined" : ""}` : "";
  $("by-hand").hidden = !state.endless && !here.some((node) => state.nodes[node].byHand);
  tree();
}

// Every branch on a line of its own, indented under the token after which it begins.
function tree() {
  const here = new Set(path());
  const leaves = state.nodes.filter((node) => node.children.length === 0).length;
  $("branches").textContent = state.nodes.length > 1 ? `(${leaves})` : "";
  const grow = (first) => {
    const chain = [first];
    while (state.nodes[chain.at(-1)].children.length === 1) chain.push(state.nodes[chain.at(-1)].children[0]);
    const last = chain.at(-1);
    const words = chain.map((node) => state.nodes[node].token.piece).join("").replaceAll("\n", "⏎");
    const current = chain.some((node) => here.has(node)) ? "here" : "";
    return h("li", {},
      h("button", { class: `branch ${current}`, "data-key": `n${last}`, "aria-current": chain.includes(state.at) && "true", onclick: () => go(last, last) }, words),
      state.nodes[last].children.length > 1 && h("ul", {}, state.nodes[last].children.map(grow)));
  };
  const branches = state.nodes[0].children.map(grow);
  show($("tree"), branches.length ? h("ul", {}, branches) : h("p", { class: "note" }, "Go back to a token and choose another: both ways stay here."));
  if (leaves > 1) $("tree-box").open = true;
}

export function start() {
  $("prompt").value = state.text;
  $("form").value = state.form;
  const anew = () => begin({ text: $("prompt").value, form: $("form").value });
  $("prompt-form").addEventListener("submit", (event) => {
    event.preventDefault();
    anew();
  });
  $("form").addEventListener("change", anew);
  $("stop").value = state.stop.replaceAll("\n", "\\n");
  $("stop").addEventListener("input", () => {
    state.stop = $("stop").value.replaceAll("\\n", "\n");
    go(state.at, state.at);
  });
  $("endless").checked = state.endless;
  $("endless").addEventListener("change", () => {
    state.endless = $("endless").checked;
    refresh();
  });
  $("prompt").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey) return;
    event.preventDefault();
    anew();
  });
  $("step").addEventListener("click", step);
  $("run").addEventListener("click", run);
  $("undo").addEventListener("click", undo);
  onView(display);
}
