// Why this token: the kept probabilities end to end on a line, and the uniform number that points into it (G3, G6).

import { post } from "./api.js";
import { $, attempt, folded, h, number, percent, readable, show, table } from "./dom.js";
import { asked, onView, refresh, state } from "./state.js";

let drawn = null; // {n, counts} of "draw 1,000 times", for one text and setting of the knobs
let times = 0;
let drawnFor = "";

export const counts = () => drawn;

export function again() {
  state.uniform = Math.random();
  refresh();
}

function draw() {
  return attempt(async () => {
    const found = await post("draws", asked({ n: 1000, again: times++ }));
    if (!found) return;
    drawn = found;
    drawnFor = JSON.stringify(asked());
    refresh();
  });
}

function display(view) {
  if (!view.rows || view.blocked) return show($("why"));
  const onLine = view.rows.filter((row) => row.to > row.from).sort((a, b) => a.from - b.from);
  const choice = view.rows.find((row) => row.id === view.choice);
  const segments = onLine.map((row, place) => h("div", {
    class: `segment ${place % 2 ? "odd" : ""} ${row === choice ? "hit" : ""}`,
    style: { left: `${100 * row.from}%`, width: `${100 * (row.to - row.from)}%` },
  }, row.to - row.from > 0.05 ? readable(row.piece) : ""));

  const marker = h("input", { type: "range", id: "uniform", "data-key": "uniform", min: 0, max: 0.9999, step: 0.0001, value: view.uniform, "aria-label": "uniform number", "aria-valuetext": `${view.uniform.toFixed(4)} points at ${readable(choice.piece)}` });
  marker.addEventListener("input", () => {
    state.uniform = Number(marker.value);
    refresh();
  });
  const line = $("line") ?? h("div", { id: "line" });
  if (line.contains(document.activeElement)) {
    // while the marker is dragged it stays the same element
    line.querySelector(".segments").replaceChildren(...segments);
    $("uniform").setAttribute("aria-valuetext", marker.getAttribute("aria-valuetext"));
    if ($("uniform").value !== marker.value) $("uniform").value = marker.value;
  } else line.replaceChildren(h("div", { class: "segments" }, segments), marker);

  const origin = state.uniform === null ? `number ${view.chosen.length + 1} of seed ${state.seed}` : "your own";
  const told = state.knobs.temperature === 0 ? "Temperature 0 is greedy: one token is left, so every number points at it."
    : `The uniform number ${view.uniform.toFixed(4)} (${origin}) falls into ${readable(choice.piece)}, from ${choice.from.toFixed(4)} to ${choice.to.toFixed(4)}. Drag it.`;
  const rest = [h("p", { id: "told" }, told),
    h("div", { class: "row" },
      h("button", { type: "button", "data-key": "again", onclick: again }, "Draw again ", h("kbd", {}, "R")),
      h("button", { type: "button", "data-key": "seed", disabled: state.uniform === null, onclick: () => { state.uniform = null; refresh(); } }, "Back to the seed’s number"),
      h("button", { type: "button", "data-key": "draws", onclick: draw }, "Draw 1,000 times")),
    folded("The line as a table", table("Where each token lies on the line, in the order of ids", ["token", "from", "to", "probability", "drawn"],
      onLine.map((row) => [readable(row.piece), row.from.toFixed(4), row.to.toFixed(4), percent(row.p.at(-1)), drawn ? number(drawn.counts[row.id] ?? 0) : "–"])))];
  const box = $("why-rest") ?? h("div", { id: "why-rest" });
  const wasOpen = box.querySelector("details")?.open;
  show(box, rest);
  if (wasOpen) box.querySelector("details").open = true;
  if (!line.isConnected) $("why").replaceChildren(line, box);
}

export function start() {
  onView((view) => {
    if (drawn && drawnFor !== JSON.stringify(asked())) drawn = null;
    display(view);
  });
}
