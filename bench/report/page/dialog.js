// The dialog behind a figure and behind a run: how it is known, and the raw windows. One dialog; Escape closes it and
// the browser gives the focus back to what opened it.

const dialog = document.getElementById("detail");

function startDialog() {
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close(); // the backdrop
  });
}

/** Names of runs in the text become buttons that open them. */
function startRunLinks() {
  const runs = new Map(DATA.runs.map((run) => [run.id, run]));
  for (const name of document.querySelectorAll("span[data-run]")) {
    const run = runs.get(name.dataset.run);
    if (!run) continue;
    if (name.textContent === run.id) name.textContent = `${run.model} ${run.short}`;
    const button = make("button", { type: "button" }, ...name.childNodes);
    button.addEventListener("click", () => openRun(run));
    name.append(button);
  }
}

function show(title, back, ...parts) {
  const body = document.getElementById("detail-body");
  const close = make("button", { type: "button", className: "plain" }, "Close");
  close.addEventListener("click", () => dialog.close());
  const buttons = make("div", {}, close);
  if (back) buttons.prepend(back);
  const heading = make("h2", { id: "detail-title", tabIndex: -1 }, title);
  body.replaceChildren(make("div", { className: "bar" }, heading, buttons), ...parts.filter(Boolean));
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
  heading.focus();
}

function backTo(run) {
  const button = make("button", { type: "button", className: "plain" }, "All of this run");
  button.addEventListener("click", () => openRun(run));
  return button;
}

function pairs(entries) {
  const list = make("dl");
  for (const [name, value] of entries)
    if (value !== "" && value !== null && value !== undefined) list.append(make("dt", {}, name), make("dd", {}, value));
  return list;
}

// --- a figure -------------------------------------------------------------------------------------------------------

function openFigure(run, name) {
  const figure = figureOf(run, name);
  const unit = figure.unit === "1" || figure.unit === "B" ? "" : figure.unit;
  const value = make("p", { className: "big" }, figure.text, unit ? make("small", {}, ` ${unit}`) : "");
  const sub = make("p", { className: "sub" }, `${run.model} · ${run.data} · ${run.setting} · ${run.machine_name}`);
  show(titleOf(name), backTo(run), sub, value, figureFacts(run, name, figure), rawWindows(run, name, figure), whileTraining(run, name), protocolOf(run, figure));
}

function figureFacts(run, name, figure) {
  const isKnown = figure.value !== null;
  const sensor = figure.systematic === null ? "" : `± ${Number((100 * figure.systematic).toPrecision(2))} %, not in the interval`;
  const beside = ["_real", "_untrained", "_seed_spread"].map((end) => [name + end, figureOf(run, name + end)]);
  return pairs([
    [isKnown ? "note" : "why unknown", figure.note],
    ["95 % interval", isKnown ? figure.interval || "none" : ""],
    ["unrounded", isKnown ? String(figure.value) : ""],
    ["unit", figure.unit === "1" ? "none (a number)" : figure.unit],
    ["samples", figure.n],
    ["kind", figure.kind],
    ["label", figure.label],
    ["sensor", sensor],
    ["source", figure.source],
    ["not ranked", figure.unranked],
    ["energy", figure.unpublished],
    ["letter", isKnown ? letterText(run, name) : ""],
    ...beside.filter(([, found]) => found).map(([each, found]) => [each, found.text]),
    ["figure", name],
    ["phase", figure.phase ? `${figure.phase}: ${phaseText(run, figure.phase)}` : ""],
    ["run", run.id],
    ["commit", run.commit],
    ["machine", pooled(run.machine)],
  ]);
}

function letterText(run, name) {
  const letter = letterOf(run, name);
  if (!letter) return "";
  return `{${letter}}: to be compared with figures of this letter only; the letters differ in ${DATA.differ[name].join(", ")}`;
}

function phaseText(run, phase) {
  const [status, reason, duration] = run.phases[phase] || ["not run", "", ""];
  return [status, reason, duration].filter(Boolean).join(", ");
}

function protocolOf(run, figure) {
  const protocol = (run.phases[figure.phase] || [])[3];
  if (!protocol || !Object.keys(protocol).length) return null;
  const entries = Object.entries(protocol).map(([name, place]) => [name, tree(DATA.pool[place], 0)]);
  return make("details", {}, make("summary", {}, `Protocol of the phase ${figure.phase}`), pairs(entries));
}

/** JSON as nested lists of names and values. */
function tree(fact, depth) {
  if (fact === null) return "not known";
  if (typeof fact !== "object") return String(fact);
  if (depth > 4) return JSON.stringify(fact);
  if (Array.isArray(fact)) return fact.every((each) => typeof each !== "object") ? fact.join(", ") || "none" : JSON.stringify(fact);
  const entries = Object.entries(fact);
  return entries.length ? pairs(entries.map(([name, each]) => [name, tree(each, depth + 1) || "—"])) : "none";
}

// --- raw windows ----------------------------------------------------------------------------------------------------

/** [values, unit, title] of the windows that speak of this figure; null where they do not. */
function windowValues(run, name, figure, series) {
  const units = series.duration_s.map((_, index) => at(series.num_units, index));
  const unit = figure.unit;
  if (unit.startsWith("J")) {
    const joules = energyReadings(run, name, figure, series);
    if (!joules) return null;
    return unit === "J" ? [joules, "J"] : [joules.map((each, index) => each / units[index]), unit];
  }
  if (unit === "W") {
    const joules = energyReadings(run, name, figure, series);
    return joules && [joules.map((each, index) => each / series.duration_s[index]), "W"];
  }
  if (unit === "B") {
    const bytes = series.readings.peak_memory_bytes;
    return bytes === undefined ? null : [series.duration_s.map((_, index) => at(bytes, index) / 2 ** 20), "MiB"];
  }
  if (unit === "ms") return [series.duration_s.map((each) => each * 1e3), "ms"];
  return [series.duration_s.map((each, index) => units[index] / each), "image/s"];
}

function at(values, index) {
  return Array.isArray(values) ? values[index] : values;
}

/** Joules of each window: one part's where the figure is one part's, else the sum of what the phase counts. */
function energyReadings(run, name, figure, series) {
  const protocol = (run.phases[figure.phase] || [])[3] || {};
  const counted = Object.keys((DATA.pool[protocol.energy] || {}).sources || {});
  const all = Object.keys(series.readings).filter((each) => each.endsWith("_energy_j"));
  const part = name.match(/_(gpu|cpu|dram)_energy/);
  const names = part ? [`${part[1]}_energy_j`] : counted.length ? counted : all.filter((each) => !each.startsWith("codecarbon"));
  const found = names.filter((each) => series.readings[each] !== undefined);
  if (!found.length) return null;
  return series.duration_s.map((_, index) => found.reduce((sum, each) => sum + (at(series.readings[each], index) ?? NaN), 0));
}

function seriesOf(run, name, figure) {
  const found = (run.windows || {})[figure.phase];
  if (!found || figure.unit === "MAC" || /^(cold_start|step_)/.test(name)) return null;
  const names = Object.keys(found).filter((each) => !each.startsWith("replay") && !each.includes("idle"));
  const latency = names.find((each) => each.endsWith("latency"));
  const chosenName = name.includes("latency") && latency ? latency : names.find((each) => each !== latency);
  return chosenName ? [chosenName, found[chosenName]] : null;
}

function rawWindows(run, name, figure) {
  const isTimed = ["generate", "train_step", "train"].includes(figure.phase);
  const found = isTimed ? seriesOf(run, name, figure) : null;
  const values = found && windowValues(run, name, figure, found[1]);
  if (!values) {
    if (!isTimed || figure.value === null) return null;
    const reason = run.windows ? "No raw window speaks of this figure alone." : "The raw windows of this run did not fit into the page; they lie in its folder.";
    return make("p", { className: "sub" }, reason);
  }
  const [title, series] = found;
  const left = series.left_out ? ` ${series.left_out} more lie in windows/${figure.phase}.jsonl of the run's folder.` : "";
  const caption = `${values[0].length} windows of ${title} in order, the first ${series.num_warmup} of them warm-up (hollow).${left}`;
  const isSameUnit = values[1] === figure.unit && figure.low !== null;
  const chart = stripChart(values[0], values[1], series, isSameUnit ? figure : null);
  return make("div", {}, make("h3", {}, "Raw windows"), chart, make("p", { className: "sub" }, caption), numbers(values, series));
}

function numbers([values, unit], series) {
  const readings = Object.keys(series.readings);
  const header = ["window", "warm-up", "units", "duration_s", unit, ...readings, "flags"].join("\t");
  const lines = values.map((value, index) => [
    index, index < series.num_warmup ? "yes" : "no", at(series.num_units, index), series.duration_s[index],
    Number.isFinite(value) ? Number(value.toPrecision(6)) : "", ...readings.map((each) => at(series.readings[each], index) ?? ""),
    pooled(series.flags[index]),
  ].join("\t"));
  const area = make("textarea", { readOnly: true, spellcheck: false, "aria-label": "Numbers of the windows" });
  area.value = [header, ...lines].join("\n");
  const button = make("button", { type: "button", className: "plain" }, "Copy");
  button.addEventListener("click", () => {
    area.select();
    button.textContent = document.execCommand("copy") ? "Copied" : "Press Ctrl+C"; // works from disk, without a permission
  });
  return make("details", {}, make("summary", {}, "Numbers"), area, button);
}

/** Points in order over one axis: warm-up hollow, disturbed ones ringed, the figure's interval as a band. */
function stripChart(values, unit, series, figure) {
  const [width, height, left, right, top, bottom] = [640, 170, 62, 10, 22, 24];
  const finite = values.filter(Number.isFinite);
  const ends = figure ? [...finite, figure.low, figure.high] : finite;
  let [low, high] = [Math.min(...ends), Math.max(...ends)];
  const pad = (high - low || Math.abs(high) || 1) * 0.06;
  [low, high] = [low - pad, high + pad];
  const across = (index) => left + ((index + 0.5) / values.length) * (width - left - right);
  const up = (value) => top + ((high - value) / (high - low)) * (height - top - bottom);
  const label = `${values.length} windows from ${short(Math.min(...finite))} to ${short(Math.max(...finite))} ${unit}`;
  const chart = draw("svg", { viewBox: `0 0 ${width} ${height}`, class: "chart", role: "img", "aria-label": label });
  if (series.num_warmup) {
    const end = left + (series.num_warmup / values.length) * (width - left - right);
    chart.append(draw("rect", { x: left, y: top, width: end - left, height: height - top - bottom, class: "before" }));
    chart.append(draw("text", { x: left + 3, y: height - 8 }, "warm-up"));
  }
  for (const value of [low + pad, (low + high) / 2, high - pad]) {
    chart.append(draw("line", { x1: left, x2: width - right, y1: up(value), y2: up(value), class: "grid" }));
    chart.append(draw("text", { x: left - 6, y: up(value) + 4, "text-anchor": "end" }, short(value)));
  }
  chart.append(draw("text", { x: 8, y: 14 }, unit), draw("text", { x: width - right, y: height - 8, "text-anchor": "end" }, "window →"));
  if (figure) {
    chart.append(draw("rect", { x: left, y: up(figure.high), width: width - left - right, height: Math.max(1, up(figure.low) - up(figure.high)), class: "band" }));
    chart.append(draw("line", { x1: left, x2: width - right, y1: up(figure.value), y2: up(figure.value), class: "middle" }));
  }
  values.forEach((value, index) => {
    if (!Number.isFinite(value)) return;
    const flag = pooled(series.flags[index]);
    const kind = index < series.num_warmup ? "warmup" : "window";
    const radius = values.length > 150 ? 1.6 : 2.4;
    const point = draw("circle", { cx: across(index).toFixed(1), cy: up(value).toFixed(1), r: radius, class: kind });
    point.append(draw("title", {}, `window ${index}: ${short(value)} ${unit}${flag ? `; ${flag}` : ""}`));
    chart.append(point);
    if (flag) chart.append(draw("circle", { cx: across(index).toFixed(1), cy: up(value).toFixed(1), r: radius + 2.2, class: "flagged" }));
  });
  return chart;
}

function short(value) {
  return Number.isFinite(value) ? String(Number(value.toPrecision(4))) : "—";
}

/** The figure at each evaluation of the training, where there were several. */
function whileTraining(run, name) {
  const points = run.curve.filter(([, , figures]) => figures[name]);
  if (points.length < 2) return null;
  const list = points.map(([images, duration, figures]) => [`${images.toLocaleString("en")} images, ${duration}`, figures[name][0]]);
  const values = points.map(([, , figures]) => figures[name][1]);
  const [width, height, left, right, top, bottom] = [640, 150, 62, 14, 16, 24];
  const most = points[points.length - 1][0] || 1;
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const across = (images) => left + (images / most) * (width - left - right);
  const up = (value) => top + ((high - value) / (high - low || 1)) * (height - top - bottom);
  const chart = draw("svg", { viewBox: `0 0 ${width} ${height}`, class: "chart", role: "img", "aria-label": `${name} while training` });
  for (const value of new Set([low, high])) {
    chart.append(draw("line", { x1: left, x2: width - right, y1: up(value), y2: up(value), class: "grid" }));
    chart.append(draw("text", { x: left - 6, y: up(value) + 4, "text-anchor": "end" }, short(value)));
  }
  chart.append(draw("text", { x: width - right, y: height - 8, "text-anchor": "end" }, `images shown, to ${most.toLocaleString("en")}`));
  const path = points.map(([images], index) => `${across(images).toFixed(1)},${up(values[index]).toFixed(1)}`).join(" ");
  chart.append(draw("polyline", { points: path, class: "path" }));
  points.forEach(([images], index) => chart.append(draw("circle", { cx: across(images).toFixed(1), cy: up(values[index]).toFixed(1), r: 3, class: "window" })));
  return make("div", {}, make("h3", {}, "While training"), chart, make("details", {}, make("summary", {}, "Numbers"), pairs(list)));
}

// --- a run ----------------------------------------------------------------------------------------------------------

function openRun(run) {
  const parts = [make("p", { className: "sub" }, `${run.data} · ${run.setting} · ${run.machine_name}`)];
  parts.push(pairs([
    ["status", [run.status, run.reason].filter(Boolean).join(": ")],
    ["publishable", run.doubt ? `no: ${run.doubt}` : "yes"],
    ["audit", run.badge],
    ["run", run.id],
    ["commit", run.commit],
    ...run.facts.map(([name, place]) => [name, pooled(place)]),
  ]));
  const findings = run.audit.map(([level, rule, detail, remedy]) => `${level}: ${rule}: ${pooled(detail)} Remedy: ${pooled(remedy)}`);
  parts.push(...bullets("Audit", findings));
  parts.push(...bullets("What the record says of itself", run.validity.map(([level, rule, detail]) => `${level}: ${rule}: ${pooled(detail)}`)));
  for (const phase of Object.keys(run.phases)) parts.push(...phaseFigures(run, phase));
  show(run.model, null, ...parts);
}

function bullets(title, lines) {
  return lines.length ? [make("h3", {}, title), make("ul", {}, ...lines.map((line) => make("li", {}, line)))] : [];
}

function phaseFigures(run, phase) {
  const list = make("dl");
  for (const name of Object.keys(run.figures)) {
    const figure = figureOf(run, name);
    if (figure.phase !== phase) continue;
    const unit = ["1", "B"].includes(figure.unit) || figure.value === null ? "" : ` ${figure.unit}`;
    const button = make("button", { type: "button", className: "plain" }, figure.text + unit);
    button.addEventListener("click", () => openFigure(run, name));
    list.append(make("dt", {}, name), make("dd", {}, button));
  }
  return [make("h3", {}, `Phase ${phase}: ${phaseText(run, phase)}`), list];
}
