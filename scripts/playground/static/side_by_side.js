// Every algorithm on one prompt, streamed, then once more with the next seed (G3, G4, G11).

import { stop, stream } from "./api.js";
import { $, cut, h, log, show, startOrStop } from "./dom.js";
import { asked, state } from "./state.js";

async function all() {
  const names = Object.keys(state.start.strategies);
  const cards = names.map(card);
  show($("side"), h("div", { class: "cards" }, cards.map((found) => found.box)));
  for (const [place, name] of names.entries()) if (!(await twice(name, cards[place]))) return;
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
    const body = asked({ strategy: name, endless: $("side-endless").checked, seed: state.seed + more });
    const whole = await stream("run", body, (line) => {
      runs[more] = line;
      if (more === 0) text.textContent = cut(line.text, line.stop);
    }, "side");
    if (!whole) return false;
  }
  const same = runs[0].ids.join() === runs[1].ids.join();
  figures.replaceChildren(
    `repeated 4-grams ${(100 * runs[0].repetition).toFixed(0)} %, log-probability ${log(runs[0].logprob)} per token, second run: `,
    h("b", {}, same ? "= the same" : "≠ differs"));
  if (!same) figures.append(h("details", {}, h("summary", {}, "second run"), h("p", { class: "said" }, cut(runs[1].text, runs[1].stop))));
  return true;
}

export function start() {
  $("side-run").addEventListener("click", () => startOrStop($("side-run"), () => stop("side"), all));
}
