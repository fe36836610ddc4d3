// Two models on the same words: base beside fine-tuned on a question (S1, S2, S6), small beside large on a prompt (P6).

import { stop, stream } from "./api.js";
import { $, fail, h, show } from "./dom.js";
import { begin, state } from "./state.js";

const WHY = { eos: "ended with the end token", length: "cut at the maximum length", context: "the window is full", blocked: "no token was left" };

// A panel with two columns; each column has a model and says how the words are given to it.
function duel(id, open, { words, label, columns }) {
  const field = h("textarea", { id: `${id}-words`, rows: 2, spellcheck: "false" });
  field.value = words;
  const sides = columns.map(([model, form], place) => column(`${id}${place}`, model, form, open, field));
  const button = h("button", { type: "submit", class: "main" }, label);
  let running = false;
  const form = h("form", {}, h("label", { for: field.id }, "Words for both"), field, h("div", { class: "row" }, button,
    h("span", { class: "note" }, "The knobs hold here too; temperature 0 shows what each model finds most probable.")));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (running) return stop(id);
    running = true;
    button.textContent = "Stop";
    fail(null);
    try {
      for (const side of sides) if (!(await side.run(id))) break;
    } catch (problem) {
      fail(problem);
    }
    running = false;
    button.textContent = label;
  });
  show($(id), form, h("div", { class: "cards two" }, sides.map((side) => side.box)));
}

function column(id, model, form, open, field) {
  const models = h("select", { id: `${id}-model` }, state.start.models.map((name) => h("option", { value: name, selected: name === model }, name)));
  const forms = h("select", { id: `${id}-form` }, [["text", "plain text"], ["question", "fine-tuning’s layout"]].map(([value, title]) => h("option", { value, selected: value === form }, title)));
  const said = h("p", { class: "said", "aria-live": "polite" });
  const figures = h("p", { class: "note" });
  const inside = h("button", { type: "button" }, "Look inside");
  inside.addEventListener("click", () => {
    Object.assign($("prompt"), { value: field.value });
    $("form").value = forms.value;
    $("model").value = models.value;
    begin({ model: models.value, text: field.value, form: forms.value, tab: "next" });
    open("next", true);
  });
  const run = async (kind) => {
    said.textContent = "";
    figures.textContent = "";
    const body = { model: models.value, text: field.value, form: forms.value, knobs: state.knobs, seed: state.seed };
    return stream("run", body, (line) => {
      said.textContent = line.text;
      if ("stop" in line) figures.textContent = `${line.ids.length} tokens, ${WHY[line.stop]}; log-probability ${line.logprob.toFixed(2)} per token`;
    }, kind);
  };
  const box = h("article", {}, h("div", { class: "row" },
    h("label", { for: models.id }, "model"), models, h("label", { for: forms.id }, "given as"), forms), said, figures, inside);
  return { box, run };
}

export function start(open) {
  const { models } = state.start;
  const or = (name, other) => (models.includes(name) ? name : other);
  const base = or("base", models[0]);
  duel("asked", open, { words: "Where does Selma live?", label: "Ask both", columns: [[base, "text"], [or("sft", models.at(-1)), "question"]] });
  duel("sizes", open, { words: "Meet Selma. She lives in", label: "Continue with both", columns: [[or("smaller", models.at(-1)), "text"], [base, "text"]] });
}
