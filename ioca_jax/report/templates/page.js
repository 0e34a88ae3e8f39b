// What the reader chooses: tables' order, curves, comparisons.

const DATA = JSON.parse(document.getElementById("data").textContent);

function download(name, rows) {
  const cell = (value) => {
    const text = value === null || value === undefined ? "" : String(value);
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const text = rows.map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
  const address = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  const file = `${name.replace(/[^\p{L}\p{N}.=-]+/gu, "_")}.csv`;
  const link = html("a", { href: address, download: file }, document.body);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}

function valueOf(cell) {
  const text = cell.dataset.v ?? cell.textContent;
  if (!cell.classList.contains("n")) return text;
  return text === "" ? null : Number(text.replace("inf", "Infinity"));
}

// A table's rows as lists of values, in the order shown.
const rowsOf = (table) => [...table.tBodies[0].rows].map((row) => [...row.cells].map(valueOf));
const namesOf = (table) => [...table.tHead.rows[0].cells].map((head) => head.dataset.name);

function recordsOf(name) {
  const table = document.getElementById(`table-${name}`);
  const names = namesOf(table);
  return rowsOf(table).map((row) => Object.fromEntries(row.map((value, i) => [names[i], value])));
}

function compare(a, b) {
  if (a === null || b === null) return (a === null) - (b === null);
  return isNumber(a) && isNumber(b) ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
}

function sortBy(table, head) {
  const column = head.cellIndex;
  const descending = head.getAttribute("aria-sort") === "ascending";
  const rows = [...table.tBodies[0].rows].map((row) => [valueOf(row.cells[column]), row]);
  const sign = descending ? -1 : 1;
  // Empty cells stay last.
  rows.sort(([a], [b]) => (a === null || b === null ? 1 : sign) * compare(a, b));
  table.tBodies[0].append(...rows.map(([, row]) => row));
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", descending ? "descending" : "ascending");
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.matches("th > button")) sortBy(button.closest("table"), button.parentElement);
  if (button.matches("button.csv")) {
    const table = document.getElementById(`table-${button.dataset.of}`);
    download(button.dataset.of, [namesOf(table), ...rowsOf(table)]);
  }
});

function addSelect(parent, label, options, onChange) {
  const box = html("label", {}, parent, label);
  const select = html("select", { name: label }, box);
  for (const [value, text] of options) html("option", { value }, select, text);
  select.addEventListener("change", onChange);
  return select;
}

function addChecks(parent, label, options, onChange) {
  const group = html("fieldset", {}, parent);
  html("legend", {}, group, label);
  return options.map(([value, text, checked]) => {
    const box = html("label", {}, group);
    const input = html("input", { type: "checkbox", value }, box);
    input.checked = checked;
    box.append(text);
    input.addEventListener("change", onChange);
    return input;
  });
}

const chosen = (inputs) => inputs.filter((input) => input.checked).map((input) => input.value);

// What to draw again, by place, when its width has changed: also where it is unfolded.
const redraws = new Map();

function redrawWithin(parent) {
  for (const [place, redraw] of redraws) if (parent.contains(place)) redraw();
}

// Sections are folded: links, the address and printing open them.

const folds = [...document.querySelectorAll("details.fold")];

function openAddressed() {
  const fold = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!fold?.matches("details.fold")) return;
  fold.open = true;
  fold.scrollIntoView();
}

function startFolds() {
  const button = html("button", { type: "button", class: "action" }, document.querySelector("nav"), "Open all sections");
  button.addEventListener("click", () => folds.forEach((fold) => { fold.open = true; }));
  // The search within a page and the reader unfold too; the event does not bubble.
  addEventListener("toggle", ({ target }) => { if (target.open) redrawWithin(target); }, true);
  addEventListener("hashchange", openAddressed);
  document.querySelector("nav").addEventListener("click", ({ target }) => {
    if (target.hash === location.hash) openAddressed(); // no hashchange
  });
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = folds.filter((fold) => !fold.open);
    closed.forEach((fold) => { fold.open = true; redrawWithin(fold); });
  });
  addEventListener("afterprint", () => closed.forEach((fold) => { fold.open = false; }));
  openAddressed();
}

// Accuracy along orders.

const TOWARDS = { ascending: "lowest first", descending: "highest first" };

function orderTitle(order) {
  return order.ranked_by === "random" ? "random order" : `${DATA.curves.measures[order.ranked_by]}, ${TOWARDS[order.direction]}`;
}

const orderColumn = (order) => (order.ranked_by === "random" ? "random" : `${order.ranked_by}_${order.direction}`);

function orderLook(order) {
  if (order.ranked_by === "random") return { colour: "var(--ink)", dash: "1 4", width: 3, shape: null };
  const number = Object.keys(DATA.curves.measures).indexOf(order.ranked_by);
  const descending = order.direction === "descending";
  return { colour: colour(number), dash: descending ? "7 4" : "none", width: 2, shape: number, hollow: descending };
}

function chosenOrders(choices) {
  const measures = chosen(choices.measures);
  const directions = chosen(choices.directions);
  return DATA.curves.orders
    .map((order, index) => ({ ...order, index }))
    .filter((order) => directions.includes(order.direction)
      && (order.ranked_by === "random" || measures.includes(order.ranked_by)));
}

function startCurves() {
  const { curves } = DATA;
  const place = document.getElementById("choices");
  const host = document.getElementById("curve-chart");
  const values = html("div", { id: "curve-values" });
  host.after(values);
  const choices = { changed: [] };
  const redraw = () => {
    drawCurves(choices, host, values);
    choices.changed.forEach((call) => call());
  };
  const titles = Object.entries(curves.measures);
  const first = titles.findIndex(([name]) => name === "mutual_information");
  const names = Object.keys(curves.quantities);
  choices.quantity = addSelect(place, "Quantity", names.map((name) => [name, quantityTitle(name)]), redraw);
  choices.scope = addSelect(place, "Scope", curves.scopes.map((s, i) => [i, s.title]), redraw);
  choices.clamp = addSelect(place, "Clamp", curves.clamps.map((name, i) => [i, name]), redraw);
  choices.measures = addChecks(place, "Measures", titles.map(([name, title], i) => [name, title, i === Math.max(first, 0)]), redraw);
  const directions = [...new Set(curves.orders.map((order) => order.direction))];
  choices.directions = addChecks(place, "Order", directions.map((d) => [d, TOWARDS[d] ?? d, true]), redraw);
  choices.band = addChecks(place, "Band", [["band", "\u00b1 standard deviation", true]], redraw)[0];
  const button = html("button", { type: "button", class: "action", id: "save-curves" }, null, "Download these curves as CSV");
  values.after(button);
  button.addEventListener("click", () => downloadCurves(choices));
  redraw();
  redraws.set(host, () => drawCurves(choices, host, values));
  return choices;
}

const QUANTITIES = {
  accuracy: "Test accuracy", loss: "Test loss", brier: "Brier score", agreement: "Agreement with the intact network",
  kl: "KL divergence to the intact network",
};

function quantityTitle(name) {
  const { unit } = DATA.curves.quantities[name];
  return `${QUANTITIES[name] ?? readable(name)}${unit === "1" ? "" : ` (${UNITS[unit] ?? unit})`}`;
}

function curvesOf(choices) {
  const { curves } = DATA;
  const [clamp, scope] = [Number(choices.clamp.value), Number(choices.scope.value)];
  const quantity = curves.quantities[choices.quantity.value];
  return chosenOrders(choices).map((order) => {
    const values = quantity.mean[clamp][scope][order.index];
    const spread = quantity.deviation[clamp][scope][order.index];
    const line = { name: orderTitle(order), column: orderColumn(order), values, look: orderLook(order) };
    if (spread && choices.band.checked) {
      line.low = values.map((value, i) => value - spread[i]);
      line.high = values.map((value, i) => value + spread[i]);
    }
    return line;
  });
}

function drawCurves(choices, host, box) {
  const scope = DATA.curves.scopes[Number(choices.scope.value)];
  const { steps } = scope;
  const last = steps[steps.length - 1];
  const lines = curvesOf(choices);
  const clamp = DATA.curves.clamps[Number(choices.clamp.value)];
  const title = quantityTitle(choices.quantity.value);
  const head = html("p", { class: "note" });
  const list = html("ul", { class: "values" });
  const cells = lines.map((line) => {
    const item = html("li", {}, list);
    item.append(sample(line.look));
    html("span", {}, item, line.name);
    return html("b", {}, item);
  });
  box.replaceChildren(head, list);
  const say = (i) => {
    const where = `${steps[i]} of ${last} neurons ablated`;
    head.textContent = `${title} with ${where} (${scope.title}, clamped to ${clamp}); move over the curves, or use the arrow keys:`;
    const texts = lines.map((line) => {
      const spread = line.high ? ` \u00b1 ${(line.high[i] - line.values[i]).toFixed(3)}` : "";
      return isNumber(line.values[i]) ? `${line.values[i].toFixed(3)}${spread}` : "none";
    });
    texts.forEach((text, number) => { cells[number].textContent = text; });
    return `${where}: ${lines.map((line, number) => `${line.name} ${texts[number]}`).join("; ")}`;
  };
  choices.place ??= 0.25;
  const shares = ["accuracy", "agreement"];
  const options = {
    steps, y: shares.includes(choices.quantity.value) ? [0, 1] : extent(lines.flatMap((line) => [...line.values, ...(line.low ?? []), ...(line.high ?? [])])), place: nearest(steps, choices.place * last),
    xLabel: `neurons ablated (of ${last})`, yLabel: title,
    label: `${title} along orders of ablation, ${scope.title}, clamped to ${clamp}`,
  };
  drawLines(host, lines, options, (i) => {
    choices.place = steps[i] / Math.max(last, 1);
    return say(i);
  });
}

function downloadCurves(choices) {
  const scope = DATA.curves.scopes[Number(choices.scope.value)];
  const columns = curvesOf(choices).flatMap(({ column, values, high }) => [
    [column, values],
    ...(high ? [[`${column}_standard_deviation`, high.map((end, i) => (isNumber(end) ? Number((end - values[i]).toFixed(4)) : null))]] : []),
  ]);
  const rows = scope.steps.map((step, i) => [step, ...columns.map(([, values]) => values[i])]);
  const about = [choices.quantity.value, scope.name, DATA.curves.clamps[Number(choices.clamp.value)]];
  download(about.join("_"), [["neurons_ablated", ...columns.map(([name]) => name)], ...rows]);
}

// Comparisons with intervals, from the tables.

const MOST_INTERVALS = 60;

function startForest(place) {
  const { table, label } = place.dataset;
  const by = place.dataset.by.split(" ").filter(Boolean);
  const records = recordsOf(table)
    .map((record) => ({ ...record, effect: record[place.dataset.value] }))
    .filter((record) => isNumber(record.effect));
  const controls = html("div", { class: "controls" }, place);
  const note = html("p", { class: "note" }, place);
  const host = html("div", {}, place);
  const text = (name, value) => {
    if (name === "scope") return scopeTitle(value);
    return name === "claim" ? value : name === "unit" ? UNITS[value] ?? value : readable(value);
  };
  const part = (record, name) => {
    if (name === "name") return record.name; // of a run, as in its findings
    return name === "layer" ? layerTitle(record.layer) : text(name, record[name] ?? "");
  };
  const redraw = () => {
    const own = records.filter((record) => selects.every(([name, select]) => String(record[name]) === select.value));
    const rows = own.slice(0, MOST_INTERVALS).map((record) => ({
      ...record,
      label: label.split(" ").map((name) => part(record, name)).filter(Boolean).join(", "),
      decided: "verdict" in record ? ["holds", "fails"].includes(record.verdict) : isNumber(record.p_corrected) && record.p_corrected <= 0.05,
    }));
    note.textContent = !own.length ? "There is nothing for these choices." : own.length > rows.length ? `The first ${rows.length} of ${own.length}; the table has more.` : "";
    const claim = by.includes("claim") ? DATA.claims[selects[by.indexOf("claim")][1].value] : null;
    const unit = claim?.effect ?? (place.dataset.unit || (UNITS[own[0]?.unit] ?? ""));
    const [below, above] = claim ? (claim.above ? ["fails", "holds"] : ["holds", "fails"]) : [place.dataset.below, place.dataset.above];
    drawForest(host, rows, {
      xLabel: unit, below, above, threshold: claim?.threshold ?? (place.dataset.value === "effect" ? 0 : null),
      label: `${own.some((row) => isNumber(row.low)) ? "Means with 95 % intervals" : "Values"}: ${unit}; the table has the numbers`,
    });
  };
  const selects = by.map((name) => {
    const values = [...new Set(records.map((record) => record[name]))];
    return [name, addSelect(controls, capital(readable(name)), values.map((value) => [value, text(name, value)]), redraw)];
  });
  redraw();
  redraws.set(place, redraw);
}

// Quantities along epochs, from a table: a line per layer.

function startCourses(place) {
  const records = recordsOf(place.dataset.table);
  const { x: across, lines: by } = place.dataset;
  const quantities = Object.keys(records[0]).filter((name) => name !== across && name !== by && records.some((record) => isNumber(record[name])));
  const controls = html("div", { class: "controls" }, place);
  const host = html("div", {}, place);
  const box = html("div", {}, place);
  const steps = [...new Set(records.map((record) => record[across]))].sort((a, b) => a - b);
  const names = [...new Set(records.map((record) => record[by]))];
  const redraw = () => {
    const quantity = select.value;
    const at = (name, step) => records.find((record) => record[by] === name && record[across] === step)?.[quantity] ?? null;
    const courses = names.map((name) => steps.map((step) => at(name, step)));
    // What is the same for all layers is the network's.
    const isOne = courses.every((course) => course.every((value, i) => value === courses[0][i]));
    const lines = (isOne ? courses.slice(0, 1) : courses).map((values, i) => ({
      name: isOne ? "network" : layerTitle(names[i]), values,
      look: { colour: colour(i), dash: "none", width: 2, shape: i, hollow: false },
    }));
    const list = html("ul", { class: "values" });
    const cells = lines.map((line) => {
      const item = html("li", {}, list);
      item.append(sample(line.look));
      html("span", {}, item, line.name);
      return html("b", {}, item);
    });
    const head = html("p", { class: "note" });
    box.replaceChildren(head, list);
    const options = {
      steps, y: extent(lines.flatMap((line) => line.values)), place: steps.length - 1,
      xLabel: "epochs of training", yLabel: readable(quantity), label: `${readable(quantity)} along training`,
    };
    drawLines(host, lines, options, (i) => {
      head.textContent = `After ${steps[i]} epochs:`;
      lines.forEach((line, number) => { cells[number].textContent = shown(line.values[i]); });
      return `${head.textContent} ${lines.map((line) => `${line.name} ${shown(line.values[i])}`).join("; ")}`;
    });
  };
  const select = addSelect(controls, "Quantity", quantities.map((name) => [name, readable(name)]), redraw);
  redraw();
  redraws.set(place, redraw);
}

function start() {
  if (document.getElementById("curve-chart")) startNeurons(startCurves());
  document.querySelectorAll(".forest").forEach(startForest);
  document.querySelectorAll(".courses").forEach(startCourses);
  let width = document.body.clientWidth;
  addEventListener("resize", () => {
    if (document.body.clientWidth === width) return; // a telephone's bars come and go
    width = document.body.clientWidth;
    redrawWithin(document.body);
  });
  startFolds();
}
