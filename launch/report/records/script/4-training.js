// Training records: what teachers wrote, what selection said of it, and the coloured documents that it became.
const trainingOf = ({ groups, records: rows }, stores) => {
  const of = (name) => state[TRAINING + name];
  const storeOf = (row) => stores.find((store) => store.arms.join() === groups[row.of].join());
  const coloured = (row) => {
    const store = storeOf(row);
    return store ? row.docs.map((at) => store.documents[at]) : [];
  };
  for (const row of rows) row.documents = coloured(row).length;
  const hay = (row) => {
    const texts = row.texts ? [plain(row.texts.question), plain(row.texts.trace), row.texts.detail] : [row.head];
    return [...texts, row.gold, row.answer, row.teacher, row.style, row.state].join("\n");
  };
  const equal = ["of", "teacher", "style", "state", "says"];
  const passing = () => (row) =>
    equal.every((name) => of(name) === "" || String(row[name]) === of(name)) &&
    (of("coloured") === "" || (row.documents > 0) === (of("coloured") === "yes")) &&
    (of("min") === "" || (row.tokens !== null && row.tokens >= Number(of("min")))) &&
    (of("max") === "" || (row.tokens !== null && row.tokens <= Number(of("max"))));

  const cell = (text) => make("td", {}, text);
  const textual = (key, title, more = {}) => ({
    key,
    title,
    cell: (row) => cell(short(row[key]) || "–"),
    sort: (row) => row[key],
    ...more,
  });
  const numeric = (key, title, told) => ({
    key,
    title,
    cell: (row) => cell(row[key] === null ? "–" : told(row[key])),
    sort: (row) => (row[key] === null ? Infinity : row[key]),
  });
  const marked = (text, isGood) => make("td", {}, make("span", { class: isGood ? "says right" : "says wrong" }, text));
  const kept = (row) => marked(row.state, row.state === "kept");
  const said = { cell: (row) => (row.says ? marked(row.says, row.says === "right") : cell("–")) };
  const head = (row, sought) => make("td", { class: "short" }, ...withHits(short(row.head), sought));
  const columns = [
    { key: "n", title: "#", sort: (row) => row.n },
    textual("head", "question", { cell: head }),
    textual("teacher", "teacher"),
    textual("style", "style"),
    textual("state", "selection", { cell: kept }),
    textual("says", "verdict", said),
    numeric("tokens", "tokens", count),
    numeric("weight", "weight", figure),
    numeric("loss", "mean loss", figure),
    {
      key: "documents",
      title: "coloured",
      cell: (row) => cell(row.documents ? "yes" : "–"),
      sort: (row) => -row.documents,
    },
  ];
  if (groups.length > 1)
    columns.push({ key: "of", title: "arms", cell: (row) => cell(groups[row.of].join(", ")), sort: (row) => row.of });

  const sides = (row, sought) => {
    const told = [`answer ${row.answer || "none"}`, `gold ${row.gold}`, row.texts.detail].filter(Boolean).join(" · ");
    const found = [
      make("p", { class: "whole" }, ...shown(row.texts.question, sought)),
      make(
        "div",
        {},
        make("h3", {}, `teacher: ${row.teacher}`),
        make("pre", {}, ...shown(row.texts.trace, sought)),
        make("p", {}, told),
      ),
    ];
    for (const one of coloured(row)) found.push(inColours(storeOf(row), one));
    return found;
  };
  const inColours = (store, own) => {
    const by = make("select", {});
    const named = { role: "group", "aria-label": `tokens of document ${own.number}` };
    const place = make("div", { class: "document", ...named });
    const told = make("p", { class: "token", "aria-live": "polite" });
    const scale = make("p", { class: "scale" });
    options(by, waysOf(store));
    by.value = store.channels.length ? "0" : "weight"; // the loss, where a scorer knows it
    const painter = painterOf(place, told, scale);
    const paint = () => painter(store, own, 0, by.value);
    by.addEventListener("change", paint);
    paint();
    return make("div", { class: "colours" }, make("label", {}, "coloured by ", by), scale, place, told);
  };

  const texts = (name, any) => options(byId(TRAINING + name), counted(rows.map((row) => row[name]), any));
  texts("teacher", "any");
  texts("style", "any");
  texts("state", "kept or not");
  texts("says", "any");
  options(byId(TRAINING + "of"), [["", "any"], ...groups.map((arms, at) => [String(at), arms.join(", ")])]);
  if (groups.length < 2) byId(TRAINING + "of").parentElement.style.display = "none";
  options(byId(TRAINING + "coloured"), [["", "any"], ["yes", "coloured, token by token"], ["no", "not coloured"]]);
  const fields = [...equal, "coloured"];
  return tableOf({ prefix: TRAINING, noun: "record", rows, fields, passing, columns, hay, sides });
};
