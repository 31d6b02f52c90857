"use strict";
// Tables that sort by their headings, and a field above long ones that filters their rows.
(() => {
  const FILTERED = 8; // rows of a table that has a field

  function value(row, column) {
    const text = row.cells[column] ? row.cells[column].textContent.trim() : "";
    const number = parseFloat(text.replace(/−/g, "-").replace(/,/g, ""));
    return { text, number: /^[-+−]?[\d.]/.test(text) ? number : NaN };
  }

  function compare(a, b, column, sign) {
    const [left, right] = [value(a, column), value(b, column)];
    const known = !Number.isNaN(left.number), other = !Number.isNaN(right.number);
    if (known && other) return sign * (left.number - right.number);
    if (known !== other) return known ? -1 : 1; // cells without a number come last
    return sign * left.text.localeCompare(right.text, "en");
  }

  const isHeading = (row) => row.classList.contains("group");

  function sort(table, column) {
    const heading = table.tHead.rows[0].cells[column];
    const first = heading.classList.contains("number") ? "descending" : "ascending";
    const earlier = heading.getAttribute("aria-sort");
    const order = earlier === null ? first : earlier === "ascending" ? "descending" : "ascending";
    for (const cell of table.tHead.rows[0].cells) cell.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", order);
    for (const body of table.tBodies) {
      const rows = [...body.rows].filter((row) => !isHeading(row));
      body.append(...rows.sort((a, b) => compare(a, b, column, order === "ascending" ? 1 : -1)));
    }
  }

  function filter(table, text) {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    for (const body of table.tBodies) {
      const rows = [...body.rows].filter((row) => !isHeading(row));
      for (const row of rows) row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
      for (const row of body.rows) if (isHeading(row)) row.hidden = rows.every((each) => each.hidden);
    }
  }

  function labeled(text, control, name) {
    const label = document.createElement("label");
    label.append(text, control);
    if (name) label.className = name;
    return label;
  }

  function prepare(table) {
    const heads = table.tHead && table.tHead.rows.length === 1 ? [...table.tHead.rows[0].cells] : [];
    const rows = [...table.tBodies].flatMap((body) => [...body.rows]).filter((row) => !isHeading(row));
    if (!heads.length || rows.length < 3 || table.closest(".cases") || table.dataset.sorts) return;
    table.dataset.sorts = "true";
    const names = heads.map((cell) => (cell.firstChild ? cell.firstChild.textContent.trim() : ""));
    const original = [...table.tBodies].map((body) => [...body.rows]);
    heads.forEach((cell, column) => {
      if (cell.tagName !== "TH") return;
      const button = document.createElement("button");
      button.type = "button";
      button.append(...cell.childNodes);
      button.addEventListener("click", () => sort(table, column));
      cell.append(button);
    });
    const controls = document.createElement("div");
    controls.className = "controls";
    const select = document.createElement("select"); // narrow screens show no headings
    select.append(new Option("order of the page", ""), ...names.map((name, column) => new Option(name, column)));
    select.addEventListener("change", () => {
      if (select.value !== "") sort(table, Number(select.value));
      else [...table.tBodies].forEach((body, i) => body.append(...original[i]));
    });
    controls.append(labeled("Sort by", select, "narrow"));
    if (rows.length >= FILTERED) {
      const field = document.createElement("input");
      field.type = "search";
      field.addEventListener("input", () => filter(table, field.value));
      controls.append(labeled("Filter rows", field));
    }
    (table.closest(".scroll") || table).before(controls);
  }

  const prepareAll = (box) => box.querySelectorAll("table.stack:not(.sortable)").forEach(prepare);
  prepareAll(document);
  document.addEventListener("r2t2:added", (event) => prepareAll(event.target)); // parts of a page that are unpacked later
})();
