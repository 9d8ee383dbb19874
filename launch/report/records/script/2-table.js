// A table: searched, filtered, sorted, in pages; a line that is opened shows all its texts. `fields` are what it is
// filtered by, `passing()` says which rows are, `columns` have {key, title, cell, sort}, `hay` is the text that is
// searched, `sides` what an open line shows. Names of its nodes and of what is chosen begin with `prefix`.
const tableOf = ({ prefix, noun, rows, fields, passing, columns, hay, sides }) => {
  const PAGE = 50; // lines of one page
  const FIELDS = ["q", "min", "max", ...fields];
  const at = (name) => byId(prefix + name);
  const get = (name) => state[prefix + name];
  const set = (given) => {
    for (const [name, value] of Object.entries(given)) state[prefix + name] = value;
  };
  const part = at("part");
  const table = at("table");
  const body = table.tBodies[0];
  const opened = new Set(); // numbers of lines
  let left = []; // rows that pass, sorted
  let here = 0; // rows whose texts are unpacked

  rows.forEach((row, i) => (row.n = i + 1));
  const take = (some) => {
    const open = new Set(onPage().filter((row) => opened.has(row.n) && !row.texts));
    const taken = rows.slice(here, (here += some.length));
    taken.forEach((row, i) => Object.assign(row, { texts: some[i], hay: null }));
    if (taken.some((row) => open.has(row)) || (here === rows.length && get("q"))) drawAgain();
    else if (get("q")) tell();
  };

  // Which rows, in which order

  const byText = new Intl.Collator("en", { numeric: true }).compare;
  const chosen = () => {
    const wanted = get("q").toLowerCase();
    const passes = passing();
    const has = (row) => !wanted || (row.hay ??= hay(row).toLowerCase()).includes(wanted);
    const kept = rows.filter((row) => has(row) && passes(row));
    const sign = get("down") ? -1 : 1;
    const keyOf = (columns.find((column) => column.key === get("sort")) || columns[0]).sort;
    const keyed = kept.map((row) => [keyOf(row), row]);
    keyed.sort(([a, one], [b, other]) => {
      const order = typeof a === "string" ? byText(a, b) : a < b ? -1 : Number(a > b);
      return sign * order || one.n - other.n;
    });
    return keyed.map(([, row]) => row);
  };

  // What is drawn

  const detailOf = (row) => {
    const inside = row.texts ? sides(row, get("q")) : [make("p", { class: "whole" }, "unpacking …")];
    const name = `records-${prefix}detail-${row.n}`;
    const cell = make("td", { colspan: columns.length }, make("div", { class: "sides" }, ...inside));
    return make("tr", { id: name }, cell);
  };
  const lineOf = (row) => {
    const isOpen = opened.has(row.n);
    const more = isOpen ? { "aria-controls": `records-${prefix}detail-${row.n}` } : {};
    const told = { type: "button", "aria-expanded": isOpen, "aria-label": `${noun} ${row.n}`, "data-row": row.n };
    const button = make("button", { ...told, ...more }, `${isOpen ? "▾" : "▸"} ${row.n}`);
    button.addEventListener("click", () => toggle(row.n));
    const cells = columns.slice(1).map((column) => column.cell(row, get("q")));
    return make("tr", {}, make("th", { scope: "row" }, button), ...cells);
  };

  const onPage = () => left.slice((Number(get("page")) - 1) * PAGE, Number(get("page")) * PAGE);
  const tell = () => {
    const of = left.length ? `${count(left.length)} of ${count(rows.length)} ${noun}s` : `no ${noun} is like that`;
    const partly = get("q") && here < rows.length;
    at("count").textContent = partly ? `${of}; so far: texts are being unpacked` : of;
  };
  const drawAgain = () => { // a line that has the focus keeps it
    const focused = body.contains(document.activeElement) && document.activeElement.dataset.row;
    draw();
    if (focused) focusLine(onPage().findIndex((row) => row.n === Number(focused)));
  };
  const draw = () => {
    left = chosen();
    const pages = Math.max(1, Math.ceil(left.length / PAGE));
    set({ page: String(Math.min(pages, Math.max(1, Math.floor(Number(get("page"))) || 1))) });
    const on = onPage();
    body.replaceChildren(...on.flatMap((row) => (opened.has(row.n) ? [lineOf(row), detailOf(row)] : [lineOf(row)])));
    for (const head of table.tHead.rows[0].cells) {
      head.removeAttribute("aria-sort");
      if (head.dataset.key === get("sort")) head.setAttribute("aria-sort", get("down") ? "descending" : "ascending");
    }
    tell();
    at("page").textContent = `page ${count(Number(get("page")))} of ${count(pages)}`;
    at("back").disabled = get("page") === "1";
    at("next").disabled = Number(get("page")) === pages;
    const all = on.length > 0 && on.every((row) => opened.has(row.n));
    at("open").textContent = `${all ? "close" : "open"} all on this page`;
  };

  // What a reader does

  const change = (given) => {
    set({ ...("page" in given || "open" in given ? {} : { page: "1" }), ...given });
    draw();
    writeAddress();
  };
  const focusLine = (place) => {
    const lines = body.querySelectorAll("[data-row]");
    if (lines[place]) lines[place].focus();
  };
  const toggle = (n) => {
    if (!opened.delete(n)) opened.add(n);
    change({ open: [...opened].join(",") });
    focusLine(onPage().findIndex((row) => row.n === n));
  };
  const toggleAll = () => {
    const numbers = onPage().map((row) => row.n);
    const close = numbers.every((n) => opened.has(n));
    for (const n of numbers) close ? opened.delete(n) : opened.add(n);
    change({ open: [...opened].join(",") });
  };
  const turn = (by) => change({ page: String(Number(get("page")) + by) });

  const onKey = (event) => {
    const on = event.target;
    if (event.ctrlKey || event.metaKey || event.altKey || !(on instanceof Element)) return;
    const mine = (on.closest(".part") || app.querySelector(".part")) === part;
    if (!mine || event.defaultPrevented) return;
    const place = [...body.querySelectorAll("[data-row]")].indexOf(on);
    const detail = on.closest('[id*="detail-"]');
    const number = detail ? Number(detail.id.split("detail-")[1]) : Number(on.dataset && on.dataset.row);
    const key = event.key;
    if (key === "/" && !on.matches("input, select, textarea, [contenteditable]")) {
      at("q").focus();
      at("q").select();
    } else if (key === "Escape" && on === at("q")) {
      on.value = "";
      change({ q: "" });
    } else if (key === "Escape" && opened.has(number)) toggle(number);
    else if (key === "ArrowDown" && (place >= 0 || on === at("q"))) focusLine(place + 1);
    else if (key === "ArrowUp" && place > 0) focusLine(place - 1);
    else if (key === "ArrowUp" && place === 0) at("q").focus();
    else if ((key === "PageDown" || key === "PageUp") && place >= 0) {
      turn(key === "PageDown" ? 1 : -1);
      focusLine(0);
    } else return;
    event.preventDefault();
  };

  const fill = () => {
    opened.clear();
    for (const n of get("open").split(",").map(Number)) if (n) opened.add(n);
    for (const name of FIELDS) at(name).value = get(name);
    draw();
  };

  const cells = columns.map(({ key, title }) => {
    const button = make("button", { type: "button" }, title);
    button.addEventListener("click", () => change({ sort: key, down: get("sort") === key && !get("down") ? "1" : "" }));
    return make("th", { scope: "col", "data-key": key }, button);
  });
  table.tHead.replaceChildren(make("tr", {}, ...cells));
  for (const name of FIELDS) at(name).addEventListener("input", () => change({ [name]: at(name).value }));
  at("clear").addEventListener("click", () => {
    for (const name of [...FIELDS, "sort", "down", "page", "open"]) set({ [name]: PLAIN[prefix + name] });
    fill();
    writeAddress();
  });
  at("back").addEventListener("click", () => turn(-1));
  at("next").addEventListener("click", () => turn(1));
  at("open").addEventListener("click", toggleAll);
  document.addEventListener("keydown", onKey);
  return { fill, take };
};
// Of values that lines have: how many have each, for a field to filter by.
const counted = (values, any) => {
  const found = new Map();
  for (const value of values) if (value !== "") found.set(value, (found.get(value) || 0) + 1);
  return [["", any], ...[...found].sort().map(([value, many]) => [value, `${value} (${count(many)})`])];
};
