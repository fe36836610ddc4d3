// Beam search step by step: kept and pruned paths, greedy's own path marked (G5).

import { stream } from "./api.js";
import { $, attempt, chip, h, log, show, WHY } from "./dom.js";
import { asked, onView } from "./state.js";

let steps = [];
let shown = 1;

function search() {
  const body = asked({ width: Number($("beam-width").value), steps: Number($("beam-steps").value), length_penalty: Number($("beam-penalty").value) });
  steps = [];
  shown = 1;
  return attempt(() => stream("beam", body, (step) => {
    steps.push(step);
    display();
  }));
}

function display() {
  $("beam-less").disabled = shown <= 1;
  $("beam-more").disabled = shown >= steps.length;
  show($("beam"), steps.slice(0, shown).map((step, place) => h("section", { class: "beam-step" },
    h("h3", {}, `Step ${place + 1}`),
    list("kept", step.kept, ""),
    step.finished.length > 0 && list("finished", step.finished, "done"),
    list("pruned", step.pruned, "pruned"))),
    best());
}

function list(title, paths, kind) {
  return h("table", { class: `paths ${kind}` },
    h("caption", {}, title),
    h("thead", {}, h("tr", {}, ["path", "step", "total"].map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", {}, paths.map((path) => h("tr", {},
      h("td", {}, path.pieces.map((token, place) => chip(token, place === path.pieces.length - 1 ? "newest" : "")),
        path.greedy && h("span", { class: "mark" }, " ● greedy"), path.stop && ` (${WHY[path.stop]})`),
      h("td", {}, log(path.step)), h("td", {}, log(path.logprob))))));
}

function best() {
  const finished = steps.flatMap((step) => step.finished);
  if (shown < steps.length || !finished.length) return null;
  const first = finished.reduce((a, b) => (b.score > a.score ? b : a));
  return h("p", { class: "result" }, "Best path, by its score ", log(first.score, 3), ": ", first.pieces.map((token) => chip(token)));
}

export function start() {
  $("beam-form").addEventListener("submit", (event) => {
    event.preventDefault();
    search();
  });
  const move = (by) => () => {
    shown = Math.min(Math.max(1, shown + by), Math.max(1, steps.length));
    display();
  };
  $("beam-less").addEventListener("click", move(-1));
  $("beam-more").addEventListener("click", move(1));
  display();
  onView(() => {
    if (steps.length) show($("beam"), h("p", { class: "note" }, "The text has changed: search again."));
    steps = [];
  });
}
