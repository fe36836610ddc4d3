// Start the page: ask what there is, recall the state, wire the tabs and the keys.

import { post } from "./api.js";
import { $, attempt, h } from "./dom.js";
import { recall, refresh, rememberTab, state } from "./state.js";
import * as asked from "./asked.js";
import * as beam from "./beam.js";
import * as curves from "./curves.js";
import * as knobs from "./knobs.js";
import * as layout from "./layout.js";
import * as nextToken from "./next_token.js";
import * as side from "./side_by_side.js";
import * as text from "./text.js";
import * as why from "./why.js";

const PANELS = [knobs, text, nextToken, why, beam, side, curves, asked, layout];
const WITH_TEXT = ["next", "beam", "side", "curves"]; // tabs that begin from the text so far
const tabs = [...document.querySelectorAll("[role=tab]")];

function open(name, focus = false) {
  if (!tabs.some((tab) => tab.id === `tab-${name}`)) name = "next";
  for (const tab of tabs) {
    const chosen = tab.id === `tab-${name}`;
    tab.setAttribute("aria-selected", chosen);
    tab.tabIndex = chosen ? 0 : -1;
    $(tab.getAttribute("aria-controls")).hidden = !chosen;
    if (chosen && focus) tab.focus();
  }
  $("writing").hidden = !WITH_TEXT.includes(name);
  rememberTab(name);
}

function onKey(event) {
  const typing = event.target.closest("input:not([type=checkbox]), textarea, select, [role=tab], dialog");
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "?") $("help").click();
  if ($("writing").hidden) return;
  const onButton = event.target.closest("button, summary, input") !== null;
  if (event.key === "ArrowRight") text.step();
  else if (event.key === "ArrowLeft") text.undo();
  else if (event.key === " " && !onButton) text.run();
  else if (event.key.toLowerCase() === "r") why.again();
  else if (/^[1-9]$/.test(event.key)) nextToken.pick(Number(event.key) - 1);
  else return;
  event.preventDefault();
}

function onTabKey(event) {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  const place = (tabs.indexOf(event.target) + step + tabs.length) % tabs.length;
  open(tabs[place].id.slice(4), true);
  event.preventDefault();
}

function sources() {
  for (const line of document.querySelectorAll(".source")) {
    const parts = state.start.shown[line.dataset.panel].map((of) => [h("b", {}, of.statement), ` ${of.name} `, h("code", {}, of.where)]);
    line.append(...parts.flatMap((part, place) => (place ? [" · ", ...part] : part)));
  }
}

async function main() {
  state.start = await attempt(() => post("start"));
  if (!state.start) return;
  recall();
  sources();
  PANELS.forEach((panel) => panel.start(open));
  tabs.forEach((tab) => {
    tab.addEventListener("click", () => open(tab.id.slice(4)));
    tab.addEventListener("keydown", onTabKey);
  });
  $("help").addEventListener("click", () => $("keys").showModal());
  $("keys-close").addEventListener("click", () => $("keys").close());
  document.addEventListener("keydown", onKey);
  window.addEventListener("hashchange", () => location.reload());
  open(state.tab);
  await refresh();
}

main();
