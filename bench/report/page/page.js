"use strict";
// The page works without this script; it adds sorting, filters, the CO2 of another grid and a dialog behind each figure.
// Every string is shown by textContent. A figure's text was written by Python; only CO2 is computed here.

const DATA = JSON.parse(document.getElementById("data").textContent);
const POOLED = ["unit", "kind", "label", "source", "note", "phase", "unranked", "unpublished"];
const SVG = "http://www.w3.org/2000/svg";

function pooled(place) {
  return place === null || place === undefined ? "" : DATA.pool[place];
}

/** A figure of a run as an object with the names in DATA.fields; null where the run does not speak of it. */
function figureOf(run, name) {
  const entry = run.figures[name];
  if (!entry) return null;
  const figure = {};
  DATA.fields.forEach((field, index) => {
    const found = index < entry.length ? entry[index] : null;
    figure[field] = POOLED.includes(field) ? pooled(found) : found;
  });
  return CO2[name] ? co2Of(run, name, figure) : figure;
}

/** An element with properties, attributes (names with a dash, or listed) and children, all strings as text. */
function make(tag, facts = {}, ...children) {
  const element = tag === tag.toLowerCase() ? document.createElement(tag) : null;
  for (const [name, value] of Object.entries(facts)) {
    if (name in element && !name.includes("-")) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== ""));
  return element;
}

function draw(tag, facts = {}, text = "") {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(facts)) element.setAttribute(name, value);
  if (text) element.textContent = text;
  return element;
}

// --- light and dark -------------------------------------------------------------------------------------------------

const THEMES = ["system", "light", "dark"];

function kept(name, value) {
  try {
    if (value === undefined) return localStorage.getItem(name);
    localStorage.setItem(name, value);
  } catch {
    return null; // a page from disk may have no storage; the choice then lasts as long as the page
  }
  return value;
}

function setTheme(theme) {
  const button = document.getElementById("theme");
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  button.textContent = `Theme: ${theme}`;
  button.dataset.now = theme;
}

function startTheme() {
  const button = document.getElementById("theme");
  const before = kept("theme");
  setTheme(THEMES.includes(before) ? before : "system");
  button.addEventListener("click", () => {
    const next = THEMES[(THEMES.indexOf(button.dataset.now) + 1) % THEMES.length];
    setTheme(next);
    kept("theme", next);
  });
}

// --- CO2 = J / 3.6e6 × PUE × g/kWh ----------------------------------------------------------------------------------

const JOULES_PER_KWH = 3.6e6;
// figure → the gross energy it follows from, how many of its units it stands for, grams in its own unit
const CO2 = {
  co2_g_per_1000_images: ["generate_energy_j_per_image", 1000, 1],
  co2_g_per_1000_train_images: ["train_step_energy_j_per_image", 1000, 1],
  co2_kg_train: ["train_energy_j", 1, 1000],
};
const chosen = { gPerKwh: null, text: "", pue: 1, isReports: true };

function co2Of(run, name, figure) {
  if (chosen.isReports) return figure; // the grid and the PUE of the report: Python's own text
  const [grossName, amount, gramsPerUnit] = CO2[name];
  const gross = figureOf(run, grossName);
  const none = { ...figure, text: "—", value: null, low: null, high: null, interval: null, kind: "computed" };
  if (!gross || gross.value === null) return { ...none, note: gross ? gross.note : figure.note };
  if (chosen.gPerKwh === null) return { ...none, note: "no grid chosen" };
  const factor = ((amount / JOULES_PER_KWH) * chosen.pue * chosen.gPerKwh) / gramsPerUnit;
  const times = (value) => (value === null ? null : value * factor);
  const [value, low, high] = [gross.value, gross.low, gross.high].map(times);
  const text = gross.label === "estimated:tdp" ? `≈${oneDigit(value)}` : concise(value, low, high);
  const mark = gross.text.match(/ \[\w+\]$/);
  return {
    ...figure, value, low, high, text: text + (mark ? mark[0] : ""), n: gross.n, kind: "computed",
    interval: low === null ? null : low === high ? "exact" : `${concise(low)} to ${concise(high)}`,
    label: gross.label, systematic: gross.systematic, note: gross.note, unpublished: gross.unpublished,
    unit: gramsPerUnit === 1 ? "g" : "kg",
    source: `gross energy × PUE × grid intensity: PUE ${chosen.pue}, ${chosen.text}`,
  };
}

/** 0.0347 → "0.03", 34.7 → "30", as notation.rounded with one digit. */
function oneDigit(value) {
  const short = Number(value.toPrecision(1));
  if (short === 0) return "0";
  if (Math.abs(value) < 1e-4 || Math.abs(value) >= 1e15) return exponent(value, 0);
  return short.toFixed(Math.max(0, -Math.floor(Math.log10(Math.abs(short)))));
}

/** `1.2e-05`: exponents have two digits, as Python writes them. */
function exponent(value, digits) {
  return value.toExponential(digits).replace(/e([+-])(\d)$/, "e$10$2");
}

/** `12.34(5)` exactly as notation.format_number writes it, for a unit without a prefix of its own. */
function concise(value, low = null, high = null) {
  if (low === null || high === null || low === high) return withoutInterval(value);
  const magnitude = Math.max(Math.abs(value), Math.abs(low), Math.abs(high));
  for (const [factor, prefix] of [[1e12, " T"], [1e9, " G"], [1e6, " M"]])
    if (factor <= magnitude && magnitude < 1e15) return digits(value, low, high, factor) + prefix;
  if (magnitude >= 1e15 || (magnitude > 0 && magnitude < 1e-4)) {
    const power = Number(magnitude.toExponential().split("e")[1]);
    const sign = power < 0 ? "-" : "+";
    return `${digits(value, low, high, Number(`1e${power}`))}e${sign}${String(Math.abs(power)).padStart(2, "0")}`;
  }
  return digits(value, low, high, 1);
}

function digits(value, low, high, factor) {
  const scaled = value / factor;
  let half = Math.max(high - value, value - low) / factor;
  if (half <= Math.abs(scaled) * 1e-15) return withoutInterval(scaled);
  half = Number(half.toPrecision(3));
  const [mantissa, power] = half.toExponential().split("e");
  const place = Number(power) - (mantissa[0] === "1" || half >= Math.abs(scaled) ? 1 : 0);
  if (place >= 0) {
    const unit = 10 ** place;
    return `${Math.round(scaled / unit) * unit}(${Math.round(half / unit) * unit})`;
  }
  return `${scaled.toFixed(-place)}(${Math.round(Number(`${mantissa}e${power - place}`))})`;
}

function withoutInterval(value) {
  const magnitude = Math.abs(value);
  if (magnitude >= 1e15 || (magnitude > 0 && magnitude < 1e-4)) return exponent(value, 3);
  for (const [factor, prefix] of [[1e12, "T"], [1e9, "G"], [1e6, "M"]])
    if (magnitude >= factor * 0.99995) return `${(value / factor).toPrecision(4)} ${prefix}`;
  if (Number.isInteger(value)) return value.toFixed(0);
  return value.toFixed(Math.max(0, 3 - Math.floor(Math.log10(magnitude))));
}

function startGrid() {
  const grid = document.getElementById("grid");
  const pue = document.getElementById("pue");
  const before = { grid: grid.value, pue: Number(pue.value) };
  const change = () => {
    const option = grid.selectedOptions[0];
    const isPue = pue.validity.valid && pue.value !== "";
    pue.setAttribute("aria-invalid", String(!isPue));
    chosen.gPerKwh = option.dataset.g ? Number(option.dataset.g) : null;
    chosen.text = option.dataset.text || "";
    chosen.pue = isPue ? Number(pue.value) : 1;
    chosen.isReports = grid.value === before.grid && chosen.pue === before.pue;
    showCo2();
    const says = chosen.gPerKwh === null ? "CO2 is unknown: no grid chosen." : `${chosen.text}, PUE ${chosen.pue}; source: ${option.title}`;
    document.getElementById("grid-says").textContent = isPue ? says : "PUE must be a number from 1 upwards; 1 is used.";
  };
  grid.addEventListener("change", change);
  pue.addEventListener("input", change);
  change();
}

// --- start ----------------------------------------------------------------------------------------------------------

function startPrint() {
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const each of opened) each.open = true;
  });
  addEventListener("afterprint", () => opened.forEach((each) => { each.open = false; }));
}

document.addEventListener("DOMContentLoaded", () => {
  for (const each of document.querySelectorAll(".needs-script")) each.hidden = false;
  document.getElementById("no-script").hidden = true;
  startTheme();
  startTables();
  startRunLinks();
  startFilters();
  startGrid();
  startDialog();
  startPrint();
});
