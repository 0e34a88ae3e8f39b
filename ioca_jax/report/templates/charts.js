"use strict";
// SVG charts: lines with bands, points that can be selected, intervals.

// Colours repeat after 6, markers after 7.
const colour = (i) => `var(--c${i % 6})`;
const MARKERS = [
  "M-1,0A1,1 0 1 0 1,0A1,1 0 1 0 -1,0Z", // circle
  "M-.9,-.9H.9V.9H-.9Z", // square
  "M0,-1.2L1.1,.8H-1.1Z", // triangle up
  "M0,-1.3L1.3,0L0,1.3L-1.3,0Z", // diamond
  "M0,1.2L1.1,-.8H-1.1Z", // triangle down
  "M-.4,-1.2H.4V-.4H1.2V.4H.4V1.2H-.4V.4H-1.2V-.4H-.4Z", // plus
  "M-1.2,-.7L-.7,-1.2L0,-.5L.7,-1.2L1.2,-.7L.5,0L1.2,.7L.7,1.2L0,.5L-.7,1.2L-1.2,.7L-.5,0Z", // cross
];

function svg(name, attributes = {}, parent = null, text = null) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== null) node.textContent = text;
  if (parent) parent.append(node);
  return node;
}

function html(name, attributes = {}, parent = null, text = null) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== null) node.textContent = text;
  if (parent) parent.append(node);
  return node;
}

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
// At most 4 significant digits, and a real minus sign.
const shown = (value) =>
  isNumber(value) ? String(Number(value.toPrecision(4))).replace("-", "\u2212") : "none";

// As the summary writes names and units.
const readable = (name) => String(name).replaceAll("_", " ").replace("kl ", "KL ");
const UNITS = { bit: "bits", nat: "nats", 1: "share or index" };
const layerTitle = (layer) => (/^\d+$/.test(layer) ? `layer ${layer}` : String(layer));
const scopeTitle = (scope) => (scope === "network" ? "the whole network" : layerTitle(scope.replace(/^layer_(?=\d+$)/, "")));
const capital = (text) => text[0].toUpperCase() + text.slice(1);

function extent(values) {
  const known = values.filter(isNumber);
  if (!known.length) return [0, 1];
  const low = known.reduce((a, b) => Math.min(a, b));
  const high = known.reduce((a, b) => Math.max(a, b));
  const pad = 0.05 * (high - low) || 0.05 * Math.abs(high) || 0.5;
  return [low - pad, high + pad];
}

function ticksOf([low, high], count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((factor) => factor * power >= rough) * power;
  const ticks = [];
  for (let i = Math.ceil(low / step); i * step <= high + 1e-9 * step; i++) ticks.push(i * step);
  return ticks;
}

// Of the texts of ticks; a digit is about 7 wide.
const widest = (ticks) => 7 * Math.max(1, ...ticks.map((tick) => shown(tick).length));

// Ticks whose texts do not touch.
function fittingTicks(scale, count) {
  for (; count > 1; count--) {
    const ticks = scale.ticks(count);
    if (ticks.length < 2 || Math.abs(scale(ticks[1]) - scale(ticks[0])) > widest(ticks) + 10) return ticks;
  }
  return scale.ticks(1);
}

const linear = ([low, high], [from, to]) => {
  const scale = (value) => from + ((value - low) / (high - low)) * (to - from);
  scale.invert = (place) => low + ((place - from) / (to - from)) * (high - low);
  scale.ticks = (count) => ticksOf([low, high], count);
  return scale;
};

// Linear up to the width, logarithmic beyond, for values of both signs.
const asinh = ([low, high], [from, to], width) => {
  const inner = linear([Math.asinh(low / width), Math.asinh(high / width)], [from, to]);
  const scale = (value) => inner(Math.asinh(value / width));
  scale.invert = (place) => width * Math.sinh(inner.invert(place));
  scale.ticks = () => {
    const ticks = [0];
    const place = (tick) => {
      if (tick < low || tick > high) return;
      if (ticks.every((other) => Math.abs(scale(other) - scale(tick)) > 22)) ticks.push(tick);
    };
    const last = Math.ceil(Math.log10(Math.max(high, -low)));
    for (let power = Math.floor(Math.log10(width / 3)); power <= last; power++)
      for (const size of [10 ** power, 3 * 10 ** power]) { place(size); place(-size); }
    return ticks;
  };
  return scale;
};

// The name of the horizontal axis, in its middle as far as it fits there.
function nameAxis(root, text, [left, right], y) {
  const { width } = root.viewBox.baseVal;
  const half = Math.min(3.3 * text.length, width / 2);
  const x = Math.min(Math.max((left + right) / 2, half), width - half);
  svg("text", { x, y, "text-anchor": "middle" }, root, text);
}

// An empty chart with axes; the width is that of its place on the page.
function frame(host, options) {
  const width = Math.max(280, host.clientWidth || 700);
  const height = options.height || Math.max(240, Math.min(420, 0.55 * width));
  const along = [height - 42, 10];
  const y = options.width ? asinh(options.y, along, options.width) : linear(options.y, along);
  const rows = y.ticks(6);
  const across = [32 + widest(rows), width - 14];
  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": options.label });
  const x = linear(options.x, across);
  for (const tick of fittingTicks(x, Math.max(3, Math.floor(width / 110)))) {
    svg("path", { class: "grid", d: `M${x(tick)},${along[0]}V${along[1]}` }, root);
    svg("text", { x: x(tick), y: along[0] + 16, "text-anchor": "middle" }, root, shown(tick));
  }
  for (const tick of rows) {
    svg("path", { class: "grid", d: `M${across[0]},${y(tick)}H${across[1]}` }, root);
    svg("text", { x: across[0] - 6, y: y(tick) + 4, "text-anchor": "end" }, root, shown(tick));
  }
  svg("path", { class: "axis", d: `M${across[0]},${along[1]}V${along[0]}H${across[1]}` }, root);
  nameAxis(root, options.xLabel, across, height - 6);
  const turned = `translate(13,${(along[0] + along[1]) / 2}) rotate(-90)`;
  svg("text", { transform: turned, "text-anchor": "middle" }, root, options.yLabel);
  host.replaceChildren(root);
  return { root, x, y, across, along, width, height };
}

function marker(parent, x, y, shape, size, attributes) {
  return svg("path", {
    d: MARKERS[shape % MARKERS.length],
    transform: `translate(${x.toFixed(1)},${y.toFixed(1)}) scale(${size})`,
    "vector-effect": "non-scaling-stroke",
    ...attributes,
  }, parent);
}

// Where the pointer is, in the coordinates of the chart.
function placeOf(event, root) {
  const box = root.getBoundingClientRect();
  const scale = root.viewBox.baseVal.width / box.width;
  return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
}

function nearest(values, value) {
  let best = 0;
  values.forEach((v, i) => { if (Math.abs(v - value) < Math.abs(values[best] - value)) best = i; });
  return best;
}

// A sample of a line for a legend.
function sample(look) {
  const root = svg("svg", { viewBox: "0 0 44 16", "aria-hidden": "true" });
  svg("path", { d: "M0,8H44", fill: "none", stroke: look.colour, "stroke-width": look.width, "stroke-dasharray": look.dash }, root);
  if (look.shape !== null)
    marker(root, 22, 8, look.shape, 4, { fill: look.hollow ? "var(--paper)" : look.colour, stroke: look.colour, "stroke-width": 1.5 });
  return root;
}

// Lines with bands. A place on the x-axis is chosen by pointer or arrow keys; onPlace
// gets its index and returns a sentence on it.
function drawLines(host, lines, options, onPlace) {
  const steps = options.steps;
  const chart = frame(host, { ...options, x: [steps[0], Math.max(steps[steps.length - 1], steps[0] + 1)] });
  const { root, x, y } = chart;
  const points = (values, order) => order
    .filter((i) => isNumber(values[i]))
    .map((i) => `${x(steps[i]).toFixed(1)},${y(values[i]).toFixed(1)}`);
  const forwards = steps.map((_, i) => i);
  const backwards = [...forwards].reverse();
  for (const line of lines) {
    if (!line.low) continue;
    const around = [...points(line.high, forwards), ...points(line.low, backwards)];
    svg("path", { class: "band", d: `M${around.join("L")}Z`, fill: line.look.colour, opacity: 0.16 }, root);
  }
  lines.forEach((line, number) => {
    const { look } = line;
    const line_ = points(line.values, forwards);
    svg("path", {
      class: "line", "data-name": line.name, d: `M${line_.join("L")}`, fill: "none", stroke: look.colour,
      "stroke-width": look.width, "stroke-dasharray": look.dash,
    }, root);
    if (look.shape === null) return;
    const stride = Math.max(1, Math.floor(steps.length / 8));
    for (let i = Math.floor((number * stride) / lines.length); i < steps.length; i += stride)
      if (isNumber(line.values[i]))
        marker(root, x(steps[i]), y(line.values[i]), look.shape, 4, { fill: look.hollow ? "var(--paper)" : look.colour, stroke: look.colour, "stroke-width": 1.5 });
  });
  const cursor = svg("path", { class: "axis" }, root);
  let place = options.place;
  const show = (index) => {
    place = Math.min(Math.max(index, 0), steps.length - 1);
    cursor.setAttribute("d", `M${x(steps[place])},${chart.along[0]}V${chart.along[1]}`);
    root.setAttribute("aria-valuenow", steps[place]);
    root.setAttribute("aria-valuetext", onPlace(place));
  };
  const about = { role: "slider", tabindex: 0, "aria-valuemin": steps[0], "aria-valuemax": steps[steps.length - 1] };
  for (const [key, value] of Object.entries(about)) root.setAttribute(key, value);
  root.addEventListener("pointermove", (event) => show(nearest(steps, x.invert(placeOf(event, root)[0]))));
  root.addEventListener("pointerdown", (event) => show(nearest(steps, x.invert(placeOf(event, root)[0]))));
  root.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 10, PageDown: -10 }[event.key];
    const to = { Home: 0, End: steps.length - 1 }[event.key];
    if (by === undefined && to === undefined) return;
    event.preventDefault();
    show(to === undefined ? place + by : to);
  });
  show(place);
  return chart;
}

// Means with intervals, one below the other; what each side of the threshold means.
function drawForest(host, rows, options) {
  const width = Math.max(280, host.clientWidth || 700);
  const longest = 7 * Math.max(0, ...rows.map((row) => row.label.length)) + 24;
  const wide = longest < 0.45 * width;
  const left = wide ? longest : 12;
  const rowHeight = wide ? 22 : 42;
  const top = options.below || options.above ? 22 : 4;
  const bottom = top + rows.length * rowHeight + 4;
  const height = bottom + 42;
  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": options.label });
  const { threshold } = options;
  const [low, high] = extent(rows.flatMap((row) => [row.low, row.high, row.effect, threshold]));
  const x = linear([low, high], [left, width - 14]);
  for (const tick of fittingTicks(x, Math.max(3, Math.floor((width - left) / 100)))) {
    svg("path", { class: "grid", d: `M${x(tick)},${top}V${bottom}` }, root);
    svg("text", { x: x(tick), y: bottom + 14, "text-anchor": "middle" }, root, shown(tick));
  }
  if (threshold !== null) svg("path", { class: "mark", d: `M${x(threshold)},${top}V${bottom}` }, root);
  if (options.below) svg("text", { class: "side", x: left, y: 14 }, root, `\u2190 ${options.below}`);
  if (options.above) svg("text", { class: "side", x: width - 14, y: 14, "text-anchor": "end" }, root, `${options.above} \u2192`);
  nameAxis(root, options.xLabel, [left, width - 14], height - 8);
  rows.forEach((row, i) => {
    const y = top + i * rowHeight + (wide ? 12 : 30);
    const place = wide ? { x: left - 10, y: y + 4, "text-anchor": "end" } : { x: left, y: y - 13 };
    const most = Math.floor(width / 6.5);
    const text = !wide && row.label.length > most ? `${row.label.slice(0, most - 1)}\u2026` : row.label;
    svg("text", place, root, text);
    const group = svg("g", { class: "interval" }, root);
    svg("title", {}, group, `${row.label}: ${shown(row.effect)}${isNumber(row.low) ? `, 95 % interval ${shown(row.low)} to ${shown(row.high)}` : ""}${row.verdict ? `, ${row.verdict}` : ""}`);
    if (isNumber(row.low)) svg("path", { d: `M${x(row.low)},${y}H${x(row.high)}`, stroke: colour(0), "stroke-width": 2 }, group);
    if (isNumber(row.effect)) marker(group, x(row.effect), y, 0, 5, { fill: row.decided ? colour(0) : "var(--paper)", stroke: colour(0), "stroke-width": 2 });
  });
  host.replaceChildren(root);
}
