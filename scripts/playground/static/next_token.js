// Bars of the most probable tokens at each stage of the filters: kept ones solid, cut ones hatched (G7 to G9).

import { $, h, number, percent, readable, show } from "./dom.js";
import { choose, onView, refresh, state } from "./state.js";
import { counts } from "./why.js";

const SHORT = { banned_ids: "banned", no_repeat_ngram: "n-gram", repetition_penalty: "penalty" };
const heading = (stage) => SHORT[stage] ?? stage.replaceAll("_", "-"); // of a column: top_k is top-k
let bet = null; // the token that the student bets on, before the bars show
let score = { right: 0, bets: 0 };

export function pick(place) {
  const { view } = state;
  if (!view?.rows || hidden()) return;
  const row = view.rows[place];
  if (row) choose(row, row.id !== view.choice);
}

const hidden = () => $("predict").checked && bet === null;

function display(view) {
  if (!view.rows) {
    $("bars-note").textContent = "";
    return show($("bars"));
  }
  $("why-part").hidden = hidden(); // it would tell
  if (hidden()) return askForBet(view);
  const longest = Math.max(...view.rows.flatMap((row) => row.p), 0.001); // the scale of all bars
  $("bars-note").textContent = [bet !== null && verdict(view), ...summary(view), `The longest bar is ${percent(longest)}.`].filter(Boolean).join(" ");

  const head = [h("th", { scope: "col" }, "token"), ...view.stages.map((stage) =>
    h("th", { scope: "col" }, heading(stage.name), h("small", {}, setting(stage.name), ` keeps ${number(stage.kept)}`)))];
  if (counts()) head.push(h("th", { scope: "col" }, "drawn", h("small", {}, `${number(counts().n)} times`)));
  const rows = view.rows.map((row, place) => h("tr", { class: `${row.p.at(-1) === null ? "cut" : ""} ${row.id === view.choice ? "drawn" : ""}` },
    h("th", { scope: "row" }, button(row, place, view)),
    row.p.map((p, stage) => cell(p, stage ? row.p[stage - 1] : null, longest)),
    counts() && counted(row, longest)));
  const others = view.stages.map((stage) => h("td", {}, stage.others ? `and ${number(stage.others)} others: ${percent(stage.others_p)}` : "no others"));
  show($("bars"),
    h("div", { class: "wide" }, h("table", { class: "bars" },
      h("caption", { class: "unseen" }, "Probability of the most probable tokens at each stage"),
      h("thead", {}, h("tr", {}, head)), h("tbody", {}, rows),
      h("tfoot", {}, h("tr", {}, h("th", { scope: "row" }, "others"), others, counts() && h("td", {}))))),
    h("div", { class: "row" }, more(12, "12 tokens"), more(40, "40 tokens")));
}

function summary({ stages, vocabulary, mass, rows }) {
  const left = `${number(stages.at(-1).kept)} of ${number(vocabulary)} tokens are left to draw from`;
  const cut = rows.find((row) => row.p.at(-1) === null);
  if (!cut) return [`${left}.`];
  return [`${left}; the model gives them ${percent(mass)} together.`, `The most probable one that is cut: ${readable(cut.piece)}, with ${percent(cut.p[0])}.`];
}

function setting(name) {
  const value = state.knobs[name];
  return value === undefined || value === null ? "" : `${value},`;
}

function button(row, place, view) {
  const isDrawn = row.id === view.choice;
  const cut = row.p.at(-1) === null;
  return h("button", { class: "choose", "data-key": `r${row.id}`, onclick: () => choose(row, !isDrawn),
    "aria-label": `choose ${readable(row.piece)}${cut ? ", which is cut" : ""}${isDrawn ? ", which is drawn" : ""}` },
    h("kbd", {}, place < 9 ? place + 1 : ""), h("span", { class: row.special ? "special" : "" }, readable(row.piece)),
    isDrawn && h("span", { class: "mark" }, "◆"), bet === row.id && h("span", { class: "mark" }, "★"));
}

function cell(p, before, longest) {
  if (p === null && before === null) return h("td", {}, "");
  const width = `${(100 * (p ?? before)) / longest}%`;
  return h("td", {}, h("div", { class: `bar ${p === null ? "hatched" : ""}`, style: { width } }), h("span", {}, p === null ? "cut" : percent(p)));
}

function counted(row, longest) {
  const share = (counts().counts[row.id] ?? 0) / counts().n;
  return h("td", {}, h("div", { class: "bar counted", style: { width: `${Math.min(100, (100 * share) / longest)}%` } }), h("span", {}, number(counts().counts[row.id] ?? 0)));
}

function more(shown, title) {
  const pressed = state.shown === shown;
  return h("button", { type: "button", "data-key": `more${shown}`, "aria-pressed": String(pressed), onclick: () => { state.shown = shown; refresh(); } }, title);
}

// Predict first: the tokens in the order of the alphabet, without their bars.
function askForBet(view) {
  $("bars-note").textContent = "Which of these is the most probable to the model? Bet on one, then the bars show.";
  const sorted = [...view.rows].sort((a, b) => (a.piece < b.piece ? -1 : 1));
  show($("bars"), h("div", { class: "row bets" }, sorted.map((row) =>
    h("button", { type: "button", "data-key": `r${row.id}`, onclick: () => { bet = row.id; score.bets += 1; score.right += row.id === view.rows[0].id; display(view); } }, readable(row.piece)))));
}

function verdict(view) {
  const rank = view.rows.findIndex((row) => row.id === bet);
  if (rank < 0) return "";
  const how = rank === 0 ? "Right, it is the most probable" : `It is number ${rank + 1}`;
  return `★ Your bet has ${percent(view.rows[rank].p[0])}. ${how}. Right so far: ${score.right} of ${score.bets}.`;
}

export function start() {
  let text = null; // a bet is for one text
  $("predict").addEventListener("change", () => {
    bet = null;
    score = { right: 0, bets: 0 };
    if (state.view) display(state.view);
  });
  onView((view) => {
    const now = JSON.stringify([view.prompt, view.chosen]);
    if (now !== text) bet = null;
    text = now;
    display(view);
  });
}
