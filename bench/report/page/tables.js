// Sorting, filtering and opening the comparison tables. A table's rows are in the HTML; `data-r` is the run's place.

const TABLES = [];

function startTables() {
  for (const element of document.querySelectorAll("table[data-table]")) {
    const heads = [...element.tHead.rows[1].cells];
    const table = { element, heads, rows: [...element.tBodies[0].rows], sorted: null, across: false };
    TABLES.push(table);
    heads.forEach((head, index) => startHead(table, head, index));
    for (const row of table.rows) startRow(table, row);
  }
}

function startHead(table, head, index) {
  const button = make("button", { type: "button" }, ...head.childNodes);
  head.append(button);
  head.setAttribute("aria-sort", "none");
  button.addEventListener("click", () => {
    const isAscending = head.getAttribute("aria-sort") === "ascending";
    table.across = table.sorted === index && table.across;
    table.sorted = index;
    for (const each of table.heads) each.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", isAscending ? "descending" : "ascending");
    sortTable(table);
  });
}

function startRow(table, row) {
  const run = DATA.runs[Number(row.dataset.r)];
  [...row.cells].forEach((cell, index) => {
    const { f: figure, k: kind } = table.heads[index].dataset;
    if (figure) startCell(cell, run, figure);
    else if (kind === "model" || kind === "badge" || kind === "status") {
      const opener = kind === "model" ? cell.querySelector("b") : cell;
      const button = make("button", { type: "button", title: kind === "status" ? run.reason : "" }, ...opener.childNodes);
      button.addEventListener("click", () => openRun(run));
      opener.append(button);
    } else if (kind === "machine") cell.title = pooled(run.machine);
  });
}

function startCell(cell, run, figure) {
  const button = make("button", { type: "button" }, ...cell.childNodes);
  button.addEventListener("click", () => openFigure(run, figure));
  cell.append(button);
  describeCell(button, run, figure);
}

/** An unknown figure says why, to a pointer and to a screen reader. */
function describeCell(button, run, figure) {
  const found = figureOf(run, figure);
  const isUnknown = !found || found.value === null;
  button.parentElement.classList.toggle("u", isUnknown);
  if (isUnknown) {
    button.title = found ? found.note : "";
    button.setAttribute("aria-label", `not known: ${button.title}`);
  } else {
    button.removeAttribute("title");
    button.removeAttribute("aria-label");
  }
}

/** Write the CO2 cells again, after the grid or the PUE changed. */
function showCo2() {
  for (const table of TABLES) {
    const places = table.heads.flatMap((head, index) => (CO2[head.dataset.f] ? [index] : []));
    for (const row of places.length ? table.rows : []) showCo2Row(table, row, places);
    if (places.includes(table.sorted)) sortTable(table);
  }
}

function showCo2Row(table, row, places) {
  const run = DATA.runs[Number(row.dataset.r)];
  for (const index of places) {
    const button = row.cells[index].querySelector("button");
    const name = table.heads[index].dataset.f;
    const text = figureOf(run, name).text;
    const letter = text === "—" ? "" : letterOf(run, name);
    button.replaceChildren(text, ...(letter ? [make("i", {}, `{${letter}}`)] : []));
    describeCell(button, run, name);
  }
}

// --- sorting --------------------------------------------------------------------------------------------------------

/** By number; unknown last in either direction; figures that may not be compared stay apart unless asked for. */
function sortTable(table) {
  const head = table.heads[table.sorted];
  const sign = head.getAttribute("aria-sort") === "descending" ? -1 : 1;
  const figure = head.dataset.f;
  const groups = figure && !table.across ? DATA.groups[figure] || [] : [];
  const keys = table.rows.map((row, place) => {
    const index = Number(row.dataset.r);
    const value = figure ? figureOf(DATA.runs[index], figure)?.value ?? null : row.cells[table.sorted].textContent;
    return { row, place: index, value, group: value === null ? Infinity : groups[index] ?? 0 };
  });
  const order = new Intl.Collator("en", { numeric: true });
  keys.sort((a, b) => {
    if (a.value === null || b.value === null) return (a.value === null) - (b.value === null) || a.place - b.place;
    if (a.group !== b.group) return a.group - b.group;
    const found = figure ? a.value - b.value : order.compare(a.value, b.value);
    return sign * found || a.place - b.place;
  });
  table.rows = keys.map((key) => key.row);
  table.element.tBodies[0].append(...table.rows);
  showNotice(table);
}

/** Say where the rows shown differ in what decides the figure that they are sorted by. */
function showNotice(table) {
  const notice = document.querySelector(`[data-notice="${table.element.dataset.table}"]`);
  const figure = table.sorted === null ? "" : table.heads[table.sorted].dataset.f;
  const groups = new Set();
  for (const row of figure ? table.rows : []) {
    const group = (DATA.groups[figure] || [])[Number(row.dataset.r)];
    if (!row.hidden && group >= 0 && group !== undefined) groups.add(group);
  }
  notice.hidden = groups.size < 2;
  notice.textContent = "";
  if (groups.size < 2) return;
  const fields = (DATA.differ[figure] || []).join(", ");
  const order = table.across ? "Ordered all the same: this is no ranking." : "Ordered within each letter only.";
  const button = make("button", { type: "button" }, table.across ? "Keep letters apart" : "Order them all");
  button.addEventListener("click", () => {
    table.across = !table.across;
    sortTable(table);
    notice.querySelector("button")?.focus();
  });
  notice.append(`${titleOf(figure)} may not be compared between all of these rows; they differ in ${fields}. ${order} `, button);
}

/** The letter of a figure's group, where the figures of its column are not all comparable. */
function letterOf(run, name) {
  const group = (DATA.groups[name] || [])[DATA.runs.indexOf(run)];
  if (!DATA.differ[name] || group === undefined || group < 0) return "";
  return group < 26 ? String.fromCharCode(97 + group) : `a${group + 1}`;
}

function titleOf(figure) {
  return DATA.titles[figure] || figure;
}

// --- filters --------------------------------------------------------------------------------------------------------

function startFilters() {
  const form = document.getElementById("filters");
  const selects = [...form.querySelectorAll("select")];
  for (const run of DATA.runs) run.audit_group = run.badge.replace(/^\d+ (\w+?)s?$/, "$1");
  for (const select of selects) {
    const values = [...new Set(DATA.runs.map((run) => filtered(run, select)))].sort();
    for (const value of values) {
      const run = DATA.runs.find((each) => filtered(each, select) === value);
      const more = select.dataset.filter === "machine_name" ? ` ${pooled(run.machine)}` : "";
      select.append(make("option", { value }, (value + more).slice(0, 60)));
    }
  }
  const texts = DATA.runs.map((run) => [run.model, run.id, run.data, run.setting, run.machine_name, pooled(run.machine), run.status, run.badge, run.preset].join(" ").toLowerCase());
  const apply = () => filterRows(document.getElementById("find").value, selects, texts);
  form.addEventListener("input", apply);
  form.addEventListener("reset", (event) => {
    event.preventDefault(); // it would come after the rows are shown
    for (const each of [document.getElementById("find"), ...selects]) each.value = "";
    apply();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  apply();
}

function filtered(run, select) {
  return select.dataset.filter === "audit" ? run.audit_group : run[select.dataset.filter];
}

function filterRows(text, selects, texts) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  const isShown = DATA.runs.map((run, index) =>
    words.every((word) => texts[index].includes(word)) && selects.every((each) => !each.value || filtered(run, each) === each.value));
  for (const table of TABLES) {
    for (const row of table.rows) row.hidden = !isShown[Number(row.dataset.r)];
    showNotice(table);
  }
  const num = isShown.filter(Boolean).length;
  document.getElementById("shown").textContent = `${num} of ${DATA.runs.length} runs shown`;
}
