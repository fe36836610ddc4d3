// The model, the knobs and the presets (G7 to G10).

import { $, h, say } from "./dom.js";
import { begin, refresh, state } from "./state.js";

// name: [label, least, most, step, the value when it is switched on]; the last only where a knob can be off
const SLIDERS = {
  temperature: ["temperature", 0, 2, 0.05],
  top_k: ["top-k", 1, 100, 1, 10],
  top_p: ["top-p", 0, 1, 0.01, 0.9],
  min_p: ["min-p", 0, 1, 0.01, 0.1],
  repetition_penalty: ["repetition penalty", 1, 2, 0.05],
  no_repeat_ngram: ["no repeated n-gram", 1, 6, 1, 4],
  max_new_tokens: ["maximum length", 1, 200, 1],
};

function knob(name, [label, min, max, step, whenOn]) {
  const slider = h("input", { type: "range", id: `knob-${name}`, min, max, step, "aria-label": label });
  const exact = h("input", { type: "number", id: `exact-${name}`, min, step: "any", "aria-label": `${label}, exactly` });
  const parts = [exact, slider];
  slider.addEventListener("input", () => turn({ [name]: Number(slider.value) }));
  exact.addEventListener("change", () => exact.value !== "" && turn({ [name]: Number(exact.value) }));
  let title = h("label", { for: slider.id }, label);
  if (whenOn !== undefined) {
    const on = h("input", { type: "checkbox", id: `on-${name}` });
    on.addEventListener("change", () => turn({ [name]: on.checked ? whenOn : null }));
    title = h("label", { class: "check" }, on, ` ${label}`);
  }
  return h("div", { class: "knob", id: `row-${name}`, title: state.start.knobs[name].meaning }, title, ...parts);
}

function turn(knobs, more = {}) {
  Object.assign(state.knobs, knobs);
  Object.assign(state, { uniform: null }, more);
  display();
  refresh();
}

function display() {
  for (const [name, [, min]] of Object.entries(SLIDERS)) {
    const value = state.knobs[name];
    const off = value === null;
    if ($(`on-${name}`)) $(`on-${name}`).checked = !off;
    for (const input of [$(`knob-${name}`), $(`exact-${name}`)]) {
      input.disabled = off;
      input.value = off ? (input.type === "range" ? min : "") : value;
    }
    $(`knob-${name}`).setAttribute("aria-valuetext", off ? "off" : value);
  }
  $("seed").value = state.seed;
}

// Several knobs at once; those that move light up for a moment.
function preset(title, arguments_) {
  const { max_new_tokens: _, ...sliders } = SLIDERS; // a preset leaves the length as it is
  const values = Object.keys(sliders).map((name) => [name, arguments_[name] ?? state.start.knobs[name].default]);
  for (const [name] of values.filter(([name, value]) => value !== state.knobs[name])) {
    const row = $(`row-${name}`);
    row.classList.remove("moved");
    void row.offsetWidth; // so that the animation begins anew
    row.classList.add("moved");
  }
  say(`${title}: ${JSON.stringify(arguments_)}`);
  turn(Object.fromEntries(values));
}

export function start() {
  $("model").append(...state.start.models.map((name) => h("option", { value: name }, name)));
  $("model").value = state.model;
  $("model").addEventListener("change", () => begin({ model: $("model").value }));

  const seed = h("input", { type: "number", id: "seed", min: 0, step: 1 });
  seed.addEventListener("change", () => turn({}, { seed: Math.max(0, Math.floor(Number(seed.value))) }));
  const rows = Object.entries(SLIDERS).map(([name, slider]) => knob(name, slider));
  $("knobs").append(...rows, h("div", { class: "knob" }, h("label", { for: "seed" }, "seed"), seed));

  $("knobs-box").open = !window.matchMedia("(max-width: 760px)").matches; // a small screen shows the bars first
  const tasks = Object.entries(state.start.tasks);
  const buttons = [["all off", {}], ["greedy", { temperature: 0 }], ...tasks].map(([name, arguments_]) =>
    h("button", { type: "button", onclick: () => preset(name, arguments_), title: JSON.stringify(arguments_) }, name.replaceAll("-", " ")));
  $("presets").append(...buttons);
  display();
}
