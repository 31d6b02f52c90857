"use strict";
(async () => {
  if (!("DecompressionStream" in window)) return;
  const byId = (id) => document.getElementById(id);
  const bytes = Uint8Array.from(atob(byId("data").textContent), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const data = JSON.parse(await new Response(stream).text());
  const columns = data.experts.length, dark = matchMedia("(prefers-color-scheme: dark)");
  const canvas = byId("heat"), PAGE = 30;
  const tables = {
    entries: { shown: PAGE, more: "more", listed: "listed", noun: "entries" },
    pairs: { shown: PAGE, more: "more-pairs", listed: "listed-pairs", noun: "pairs" },
  };
  let cells = [];

  function element(name, attributes, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
      else made.setAttribute(key, value);
    }
    made.append(...children);
    return made;
  }

  // Controls: what is shown, in which order, and which layers and experts.
  const change = () => { for (const state of Object.values(tables)) state.shown = PAGE; draw(); };
  const select = (options) => element("select", { onchange: change }, ...options.map((text, i) => element("option", { value: i }, text)));
  const group = select(data.views.map((view) => view.name)), quantity = select(data.quantities.map((each) => each.label));
  const order = select(["number", "value, in each layer", "mean over layers", "largest value"]);
  const layers = element("input", { type: "search", placeholder: "all, or 0-4, 7", oninput: change });
  const experts = element("input", { type: "search", placeholder: "all, or 0-15, 31", oninput: change });
  const tested = element("input", { type: "checkbox", onchange: change });
  const labeled = (text, control) => element("label", {}, text, control);
  byId("controls").append(labeled("Group", group), labeled("Show", quantity), labeled("Order of experts", order),
    labeled("Layers", layers), labeled("Experts", experts), element("label", { class: "check" }, tested, `only q ≤ ${data.rate}`));

  // "0-4, 7" are numbers at the end of names, or places if names have none; other words are parts of names.
  function chosen(names, text) {
    const parts = text.toLowerCase().split(",").map((part) => part.trim()).filter(Boolean);
    const number = (name, i) => Number((name.match(/\d+$/) || [i])[0]);
    return names.map((_, i) => i).filter((i) => !parts.length || parts.some((part) => {
      const range = part.match(/^(\d+)(?:\s*-\s*(\d+))?$/);
      if (!range) return names[i].toLowerCase().includes(part);
      return number(names[i], i) >= Number(range[1]) && number(names[i], i) <= Number(range[2] || range[1]);
    }));
  }

  const mean = (numbers) => numbers.reduce((total, value) => total + value, 0) / numbers.length;
  const text = (value, signed) => {
    const digits = Math.abs(value / data.scale).toFixed(3), zero = !Number(digits);
    return (zero || (value > 0 && !signed) ? "" : value < 0 ? "−" : "+") + digits;
  };

  function draw() {
    const view = data.views[group.value], kind = data.quantities[quantity.value];
    const values = view.values[kind.name], q = view.values[kind.q], limit = data.rate * data.scale;
    const rows = chosen(data.layers, layers.value), wanted = chosen(data.experts, experts.value);
    const at = (row, column) => values[row * columns + column];
    const keep = (row, column) => !tested.checked || q[row * columns + column] <= limit;
    const rank = order.value === "2" ? (e) => mean(rows.map((row) => at(row, e)))
      : (e) => Math.max(...rows.map((row) => Math.abs(at(row, e))));
    const ordered = Number(order.value) > 1 ? [...wanted].sort((a, b) => rank(b) - rank(a)) : wanted;
    cells = rows.map((row) => (order.value === "1" ? [...wanted].sort((a, b) => at(row, b) - at(row, a)) : ordered)
      .map((column) => ({ row, column, value: at(row, column), drawn: keep(row, column) })));
    const most = Math.max(1, ...values.map(Math.abs));
    paint(most, kind, order.value === "1" ? null : ordered);
    byId("counts").textContent = `${view.name}: ${view.note}. ${rows.length} of ${data.layers.length} layers, ${wanted.length} of ${columns} experts.`;
    byId("legend").textContent = `${kind.label}: ${kind.signed ? `${text(-most)} to ` : "0 to "}${text(most, kind.signed)}; rows are layers, columns experts`;
    byId("below").hidden = !kind.signed;
    list(view, kind);
    listPairs(data.pairs[group.value], rows, wanted);
  }

  function paint(most, kind, names) {
    const scale = window.devicePixelRatio || 1, style = getComputedStyle(document.body);
    const font = `12px ${style.fontFamily}`, context = canvas.getContext("2d"), across = cells.length ? cells[0].length : 0;
    context.font = font;
    const left = 8 + Math.max(0, ...cells.map((line) => context.measureText(data.layers[line[0] ? line[0].row : 0]).width));
    const room = Math.max(200, canvas.parentElement.clientWidth - left - 2);
    const width = Math.min(48, Math.max(5, Math.floor(room / Math.max(across, 1)))), height = cells.length > 30 ? 12 : cells.length > 8 ? 18 : 28;
    const labels = names && width >= 14 ? names.map((e) => data.experts[e]) : [];
    const top = labels.length ? 8 + Math.max(...labels.map((name) => context.measureText(name).width)) : 16;
    canvas.geometry = { left, top, width, height };
    canvas.style.width = `${left + across * width + 2}px`;
    canvas.style.height = `${top + cells.length * height + 2}px`;
    canvas.width = (left + across * width + 2) * scale;
    canvas.height = (top + cells.length * height + 2) * scale;
    context.scale(scale, scale);
    context.font = font;
    context.textBaseline = "middle";
    context.fillStyle = style.getPropertyValue("--soft") || style.color;
    labels.forEach((name, i) => {
      context.save();
      context.translate(left + (i + 0.5) * width, top - 4);
      context.rotate(-Math.PI / 2);
      context.fillText(name, 0, 0);
      context.restore();
    });
    if (!labels.length) context.fillText(names ? `${across} experts, sorted as chosen →` : `${across} experts of each layer, largest first →`, left, 8);
    cells.forEach((line, i) => {
      if (line[0]) context.fillText(data.layers[line[0].row], 0, top + (i + 0.5) * height);
    });
    const colors = dark.matches ? ["86, 180, 233", "230, 130, 60"] : ["0, 114, 178", "213, 94, 0"];
    context.strokeStyle = style.getPropertyValue("--line");
    context.strokeRect(left + 0.5, top + 0.5, across * width, cells.length * height);
    cells.forEach((line, i) => line.forEach((cell, j) => {
      if (!cell.drawn || !cell.value) return;
      context.fillStyle = `rgba(${colors[cell.value < 0 ? 1 : 0]}, ${Math.abs(cell.value) / most})`;
      context.fillRect(left + j * width, top + i * height, width - (width > 8 ? 1 : 0), height - 1);
    }));
  }

  const isSigned = (name) => /_(difference|low|high)$/.test(name);
  const described = (cell, view, kind) => {
    const at = (name) => view.values[name][cell.row * columns + cell.column];
    return kind.columns.map(([label, name]) => `${label} ${text(at(name), isSigned(name))}`).join(", ") + `, q = ${at(kind.q) / data.scale}`;
  };

  canvas.addEventListener("pointermove", (event) => {
    const { left, top, width, height } = canvas.geometry;
    const line = cells[Math.floor((event.offsetY - top) / height)], cell = line && line[Math.floor((event.offsetX - left) / width)];
    if (!cell) return;
    const place = `${data.layers[cell.row]}, ${data.experts[cell.column]}`;
    byId("readout").textContent = `${place}: ${described(cell, data.views[group.value], data.quantities[quantity.value])}`;
  });

  // A table of rows of values; a heading sorts by its column, and again in the other direction. Names are sorted by number.
  function fill(id, headings, entries, order) {
    const state = tables[id], key = headings.findIndex(({ heading }) => heading === state.heading);
    if (key >= 0) entries.sort((a, b) => state.sign * (b[key] - a[key]));
    else entries.sort(order);
    const sort = ({ heading, names }) => {
      Object.assign(state, { heading, sign: state.heading === heading ? -state.sign : heading === "q" || names ? -1 : 1 });
      draw();
    };
    const head = headings.map((each) => element("th", { scope: "col", class: each.names ? "" : "number" },
      element("button", { type: "button", "aria-pressed": String(each.heading === state.heading), onclick: () => sort(each) }, each.heading)));
    const cell = (value, { heading, names, signed }) => (names ? names[value]
      : heading === "q" ? String(value / data.scale) : text(value, signed));
    const body = entries.slice(0, state.shown).map((values) => element("tr", {}, ...headings.map((each, i) =>
      element(i ? "td" : "th", i ? { class: each.names ? "" : "number", "data-label": each.heading } : { scope: "row" }, cell(values[i], each)))));
    byId(id).tHead.replaceChildren(element("tr", {}, ...head));
    byId(id).tBodies[0].replaceChildren(...body);
    byId(state.more).hidden = state.shown >= entries.length;
    byId(state.listed).textContent = `${entries.length.toLocaleString("en")} ${state.noun}, ${body.length} shown. A heading sorts by its column.`;
  }

  const named = [{ heading: "layer", names: data.layers }, { heading: "expert", names: data.experts }];

  function list(view, kind) {
    const numbers = [...kind.columns, ["q", kind.q]].map(([heading, name]) => ({ heading, name, signed: isSigned(name) }));
    const entries = cells.flat().filter((cell) => cell.drawn).map((cell) => Object.assign(
      [cell.row, cell.column, ...numbers.map(({ name }) => view.values[name][cell.row * columns + cell.column])], { size: Math.abs(cell.value) }));
    fill("entries", [...named, ...numbers], entries, (a, b) => b.size - a.size);
  }

  function listPairs(pairs, rows, wanted) {
    byId("together").hidden = !pairs || !pairs.length;
    if (byId("together").hidden) return;
    const headings = [...named, { heading: "and", names: data.experts }, { heading: "share" }, { heading: "lift" },
      { heading: "from the mean", signed: true }, { heading: "q" }];
    const kept = pairs.filter(([layer, first, second, , , , q]) => rows.includes(layer)
      && (wanted.includes(first) || wanted.includes(second)) && (!tested.checked || q <= data.rate * data.scale));
    fill("pairs", headings, kept, (a, b) => Math.abs(b[5]) - Math.abs(a[5]));
  }

  for (const state of Object.values(tables)) byId(state.more).addEventListener("click", () => { state.shown += 5 * PAGE; draw(); });
  dark.addEventListener("change", draw);
  addEventListener("resize", draw);
  byId("explorer").hidden = false;
  byId("still").hidden = true;
  draw();
})();
