// Along a text: probability of each token, entropy, how many tokens top-k and top-p keep (G7, G8); marked by rank.

import { stream } from "./api.js";
import { $, attempt, folded, h, percent, readable, show, svg, table } from "./dom.js";
import { asked } from "./state.js";

const HEIGHT = 90;
const BANDS = {
  p: [[0.5, "50 % or more"], [0.1, "10 to 50 %"], [0.01, "1 to 10 %"], [0, "below 1 %"]],
  rank: [[1, "the most probable"], [10, "rank 2 to 10"], [100, "rank 11 to 100"], [Infinity, "rank above 100"]],
};
let found = null;

const band = (row, by) => BANDS[by].findIndex(([bound]) => (by === "p" ? row.p >= bound : row.rank <= bound));

function measure() {
  const text = $("curves-text").value;
  return attempt(async () => {
    await stream("curves", text ? asked({ text, form: "text", ids: [] }) : asked(), (line) => (found = line));
    display();
  });
}

function display() {
  if (!found) return;
  const { rows, k, p, loss, perplexity } = found;
  const by = $("curves-colour").value;
  show($("curves"),
    h("p", { class: "result" }, `Mean loss ${loss.toFixed(3)} nats per token, perplexity ${perplexity.toFixed(2)}, over ${rows.length} tokens.`),
    h("p", { class: "legend" }, BANDS[by].map(([, title], place) => [h("span", { class: `band band${place}` }, title), " "])),
    h("p", { class: "marked" }, h("span", {}, readable(found.first.piece)), rows.map((row) =>
      h("span", { class: `band band${band(row, by)}`, title: `${percent(row.p)}, rank ${row.rank}` }, readable(row.piece)))),
    chart("probability of the token", [["probability", rows.map((row) => row.p)]], 1),
    chart("entropy, in nats: how open the next token is", [["entropy", rows.map((row) => row.entropy)]]),
    chart(`tokens kept (logarithmic): top-p ${p} adapts, top-k ${k} doesn’t`, [
      ["top-p", rows.map((row) => Math.log10(row.top_p))], ["top-k", rows.map((row) => Math.log10(row.top_k))]], null, (v) => Math.round(10 ** v)),
    folded("The curves as a table", table("Each token of the text", ["token", "probability", "rank", "entropy", `top-k ${k} keeps`, `top-p ${p} keeps`],
      rows.map((row) => [readable(row.piece), percent(row.p), row.rank, row.entropy.toFixed(2), row.top_k, row.top_p]))));
}

function chart(title, series, most = null, unit = (v) => v.toFixed(1)) {
  const top = most ?? (Math.max(...series.flatMap(([, values]) => values)) || 1);
  const width = series[0][1].length * 12; // at least: a chart of few tokens is stretched to the page
  const lines = series.map(([name, values], place) => {
    const points = values.map((value, x) => `${(x + 0.5) * (width / values.length)},${HEIGHT - (value / top) * (HEIGHT - 6) - 2}`);
    return svg("polyline", { class: `line${place}`, points: points.join(" ") }, svg("title", {}, name));
  });
  const key = series.length > 1 ? series.map(([name], place) => h("span", { class: `key key${place}` }, name)) : [];
  return h("figure", {}, h("figcaption", {}, title, " ", key, h("small", {}, `from 0 to ${unit(top)}`.replace("from 0", unit(0) === 1 ? "from 1" : "from 0"))),
    h("div", { class: "wide", tabindex: 0, role: "region", "aria-label": title }, svg("svg", { style: { "min-width": `${width}px` }, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": `${title}; the table below has the numbers` }, lines)));
}

export function start() {
  $("curves-form").addEventListener("submit", (event) => {
    event.preventDefault();
    measure();
  });
  $("curves-colour").addEventListener("change", display);
}
