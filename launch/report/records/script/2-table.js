// The table of held-out questions: searched, filtered, sorted, in pages; a question that is opened shows all its texts.
const tableOf = ({ students, questions: rows }) => {
  const PAGE = 50; // questions of one page
  const SAYS = ["right", "undecided", "wrong", "no answer", "not judged"]; // in the order in which columns sort
  const FIELDS = ["q", "arm", "says", "fault", "min", "max"];
  const table = byId("table");
  const body = table.tBodies[0];
  const opened = new Set(); // numbers of questions
  let left = []; // rows that pass, sorted

  // Texts come in pieces, see shown.py

  const plain = (pieces) => {
    if (typeof pieces === "string") return pieces;
    return pieces.map((piece) => (typeof piece === "string" ? piece : piece.false || "")).join("");
  };
  const withHits = (text) => {
    const wanted = state.q.toLowerCase();
    const low = text.toLowerCase();
    if (!wanted || low.length !== text.length) return [text];
    const parts = [];
    let at = 0;
    for (let hit; (hit = low.indexOf(wanted, at)) >= 0; at = hit + wanted.length)
      parts.push(text.slice(at, hit), make("span", { class: "hit" }, text.slice(hit, hit + wanted.length)));
    return [...parts, text.slice(at)];
  };
  const shown = (pieces) =>
    (typeof pieces === "string" ? [pieces] : pieces).flatMap((piece) => {
      if (typeof piece === "string") return withHits(piece);
      if (piece.cut) return [make("span", { class: "cut" }, ` … ${count(piece.cut)} characters are left out … `)];
      const why = piece.why && piece.why !== piece.false ? `false: ${piece.why}` : "false";
      return [make("mark", { title: why }, ...withHits(piece.false)), make("span", { class: "why" }, ` (${why})`)];
    });

  // Which rows, in which order

  rows.forEach((row, at) => {
    const said = row.answers.filter(Boolean);
    const right = said.filter((one) => one.says === "right").length;
    row.n = at + 1;
    row.differ = right > 0 && right < said.length;
  });
  let here = 0; // rows whose texts are unpacked
  const hayOf = (row) => {
    if (!row.texts) return [row.head, row.gold, ...row.answers.map((one) => (one && one.answer) || "")].join("\n");
    const taught = row.texts.teachers.flatMap((one) => [one.who, plain(one.text), one.answer]);
    const written = row.texts.answers.flatMap((one, at) => one && [plain(one.text), row.answers[at].answer, one.note]);
    return [plain(row.texts.question), row.gold, ...taught, ...written].join("\n");
  };
  const take = (some) => {
    const open = new Set(onPage().filter((row) => opened.has(row.n) && !row.texts));
    const taken = rows.slice(here, (here += some.length));
    taken.forEach((row, at) => Object.assign(row, { texts: some[at], hay: null }));
    if (taken.some((row) => open.has(row)) || (here === rows.length && state.q)) drawAgain();
    else if (state.q) tell();
  };

  const isOf = (at) => state.arm === "" || at === Number(state.arm);
  const passes = (answer, at) =>
    answer !== null &&
    isOf(at) &&
    (!state.says || state.says === "differ" || answer.says === state.says) &&
    (!state.fault || answer.faults.includes(state.fault)) &&
    (state.min === "" || answer.tokens >= Number(state.min)) &&
    (state.max === "" || answer.tokens <= Number(state.max));

  const lengthOf = (row) => {
    const of = row.answers.filter((one, at) => one && isOf(at));
    return of.length ? of.reduce((sum, one) => sum + one.tokens, 0) / of.length : -1;
  };
  const KEYS = {
    n: (row) => row.n,
    question: (row) => row.head,
    gold: (row) => row.gold,
    teacher: (row) => row.teacher || "",
    tokens: lengthOf,
  };
  const keyOf = (row) => {
    if (state.sort in KEYS) return KEYS[state.sort](row);
    const one = row.answers[Number(state.sort.slice(1))];
    return one ? SAYS.indexOf(one.says) * 1e7 + one.tokens : Infinity;
  };
  const byText = new Intl.Collator("en", { numeric: true }).compare;

  const chosen = () => {
    const wanted = state.q.toLowerCase();
    const asks = FIELDS.slice(1).some((name) => state[name] !== "" && state[name] !== "differ");
    const passing = rows.filter(
      (row) =>
        (!wanted || (row.hay ??= hayOf(row).toLowerCase()).includes(wanted)) &&
        (state.says !== "differ" || row.differ) &&
        (!asks || row.answers.some(passes)),
    );
    const sign = state.down ? -1 : 1;
    const keyed = passing.map((row) => [keyOf(row), row]);
    keyed.sort(([a, one], [b, other]) => {
      const order = typeof a === "string" ? byText(a, b) : a < b ? -1 : Number(a > b);
      return sign * order || one.n - other.n;
    });
    return keyed.map(([, row]) => row);
  };

  // What is drawn

  const verdict = (one) => make("span", { class: `says ${one.says.replace(" ", "-")}` }, one.says);
  const cellOf = (one) => {
    if (!one) return make("td", {}, "not asked");
    return make("td", {}, verdict(one), one.answer === null ? "" : ` ${short(one.answer)}`);
  };
  const side = (title, text, ...more) =>
    make("div", {}, make("h3", {}, title), make("pre", {}, ...shown(text)), make("p", {}, ...more));

  const fillSides = (sides, row) => {
    sides.append(make("p", { class: "whole" }, ...shown(row.texts.question)));
    for (const one of row.texts.teachers)
      sides.append(side(`teacher: ${one.who}`, one.text, `answer ${one.answer || "none"} · gold ${row.gold}`));
    if (row.texts.more) sides.append(make("p", {}, `${row.texts.more} more traces of teachers are not shown.`));
    row.answers.forEach((one, at) => {
      if (!one) return;
      const { text, note } = row.texts.answers[at];
      const told = [` · answer ${one.answer === null ? "none" : one.answer}`, `gold ${row.gold}`];
      told.push(`${count(one.tokens)} tokens`, ...one.faults.filter((fault) => fault !== "wrong answer"), note);
      sides.append(side(students[at], text, verdict(one), told.filter(Boolean).join(" · ")));
    });
  };
  const detailOf = (row) => {
    const sides = make("div", { class: "sides" });
    if (row.texts) fillSides(sides, row);
    else sides.append(make("p", { class: "whole" }, "unpacking …"));
    return make("tr", { id: `records-detail-${row.n}` }, make("td", { colspan: 5 + students.length }, sides));
  };

  const lineOf = (row) => {
    const isOpen = opened.has(row.n);
    const more = isOpen ? { "aria-controls": `records-detail-${row.n}` } : {};
    const told = { type: "button", "aria-expanded": isOpen, "aria-label": `question ${row.n}`, "data-row": row.n };
    const button = make("button", { ...told, ...more }, `${isOpen ? "▾" : "▸"} ${row.n}`);
    button.addEventListener("click", () => toggle(row.n));
    const length = lengthOf(row);
    return make(
      "tr",
      {},
      make("th", { scope: "row" }, button),
      make("td", { class: "short" }, ...withHits(short(row.head))),
      make("td", {}, short(row.gold)),
      make("td", {}, row.teacher === null ? "–" : short(row.teacher)),
      ...row.answers.map(cellOf),
      make("td", {}, length < 0 ? "–" : count(Math.round(length))),
    );
  };

  const onPage = () => left.slice((Number(state.page) - 1) * PAGE, Number(state.page) * PAGE);

  const tell = () => {
    const of = left.length ? `${count(left.length)} of ${count(rows.length)} questions` : "no question is like that";
    const partly = state.q && here < rows.length;
    byId("count").textContent = partly ? `${of}; so far: texts are being unpacked` : of;
  };
  const drawAgain = () => { // a line that has the focus keeps it
    const focused = document.activeElement.dataset.row;
    draw();
    if (focused) focusLine(onPage().findIndex((row) => row.n === Number(focused)));
  };
  const draw = () => {
    left = chosen();
    const pages = Math.max(1, Math.ceil(left.length / PAGE));
    state.page = String(Math.min(pages, Math.max(1, Math.floor(Number(state.page)) || 1)));
    const on = onPage();
    body.replaceChildren(...on.flatMap((row) => (opened.has(row.n) ? [lineOf(row), detailOf(row)] : [lineOf(row)])));
    for (const head of table.tHead.rows[0].cells) {
      head.removeAttribute("aria-sort");
      if (head.dataset.key === state.sort) head.setAttribute("aria-sort", state.down ? "descending" : "ascending");
    }
    tell();
    byId("page").textContent = `page ${count(Number(state.page))} of ${count(pages)}`;
    byId("back").disabled = state.page === "1";
    byId("next").disabled = Number(state.page) === pages;
    const all = on.length > 0 && on.every((row) => opened.has(row.n));
    byId("open").textContent = `${all ? "close" : "open"} all on this page`;
  };

  // What a reader does

  const change = (given) => {
    Object.assign(state, "page" in given || "open" in given ? {} : { page: "1" }, given);
    draw();
    writeAddress();
  };
  const focusLine = (at) => {
    const lines = body.querySelectorAll("[data-row]");
    if (lines[at]) lines[at].focus();
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
  const turn = (by) => change({ page: String(Number(state.page) + by) });

  const onKey = (event) => {
    const on = event.target;
    if (event.ctrlKey || event.metaKey || event.altKey || !(on instanceof Element)) return;
    const at = [...body.querySelectorAll("[data-row]")].indexOf(on);
    const detail = on.closest('[id^="records-detail-"]');
    const number = detail ? Number(detail.id.split("-")[2]) : Number(on.dataset && on.dataset.row);
    const key = event.key;
    if (key === "/" && !on.matches("input, select, textarea, [contenteditable]")) {
      byId("q").focus();
      byId("q").select();
    } else if (key === "Escape" && on === byId("q")) {
      on.value = "";
      change({ q: "" });
    } else if (key === "Escape" && opened.has(number)) toggle(number);
    else if (key === "ArrowDown" && (at >= 0 || on === byId("q"))) focusLine(at + 1);
    else if (key === "ArrowUp" && at > 0) focusLine(at - 1);
    else if (key === "ArrowUp" && at === 0) byId("q").focus();
    else if ((key === "PageDown" || key === "PageUp") && at >= 0) {
      turn(key === "PageDown" ? 1 : -1);
      focusLine(0);
    } else return;
    event.preventDefault();
  };

  const fill = () => {
    opened.clear();
    for (const n of state.open.split(",").map(Number)) if (n) opened.add(n);
    for (const name of FIELDS) byId(name).value = state[name];
    draw();
  };

  const faults = new Map();
  for (const one of rows.flatMap((row) => row.answers))
    for (const fault of one ? one.faults : []) faults.set(fault, (faults.get(fault) || 0) + 1);
  const known = SAYS.filter((says) => rows.some((row) => row.answers.some((one) => one && one.says === says)));
  const counted = [...faults].sort().map(([fault, many]) => [fault, `${fault} (${count(many)})`]);
  options(byId("arm"), [["", "any"], ...students.map((name, at) => [String(at), name])]);
  options(byId("says"), [["", "any"], ...known.map((says) => [says, says]), ["differ", "students differ"]]);
  options(byId("fault"), [["", "anything, or nothing"], ...counted]);
  const heads = [["n", "#"], ["question", "question"], ["gold", "gold"], ["teacher", "teacher"]];
  heads.push(...students.map((name, at) => [`s${at}`, name]), ["tokens", "tokens"]);
  const cells = heads.map(([key, title]) => {
    const button = make("button", { type: "button" }, title);
    button.addEventListener("click", () => change({ sort: key, down: state.sort === key && !state.down ? "1" : "" }));
    return make("th", { scope: "col", "data-key": key }, button);
  });
  table.tHead.replaceChildren(make("tr", {}, ...cells));
  for (const name of FIELDS) byId(name).addEventListener("input", () => change({ [name]: byId(name).value }));
  byId("clear").addEventListener("click", () => {
    Object.assign(state, OF_TABLE);
    fill();
    writeAddress();
  });
  byId("back").addEventListener("click", () => turn(-1));
  byId("next").addEventListener("click", () => turn(1));
  byId("open").addEventListener("click", toggleAll);
  document.addEventListener("keydown", onKey);
  return { fill, take };
};
