// Two models on the same words: base beside fine-tuned on a question (S1, S2, S6), small beside large on a prompt (P6).

import { stop, stream } from "./api.js";
import { $, cut, h, log, show, startOrStop, WHY } from "./dom.js";
import { asked, begin, state } from "./state.js";

// A panel with two columns; each column has a model and says how the words are given to it.
function duel(id, open, { words, label, columns }) {
  const field = h("textarea", { id: `${id}-words`, rows: 2, spellcheck: "false" });
  field.value = words;
  const sides = columns.map(([model, form], place) => column(`${id}${place}`, model, form, open, field));
  const button = h("button", { type: "submit", class: "main" }, label);
  const form = h("form", {}, h("label", { for: field.id }, "Words for both"), field, h("div", { class: "row" }, button,
    h("span", { class: "note" }, "The knobs hold here too. “Look inside” shows what a model finds probable right after these words.")));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    startOrStop(button, () => stop(id), async () => {
      for (const side of sides) if (!(await side.run(id))) return;
    });
  });
  show($(id), form, h("div", { class: "cards two" }, sides.map((side) => side.box)));
}

function column(id, model, form, open, field) {
  const models = h("select", { id: `${id}-model` }, state.start.models.map((name) => h("option", { value: name, selected: name === model }, name)));
  const forms = h("select", { id: `${id}-form` }, [["text", "plain text"], ["question", "fine-tuning’s layout"]].map(([value, title]) => h("option", { value, selected: value === form }, title)));
  const said = h("p", { class: "said", "aria-live": "polite" });
  const figures = h("p", { class: "note" });
  const inside = h("button", { type: "button" }, "Look inside");
  const words = () => ({ model: models.value, text: field.value, form: forms.value });
  inside.addEventListener("click", () => {
    $("prompt").value = field.value;
    $("form").value = forms.value;
    $("model").value = models.value;
    begin(words());
    open("next", true);
  });
  const run = (kind) => {
    said.textContent = figures.textContent = "";
    return stream("run", asked({ ...words(), ids: [], endless: false }), ({ text, ids, stop, logprob }) => {
      said.textContent = cut(text, stop);
      if (ids) figures.textContent = `${ids.length} tokens: ${WHY[stop]}; log-probability ${log(logprob)} per token`;
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
