// Every algorithm on one prompt, streamed, then once more with the next seed (G3, G4, G11).

import { stop, stream } from "./api.js";
import { $, fail, h, show } from "./dom.js";
import { asked, state } from "./state.js";

let running = false;

async function all() {
  if (running) return stop("side");
  running = true;
  $("side-run").textContent = "Stop";
  fail(null);
  const names = Object.keys(state.start.strategies);
  const cards = names.map(card);
  show($("side"), h("div", { class: "cards" }, cards.map((found) => found.box)));
  try {
    for (const [place, name] of names.entries()) if (!(await twice(name, cards[place]))) break;
  } catch (problem) {
    fail(problem);
  }
  running = false;
  $("side-run").textContent = "Run all twice";
}

function card(name) {
  const { statement, arguments: settings, meaning } = state.start.strategies[name];
  const text = h("p", { class: "said" });
  const figures = h("p", { class: "note" });
  const knobs = Object.entries(settings).map(([key, value]) => `${key.replace("_", "-")} ${value}`).join(", ");
  const box = h("article", {}, h("h3", {}, name.replace("_", "-"), " ", h("small", {}, statement)), h("p", { class: "note" }, meaning, knobs && ` (${knobs})`), text, figures);
  return { box, text, figures };
}

async function twice(name, { text, figures }) {
  const runs = [];
  for (const more of [0, 1]) {
    let last = null;
    const body = asked({ strategy: name, endless: $("side-endless").checked, seed: state.seed + more });
    const whole = await stream("run", body, (line) => {
      last = line;
      if (more === 0) text.textContent = line.text;
    }, "side");
    if (!whole) return false;
    runs.push(last);
  }
  const same = runs[0].ids.join() === runs[1].ids.join();
  figures.replaceChildren(
    `repeated 4-grams ${(100 * runs[0].repetition).toFixed(0)} %, log-probability ${runs[0].logprob.toFixed(2)} per token, second run: `,
    h("b", {}, same ? "= the same" : "≠ differs"));
  if (!same) figures.append(h("details", {}, h("summary", {}, "second run"), h("p", { class: "said" }, runs[1].text)));
  return true;
}

export function start() {
  $("side-run").addEventListener("click", all);
}
