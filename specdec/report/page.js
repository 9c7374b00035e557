"use strict";
// The page's controls are its only state: `update` reads them, shows what they ask for, and notes them in the address.

const data = JSON.parse(document.getElementById("data").textContent);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const one = (selector, root = document) => root.querySelector(selector);
const boxes = all("#filters input");
const controls = all("[data-state]");
const charts = {};
const FACET = 220, FACET_GAP = 20, FACET_AXIS = 48; // pixels: of one of several parts at least, between two, of an axis

function control(name) {
  return document.getElementById(name);
}

// --- State and address: what is unchecked is named `hide.<axis>`; everything else only where it is not as at first.

function address() {
  const state = new URLSearchParams();
  for (const box of boxes) if (!box.checked) state.append(`hide.${box.name}`, box.value);
  for (const each of controls) {
    if (each.type === "radio" ? each.checked && !each.defaultChecked : each.selectedIndex > 0) state.set(each.name, each.value);
  }
  return state.size ? `#${state}` : "";
}

function restore() {
  const state = new URLSearchParams(location.hash.slice(1));
  for (const box of boxes) box.checked = !state.getAll(`hide.${box.name}`).includes(box.value);
  for (const each of controls) {
    if (each.type === "radio") each.checked = state.has(each.name) ? state.get(each.name) === each.value : each.defaultChecked;
    else each.selectedIndex = Math.max(0, [...each.options].findIndex((option) => option.value === state.get(each.name)));
  }
}

function isState(hash) {
  return hash === "" || hash.includes("="); // anything else is a link to a section
}

// --- What is shown

function visibleRuns() {
  const hidden = new Set(boxes.filter((box) => !box.checked).map((box) => `${box.name}\n${box.value}`));
  const passes = (run) => Object.entries(run.axes).every(([axis, value]) => !hidden.has(`${axis}\n${value}`));
  return new Set(data.runs.filter(passes).map((run) => run.key));
}

function update() {
  const visible = visibleRuns();
  for (const element of all("[data-run]")) element.hidden = !visible.has(Number(element.dataset.run));
  for (const element of all("[data-runs]")) {
    element.hidden = !element.dataset.runs.split(" ").some((key) => visible.has(Number(key)));
  }
  one("#count").textContent = `${visible.size} of ${data.runs.length} runs`;
  showStandings(visible);
  delete document.documentElement.dataset.drawn;
  const drawn = all("[data-figure]").map((figure) => showFigure(figure, visible));
  hideEmptySections();
  Promise.all(drawn).then(() => (document.documentElement.dataset.drawn = ""));
  if (control("run")) showText();
  history.replaceState(null, "", address() || location.pathname + location.search);
}

// Where the filter leaves nothing of a section, it goes with its link; the leaderboard stays, and says so.
function hideEmptySections() {
  for (const section of all("main > section:not(#answer, #leaderboard)")) {
    const figures = all("[data-figure]", section);
    const parts = figures.length ? figures : all("[data-run], [data-runs]", section);
    section.hidden = parts.length > 0 && parts.every((part) => part.hidden);
  }
  for (const link of all("nav a")) link.parentElement.hidden = one(link.hash).hidden;
}

function showStandings(visible) {
  const category = control("category")?.value ?? one("#standings tbody tr")?.dataset.category;
  const order = control("sort").value;
  const rows = all("#standings tbody tr");
  rows.sort((a, b) => b.dataset[order] - a.dataset[order] || b.dataset.rank - a.dataset.rank);
  one("#standings tbody").append(...rows);
  one("#standings").classList.toggle("one-category", category !== "*");
  for (const row of rows) {
    row.hidden = !visible.has(Number(row.dataset.run)) || (category !== "*" && row.dataset.category !== category);
  }
  for (const head of all("#standings [data-sorts]")) {
    if (head.dataset.sorts === order) head.setAttribute("aria-sort", "descending");
    else head.removeAttribute("aria-sort");
  }
  one("#nothing").hidden = rows.some((row) => !row.hidden);
  one("#standings").hidden = !one("#nothing").hidden;
}

// --- Charts

function showFigure(figure, visible) {
  const key = figure.dataset.figure;
  const records = shownRecords(figure, visible);
  const drawn = drawnRuns(figure, visible);
  for (const item of all(".legend [data-run]", figure)) item.hidden = !drawn.has(Number(item.dataset.run));
  one("[data-limited]", figure).hidden = !data.figures[key].limited || drawn.size < data.most;
  figure.hidden = records.length === 0;
  if (records.length) charts[key] = draw(charts[key], figure, data.figures[key].spec, records);
  return charts[key];
}

function shownRecords(figure, visible) {
  const kind = one("input[type=radio]:checked", figure)?.value;
  const drawn = drawnRuns(figure, visible);
  const { records } = data.figures[figure.dataset.figure];
  return records.filter((record) => drawn.has(record.run) && (!kind || record.kind === kind));
}

// Of a chart in which each run has lines or bars of its own, the best few: more cannot be told apart.
function drawnRuns(figure, visible) {
  const { records, limited } = data.figures[figure.dataset.figure];
  if (!limited) return visible;
  const there = new Set(records.map((record) => record.run));
  return new Set(data.ranked.filter((run) => visible.has(run) && there.has(run)).slice(0, data.most));
}

const TALL = 1.3; // height over width, above which a chart shrunk to one sheet of paper cannot be read

// A chart takes the width that there is; parts side by side share it, as many as have room.
function sized(spec, width) {
  if (!spec.facet) return { ...spec, width };
  const columns = Math.max(1, Math.min(spec.columns, Math.floor(width / FACET)));
  return { ...spec, columns, spec: { ...spec.spec, width: Math.floor((width - FACET_AXIS) / columns) - FACET_GAP } };
}

async function draw(before, figure, spec, records) {
  const place = one(".chart", figure);
  const view = await drawn(await before, place, spec, records);
  const [, , width, height] = one("svg", place).getAttribute("viewBox").split(" ").map(Number);
  place.classList.toggle("tall", height > TALL * width);
  return view;
}

async function drawn(view, place, spec, records) {
  if (view && !spec.facet) return view.data("records", records).resize().runAsync();
  view?.finalize();
  // `ast`: expressions are interpreted, as the page's policy forbids to evaluate them.
  const options = { ast: true, renderer: "svg", actions: false, config: data.config };
  const shaped = spec.facet ? sized(spec, place.clientWidth) : spec;
  const chart = await vegaEmbed(place, { ...shaped, datasets: { ...spec.datasets, records } }, options);
  return chart.view;
}

// --- Texts

function showText() {
  const runs = control("run");
  for (const option of runs.options) option.disabled = option.hidden;
  if (runs.selectedOptions[0]?.disabled ?? true) runs.value = [...runs.options].find((option) => !option.disabled)?.value;
  const prompt = control("prompt").value;
  one("#prompt-text p").textContent = data.tokens.prompts[prompt].text;
  const steps = data.tokens.texts[runs.value]?.[prompt];
  one("#text").replaceChildren(...(steps ?? []).flatMap(stepNodes));
  one("#text-figures").textContent = steps ? figuresOf(steps) : "This run did not decode this prompt.";
}

function stepNodes([pieces, flags, refused, drafter]) {
  const nodes = pieces.map((piece, i) => (flags[i] === "1" ? marked("span", "drafted", `${drafter}: `, piece) : plain(piece)));
  const corrected = flags.indexOf("0"); // the refused token stood where the target's own one stands
  if (refused !== null) nodes.splice(corrected < 0 ? nodes.length : corrected, 0, marked("del", "", "refused: ", refused));
  return nodes;
}

function marked(tag, name, spoken, text) {
  const node = document.createElement(tag);
  const note = document.createElement("span");
  node.className = name;
  note.className = "hidden";
  note.textContent = spoken;
  if (tag === "span") node.title = spoken.slice(0, -2); // who proposed it
  node.append(note, tag === "del" ? text.replaceAll("\n", "↵") : text);
  return node;
}

function plain(text) {
  const node = document.createElement("span");
  node.textContent = text;
  return node;
}

function figuresOf(steps) {
  const flags = steps.map((step) => step[1]).join("");
  const drafted = flags.split("1").length - 1;
  const share = flags.length ? Math.round((100 * drafted) / flags.length) : 0;
  return `${flags.length} tokens in ${steps.length} steps; ${drafted} of them (${share} %) proposed by the drafter.`;
}

// --- Start

document.addEventListener("change", update);
one("#reset").addEventListener("click", () => {
  for (const box of boxes) box.checked = true;
  update();
});
addEventListener("hashchange", () => {
  if (isState(location.hash)) restore();
  update();
});
if (matchMedia("(max-width: 60rem)").matches) one("#filter").open = false;
if (isState(location.hash)) restore();
update();
