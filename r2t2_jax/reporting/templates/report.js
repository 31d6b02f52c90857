"use strict";
(() => {
  const PAGE = 50; // cases at a time
  const OUTCOMES = ["wrong → right", "right → wrong", "right → right", "wrong → wrong"];

  function element(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
      else made.setAttribute(key, value);
    }
    made.append(...children);
    return made;
  }

  function labeled(text, control) {
    return element("label", {}, text, control);
  }

  function choice(options, onchange) {
    return element("select", { onchange }, ...options.map(([value, text]) => element("option", { value }, text)));
  }

  // One strategy at a time: a list to choose from before the views, and links to a view show it.
  // Details that a large page keeps packed are unpacked when their strategy is chosen.
  async function inflate(text) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return JSON.parse(await new Response(stream).text());
  }
  const packed = {};
  for (const script of document.querySelectorAll("script[data-views]")) packed[script.dataset.views] = script;
  async function fill(model, view) {
    const note = view.querySelector(".packed");
    if (!note || !packed[model]) return;
    if (!("DecompressionStream" in window)) {
      note.textContent = "This browser is too old to show its families, experts, causes and examples.";
      return;
    }
    packed[model].details ??= inflate(packed[model].textContent);
    const details = (await packed[model].details)[view.dataset.view];
    if (!note.isConnected) return;
    note.replaceWith(document.createRange().createContextualFragment(details));
    view.dispatchEvent(new Event("r2t2:added", { bubbles: true }));
  }

  const choosers = {};
  for (const box of document.querySelectorAll(".views")) {
    const views = [...box.querySelectorAll(".view")];
    const listeners = [];
    const choose = (name) => {
      for (const view of views) view.hidden = view.dataset.view !== name;
      for (const listener of listeners) listener(name);
      return fill(box.dataset.model, views.find((view) => view.dataset.view === name));
    };
    const names = views.map((view) => [view.dataset.view, view.dataset.view]);
    const select = choice(names, () => choose(select.value));
    listeners.push((name) => { select.value = name; });
    box.insertBefore(element("p", { class: "controls" }, labeled("Strategy", select)), views[0]);
    choosers[box.dataset.model] = { choose, listeners, names, current: () => select.value };
    choose(names[0][0]);
  }

  function follow() {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const view = target && target.closest(".view");
    if (!view) return;
    choosers[view.closest(".views").dataset.model].choose(view.dataset.view);
    target.scrollIntoView();
  }
  addEventListener("hashchange", follow);
  document.addEventListener("click", (event) => {
    const link = event.target.closest && event.target.closest('a[href^="#"]');
    if (link && link.getAttribute("href") === location.hash) follow(); // the same link again changes no hash
  });
  follow();

  // Blocks of data: in the page, or in files next to it that assign to r2t2Blocks.
  const blocks = { ...(window.r2t2Blocks || {}) };
  for (const script of document.querySelectorAll("script[data-block]")) blocks[script.dataset.block] = script.textContent;

  const unpack = (name) => inflate(blocks[name]);

  const SVG = "http://www.w3.org/2000/svg";
  function svg(name, attributes, ...children) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  function addSheets(sheets) {
    for (const [number, [href, width, height]] of Object.entries(sheets)) {
      document.querySelector(".sheets defs").append(svg("image", { id: `sheet-${number}`, href, width, height }));
    }
  }

  // The card of one case, as templates/card.html.j2 writes the examples.
  function share(value, largest = false) {
    const text = (value / 10).toFixed(1).replace("-", "−");
    const width = `width:${Math.min(Math.max(value / 10, 0), 100)}%`;
    const number = element(largest ? "strong" : "span", { class: "value" }, text);
    return element("td", { class: "number measured" }, number, element("span", { class: largest ? "bar top" : "bar", style: width }));
  }

  function answerRow(name, answer, right) {
    const mark = right === undefined ? "" : element("span", { class: right ? "right" : "wrong" }, right ? "✓ right" : "✗ wrong");
    return element("tr", {}, element("th", { scope: "row" }, name), element("td", {}, answer || element("em", {}, "no answer")), element("td", {}, mark));
  }

  function answersOfAll(data, i) {
    const groups = new Map();
    for (const name of Object.keys(data.answers)) {
      const key = `${data.texts[data.answers[name][i]]}${data.right[name][i] === "1" ? " ✓" : " ✗"}`;
      groups.set(key, [...(groups.get(key) || []), name]);
    }
    const rows = [...groups].map(([answer, names]) => element("tr", {}, element("th", { scope: "row" }, answer), element("td", {}, names.join(", "))));
    return element("table", { class: "answers-of-all" }, element("caption", {}, "Answers of all strategies"), element("tbody", {}, ...rows));
  }

  function neighborTable(data, name, i) {
    let rows = data.neighbors[name];
    if (typeof rows === "string") rows = data.neighbors[rows];
    if (!rows || !rows[i].length) return "";
    const body = rows[i].map(([reference, weight]) => {
      const [question, answer] = data.references[reference];
      return element("tr", {}, element("td", {}, question), element("td", {}, answer), share(weight));
    });
    const head = element("tr", {}, element("th", { scope: "col" }, "neighbor"), element("th", { scope: "col" }, "answer"), element("th", { scope: "col", class: "number" }, "weight"));
    return element("table", { class: "neighbors" }, element("thead", {}, head), element("tbody", {}, ...body));
  }

  function routingTable(data, name, i) {
    const [shown, columns] = data.weights[name][i];
    const notes = ["Routing weights, %"];
    if (data.all_layers > data.layers.length) notes.push(`mean of ${data.all_layers} layers`);
    if (data.experts.length > shown.length) notes.push(`the ${shown.length} largest of ${data.experts.length} experts`);
    const top = data.layers.map((layer) => element("th", { colspan: 2, scope: "colgroup" }, layer));
    const below = data.layers.flatMap(() => ["before", "after"].map((text) => element("th", { scope: "col", class: "number" }, text)));
    const largest = columns.map((column) => column.indexOf(Math.max(...column)));
    const rows = shown.map((expert, row) => element("tr", {}, element("th", { scope: "row" }, data.experts[expert]), ...columns.map((column, j) => share(column[row], largest[j] === row))));
    const head = element("thead", {}, element("tr", {}, element("th", { rowspan: 2, scope: "col" }, "expert"), ...top), element("tr", {}, ...below));
    return element("table", { class: "routing" }, element("caption", {}, `${notes.join(", ")}.`), head, element("tbody", {}, ...rows));
  }

  function scene(data, place) {
    if (place && document.getElementById(`sheet-${place[0]}`)) {
      const use = svg("use", { href: `#sheet-${place[0]}` });
      return svg("svg", { class: "scene", viewBox: place.slice(1).join(" "), role: "img", "aria-label": "The image of this case" }, use);
    }
    return element("div", { class: "scene no-image" }, place ? "No image: it is in the folder next to this page." : data.no_image);
  }

  function card(data, name, i) {
    const [id, family, question, expected, place] = data.cases[i];
    const outcome = outcomeOf(data, name, i);
    const answers = element("table", { class: "answers" }, element("tbody", {},
      answerRow("router", data.texts[data.answers.base[i]], data.right.base[i] === "1"),
      answerRow(name, data.texts[data.answers[name][i]], data.right[name][i] === "1"),
      answerRow("expected", expected)));
    const head = element("header", {}, element("span", { class: "title" }, id), element("span", { class: "family" }, data.families[family]),
      element("span", { class: `outcome ${outcome.replace(" → ", "-")}` }, outcome));
    const words = element("div", { class: "words" }, element("p", { class: "question" }, question), answers);
    const note = data.fallback[name].includes(i) ? element("p", { class: "note" }, "No reference has any kernel weight: the router's own weights were used.") : "";
    return element("article", { class: "r2t2-card" }, head, element("div", { class: "sample" }, scene(data, place), words), note,
      neighborTable(data, name, i), routingTable(data, name, i), answersOfAll(data, i));
  }

  function outcomeOf(data, name, i) {
    const word = (strategy) => (data.right[strategy][i] === "1" ? "right" : "wrong");
    return `${word("base")} → ${word(name)}`;
  }

  // All cases: search, filters, order, and a card for each.
  async function browse(section) {
    const model = section.dataset.model, chooser = choosers[model];
    const summary = section.querySelector(".summary"), box = section.querySelector(".scroll");
    if (!(model in blocks)) {
      summary.append(" The data of all cases are in the folder next to this page, which is not here.");
      return;
    }
    const data = await unpack(model);
    let shown = PAGE;
    const update = () => { shown = PAGE; draw(); };
    const search = element("input", { type: "search", oninput: update });
    const family = choice([["", "all"], ...data.families.map((name, i) => [i, name || "unnamed"])], update);
    const outcome = choice([["", "all"], ["changed", "answer changed"], ...OUTCOMES.map((name) => [name, name])], update);
    const order = choice([["outcome", "change of the answer"], ["moved", "change of the weights"], ["set", "order of the test set"]], update);
    const strategy = choice(chooser.names, () => chooser.choose(strategy.value));
    const count = element("p", { class: "note", "aria-live": "polite" });
    const more = element("button", { type: "button", class: "more", onclick: () => { shown += PAGE; draw(); } }, "Show more");
    const body = element("tbody"), head = element("tr");
    const table = element("table", { class: "stack" }, element("thead", {}, head), body);
    const texts = data.cases.map(([id, , question, expected]) => `${id}\n${question}\n${expected}`.toLowerCase());

    function selected(name) {
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      const rows = data.cases.map((_, i) => i).filter((i) =>
        (family.value === "" || data.cases[i][1] === Number(family.value)) &&
        (outcome.value === "" || outcomeOf(data, name, i) === outcome.value ||
          (outcome.value === "changed" && data.answers[name][i] !== data.answers.base[i])) &&
        words.every((word) => texts[i].includes(word) || data.texts[data.answers[name][i]].toLowerCase().includes(word) ||
          data.texts[data.answers.base[i]].toLowerCase().includes(word)));
      const rank = (i) => (order.value === "outcome" ? OUTCOMES.indexOf(outcomeOf(data, name, i)) : 0);
      if (order.value !== "set") rows.sort((a, b) => rank(a) - rank(b) || data.moved[name][b] - data.moved[name][a]);
      return rows;
    }

    function row(name, i) {
      const [, familyIndex, question, expected] = data.cases[i];
      const open = element("button", { type: "button", class: "open", "aria-expanded": "false", onclick: toggle }, question);
      const cells = { family: data.families[familyIndex], expected, base: data.texts[data.answers.base[i]], [name]: data.texts[data.answers[name][i]],
        outcome: outcomeOf(data, name, i), "change, %": (data.moved[name][i] / 10).toFixed(1) };
      const line = element("tr", {}, element("td", {}, open), ...Object.entries(cells).map(([label, text]) => element("td", { "data-label": label }, text)));
      function toggle() {
        const isOpen = open.getAttribute("aria-expanded") === "true";
        open.setAttribute("aria-expanded", String(!isOpen));
        if (isOpen) line.nextSibling.remove();
        else line.after(element("tr", { class: "detail" }, element("td", { colspan: 7 }, card(data, name, i))));
      }
      return line;
    }

    function draw() {
      const name = chooser.current(), rows = selected(name);
      strategy.value = name;
      head.replaceChildren(...["question", "family", "expected", "base", name, "outcome", "change, %"].map((text) => element("th", { scope: "col" }, text)));
      body.replaceChildren(...rows.slice(0, shown).map((i) => row(name, i)));
      count.textContent = `${rows.length.toLocaleString("en")} of ${data.cases.length.toLocaleString("en")} cases, ${Math.min(shown, rows.length)} shown.`;
      more.hidden = shown >= rows.length;
    }

    summary.textContent = "A case opens with its image, its neighbors, its routing weights and the answers of all strategies. The change is how far the strategy moves the routing weights (total variation, mean over layers).";
    const controls = element("div", { class: "controls", role: "search", "aria-label": `Cases of ${model}` }, labeled("Search", search), labeled("Strategy", strategy),
      labeled("Family", family), labeled("Outcome", outcome), labeled("Order", order));
    box.replaceChildren(table);
    box.before(controls, count);
    box.after(more);
    chooser.listeners.push(update);
    draw();
  }

  (async () => {
    if (!("DecompressionStream" in window)) return;
    if (blocks.images) addSheets(await unpack("images"));
    for (const section of document.querySelectorAll(".cases")) await browse(section);
  })();
})();
