// Neurons of one network: selected in a scatter of two measures, seen in the effects of
// single ablations and in the orders.

// Points of two quantities, which are selected by pointer or keys.
function drawPoints(host, points, options, state) {
  const chart = frame(host, {
    ...options,
    x: extent(points.map((point) => point.x)), y: extent(points.map((point) => point.y)),
    height: Math.max(260, Math.min(380, 0.8 * (host.clientWidth || 400))),
  });
  const { root } = chart;
  if (options.zero) svg("path", { class: "mark", d: `M${chart.across[0]},${chart.y(0)}H${chart.across[1]}` }, root);
  const known = points.filter((point) => isNumber(point.x) && isNumber(point.y));
  const placed = known.map((point) => ({ ...point, left: chart.x(point.x), top: chart.y(point.y) }));
  placed.sort((a, b) => a.left - b.left || a.top - b.top);
  const nodes = placed.map((point) =>
    marker(root, point.left, point.top, point.layer, 3.5, { class: "point", "data-neuron": point.neuron }));
  const ring = svg("circle", { r: 9, fill: "none", stroke: "var(--ink)", "stroke-width": 1.5, visibility: "hidden" }, root);
  const box = svg("rect", { class: "brush", visibility: "hidden" }, root);
  const paint = () => placed.forEach((point, i) => {
    const on = state.selected.has(point.neuron);
    nodes[i].setAttribute("fill", on ? "var(--ink)" : "none");
    nodes[i].setAttribute("stroke", on ? "var(--ink)" : colour(point.layer));
    nodes[i].setAttribute("stroke-width", on ? 2 : 1);
    if (on) nodes[i].parentNode.insertBefore(nodes[i], ring);
  });
  let cursor = 0;
  const show = (i) => {
    if (!placed.length) return;
    cursor = Math.min(Math.max(i, 0), placed.length - 1);
    const point = placed[cursor];
    ring.setAttribute("cx", point.left);
    ring.setAttribute("cy", point.top);
    ring.setAttribute("visibility", "visible");
    root.setAttribute("aria-valuenow", cursor + 1);
    root.setAttribute("aria-valuetext", state.say(point.neuron));
  };
  const closest = ([left, top]) => {
    const far = placed.map((point) => Math.hypot(point.left - left, point.top - top));
    const index = nearest(far, 0);
    return [index, far[index] ?? Infinity];
  };
  const about = { role: "slider", tabindex: 0, "aria-valuemin": 1, "aria-valuemax": placed.length, "aria-valuenow": 1 };
  for (const [key, value] of Object.entries(about)) root.setAttribute(key, value);
  let from = null;
  root.addEventListener("pointerdown", (event) => {
    from = placeOf(event, root);
    if (event.pointerType === "mouse") root.setPointerCapture(event.pointerId);
  });
  root.addEventListener("pointermove", (event) => {
    const [left, top] = placeOf(event, root);
    if (!from || event.pointerType !== "mouse") {
      const [index, distance] = closest([left, top]);
      if (distance < 20) show(index);
      return;
    }
    const corner = { x: Math.min(left, from[0]), y: Math.min(top, from[1]), width: Math.abs(left - from[0]), height: Math.abs(top - from[1]) };
    for (const [key, value] of Object.entries({ ...corner, visibility: "visible" })) box.setAttribute(key, value);
  });
  root.addEventListener("pointerup", (event) => {
    const to = placeOf(event, root);
    box.setAttribute("visibility", "hidden");
    if (!from) return;
    const [low, high] = [0, 1].map((axis) => [Math.min(from[axis], to[axis]), Math.max(from[axis], to[axis])]);
    from = null;
    if (Math.hypot(low[1] - low[0], high[1] - high[0]) < 5) {
      const [index, distance] = closest(to);
      if (distance < 20) { show(index); state.toggle(placed[index].neuron); }
      return;
    }
    if (event.pointerType !== "mouse") return;
    const inside = placed.filter((point) => point.left >= low[0] && point.left <= low[1] && point.top >= high[0] && point.top <= high[1]);
    state.select(inside.map((point) => point.neuron), event.shiftKey);
  });
  root.addEventListener("pointercancel", () => { from = null; box.setAttribute("visibility", "hidden"); });
  root.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 10, PageDown: -10, Home: -placed.length, End: placed.length }[event.key];
    if (by !== undefined) show(cursor + by);
    else if ((event.key === " " || event.key === "Enter") && placed.length) state.toggle(placed[cursor].neuron);
    else if (event.key === "Escape") state.select([], false);
    else return;
    event.preventDefault();
  });
  paint();
  return paint;
}

// The places of the selected neurons in each chosen order, a strip for each.
function drawPlaces(host, strips, last, label) {
  const width = Math.max(280, host.clientWidth || 700);
  const [left, right] = [14, width - 14];
  const step = 44;
  const height = strips.length * step + 30;
  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  const x = linear([0, Math.max(last, 1)], [left, right]);
  strips.forEach((strip, i) => {
    const top = i * step + 20;
    svg("text", { x: left, y: top - 5 }, root, strip.name);
    svg("rect", { x: left, y: top, width: right - left, height: 16, fill: "var(--wash)", stroke: "var(--line)" }, root);
    for (const place of strip.places) {
      const at = x(place + 0.5).toFixed(1);
      svg("path", { class: "place", d: `M${at},${top}V${top + 16}`, stroke: strip.look.colour, "stroke-width": 2 }, root);
    }
  });
  for (const tick of x.ticks(Math.max(3, width / 110)))
    svg("text", { x: x(tick), y: strips.length * step + 12, "text-anchor": "middle" }, root, shown(tick));
  host.replaceChildren(root);
}

const MOST_SELECTED_ROWS = 200;

function startNeurons(choices) {
  const { neurons } = DATA;
  const byId = (id) => document.getElementById(id);
  const controls = byId("neuron-choices");
  const note = byId("neuron-note");
  const all = neurons.layer.map((_, i) => i);
  const titleOf = (m) => `${m.title}${m.unit === "1" ? "" : ` (${m.unit}s)`}`;
  const nameOf = (i) => `${neurons.layers[neurons.layer[i]]}, neuron ${neurons.index[i]}`;
  const measures = neurons.measures.map((m, i) => [i, m.title]);
  // Neurons of one number are others in another network: each has its selection.
  const selections = neurons.networks.map(() => new Set());
  const state = {
    get selected() { return selections[Number(network.value)]; },
    set selected(some) { selections[Number(network.value)] = some; },
  };
  const networks = neurons.networks.map(({ seed }, i) => [i, `seed ${seed}`]);
  const network = addSelect(controls, "Network", networks, () => redraw());
  const one = () => neurons.networks[Number(network.value)];
  const x = addSelect(controls, "Horizontal axis", measures, () => redraw());
  const y = addSelect(controls, "Vertical axis", measures, () => redraw());
  x.value = Math.max(0, neurons.measures.findIndex((m) => m.name === "entropy"));
  const second = neurons.measures.findIndex((m) => m.name === "mutual_information");
  y.value = second >= 0 ? second : measures.length - 1;
  const scopeOf = () => DATA.curves.scopes[Number(choices.scope.value)];
  const clampOf = () => Number(choices.clamp.value);
  const layerOf = () => neurons.scopes.indexOf(scopeOf().name); // -1 for the network
  const inScope = () => all.filter((i) => layerOf() < 0 || neurons.layer[i] === layerOf());
  const valueIn = (select, i) => one().scores[Number(select.value)][i];
  const placesOf = (order) => (layerOf() < 0 ? one().in_network : one().in_layer)[order.index];
  const rankable = () => chosenOrders(choices).filter((order) => order.ranked_by !== "random" && placesOf(order));

  state.say = (i) => {
    const parts = [x, y].map((select) => `${neurons.measures[Number(select.value)].title} ${shown(valueIn(select, i))}`);
    const text = `${nameOf(i)}: ${parts.join(", ")}, increase of the loss ${shown(one().effects[clampOf()][i])} nats${state.selected.has(i) ? ", selected" : ""}`;
    note.textContent = text;
    return text;
  };
  state.toggle = (i) => {
    if (!state.selected.delete(i)) state.selected.add(i);
    update();
  };
  state.select = (some, add) => {
    state.selected = new Set([...(add ? state.selected : []), ...some]);
    update();
  };
  const tenth = (sign) => {
    const ranked = inScope().filter((i) => isNumber(valueIn(x, i))).sort((a, b) => sign * (valueIn(x, a) - valueIn(x, b)));
    state.select(ranked.slice(0, Math.max(1, Math.round(ranked.length / 10))), false);
  };
  for (const [text, act] of [
    ["Select the highest tenth (horizontal axis)", () => tenth(-1)],
    ["Select the lowest tenth (horizontal axis)", () => tenth(1)],
    ["Clear", () => state.select([], false)],
  ]) html("button", { type: "button", class: "action" }, controls, text).addEventListener("click", act);
  const button = html("button", { type: "button", class: "csv-neurons action" }, controls, "Download the neurons as CSV");
  button.addEventListener("click", () => download(`neurons_seed_${one().seed}`, table(all)));

  const table = (some) => {
    const ranked = rankable();
    const names = ["layer", "neuron", ...neurons.measures.map((m) => m.name), ...DATA.curves.clamps.map((c) => `loss_increase_${c}`), ...ranked.map((order) => `place_${orderColumn(order)}`)];
    return [names, ...some.map((i) => [
      neurons.layers[neurons.layer[i]], neurons.index[i], ...one().scores.map((row) => row[i]),
      ...one().effects.map((row) => row[i]), ...ranked.map((order) => placesOf(order)[i] + 1),
    ])];
  };
  let paints = [];
  const update = () => {
    paints.forEach((paint) => paint());
    const selected = inScope().filter((i) => state.selected.has(i));
    const effects = selected.map((i) => one().effects[clampOf()][i]).filter(isNumber);
    const mean = effects.reduce((a, b) => a + b, 0) / effects.length;
    byId("selected-note").textContent = selected.length
      ? `${selected.length} of ${inScope().length} neurons selected; mean increase of the loss when one of them is ablated: ${shown(mean)} nats.`
      : "No neuron is selected: drag over points, or press a button above.";
    const { steps } = scopeOf();
    const strips = selected.length ? rankable().map((order) => ({ name: `place in the order: ${orderTitle(order)}`, look: orderLook(order), places: selected.map((i) => placesOf(order)[i]) })) : [];
    const places = byId("place-chart");
    if (strips.length) drawPlaces(places, strips, steps[steps.length - 1], "Places of the selected neurons in the orders of ablation");
    else places.replaceChildren();
    showSelected(byId("selected"), table(selected.slice(0, MOST_SELECTED_ROWS)));
  };
  const redraw = () => {
    const some = inScope();
    const clamp = DATA.curves.clamps[clampOf()];
    const effects = one().effects[clampOf()];
    const [across, up] = [x, y].map((select) => titleOf(neurons.measures[Number(select.value)]));
    const point = (i, values) => ({ neuron: i, layer: neurons.layer[i], x: valueIn(x, i), y: values(i) });
    const sizes = some.map((i) => Math.abs(effects[i] ?? 0)).sort((a, b) => a - b);
    const keys = "arrow keys move between neurons, space selects, escape clears";
    paints = [
      drawPoints(byId("scatter"), some.map((i) => point(i, (j) => valueIn(y, j))), { xLabel: across, yLabel: up, label: `${up} against ${across}, a point per neuron; ${keys}` }, state),
      drawPoints(byId("effect-chart"), some.map((i) => point(i, (j) => effects[j])), {
        xLabel: across, yLabel: "increase of the test loss (nats)", zero: true, width: sizes[Math.floor(0.75 * sizes.length)] || 1,
        label: `Increase of the loss when one neuron is ablated (clamped to ${clamp}) against ${across}; ${keys}`,
      }, state),
    ];
    const legend = byId("layer-legend");
    legend.replaceChildren();
    for (const layer of new Set(some.map((i) => neurons.layer[i]))) {
      const item = html("li", {}, legend);
      item.append(sample({ colour: colour(layer), shape: layer, hollow: true, width: 0, dash: "none" }));
      html("span", {}, item, neurons.layers[layer]);
    }
    update();
  };
  choices.changed.push(redraw);
  redraw();
  redraws.set(controls, redraw);
}

function showSelected(host, [names, ...rows]) {
  host.hidden = !rows.length;
  const place = host.querySelector("table");
  place.replaceChildren();
  const head = html("tr", {}, html("thead", {}, place));
  for (const name of names)
    html("button", { type: "button" }, html("th", { scope: "col", "data-name": name }, head), readable(name));
  const body = html("tbody", {}, place);
  for (const row of rows) {
    const line = html("tr", {}, body);
    for (const value of row) {
      const cell = html("td", isNumber(value) ? { class: "n", "data-v": value } : {}, line);
      cell.textContent = value === null ? "" : isNumber(value) ? shown(value) : value;
    }
  }
}
