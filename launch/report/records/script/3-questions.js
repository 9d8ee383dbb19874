// Held-out questions, with what every student answered.
const questionsOf = ({ students, full, questions: rows }) => {
  const SAYS = ["right", "undecided", "wrong", "no answer", "not judged"]; // in the order in which columns sort
  for (const row of rows) {
    const said = row.answers.filter(Boolean);
    const right = said.filter((one) => one.says === "right").length;
    row.differ = right > 0 && right < said.length;
  }
  const hay = (row) => {
    if (!row.texts) return [row.head, row.gold, ...row.answers.map((one) => (one && one.answer) || "")].join("\n");
    const taught = row.texts.teachers.flatMap((one) => [one.who, plain(one.text), one.answer]);
    const written = row.texts.answers.flatMap((one, at) => one && [plain(one.text), row.answers[at].answer, one.note]);
    return [plain(row.texts.question), row.gold, ...taught, ...written].join("\n");
  };

  const isOf = (at) => state.arm === "" || at === Number(state.arm);
  const says = (answer, at) =>
    answer !== null &&
    isOf(at) &&
    (!state.says || state.says === "differ" || answer.says === state.says) &&
    (!state.fault || answer.faults.includes(state.fault)) &&
    (state.min === "" || answer.tokens >= Number(state.min)) &&
    (state.max === "" || answer.tokens <= Number(state.max));
  const passing = () => {
    const asks = ["arm", "says", "fault", "min", "max"].some((name) => state[name] !== "" && state[name] !== "differ");
    return (row) => (state.says !== "differ" || row.differ) && (!asks || row.answers.some(says));
  };

  const lengthOf = (row) => {
    const of = row.answers.filter((one, at) => one && isOf(at));
    return of.length ? of.reduce((sum, one) => sum + one.tokens, 0) / of.length : -1;
  };
  const verdict = (one) => make("span", { class: `says ${one.says.replace(" ", "-")}` }, one.says);
  const cellOf = (one) => {
    if (!one) return make("td", {}, "not asked");
    return make("td", {}, verdict(one), one.answer === null ? "" : ` ${short(one.answer)}`);
  };
  const columnOf = (title, at) => ({
    key: `s${at}`,
    title,
    cell: (row) => cellOf(row.answers[at]),
    sort: ({ answers }) => (answers[at] ? SAYS.indexOf(answers[at].says) * 1e7 + answers[at].tokens : Infinity),
  });
  const cell = (text) => make("td", {}, text);
  const head = (row, sought) => make("td", { class: "short" }, ...withHits(short(row.head), sought));
  const length = (row) => cell(lengthOf(row) < 0 ? "–" : count(Math.round(lengthOf(row))));
  const columns = [
    { key: "n", title: "#", sort: (row) => row.n },
    { key: "question", title: "question", cell: head, sort: (row) => row.head },
    { key: "gold", title: "gold", cell: (row) => cell(short(row.gold)), sort: (row) => row.gold },
    {
      key: "teacher",
      title: "teacher",
      cell: (row) => cell(row.teacher === null ? "–" : short(row.teacher)),
      sort: (row) => row.teacher || "",
    },
    ...students.map(columnOf),
    { key: "tokens", title: "tokens", cell: length, sort: lengthOf },
  ];

  // The loss of each token under the student that wrote it: `lengths` of the text's stretches, `losses` in hundredths,
  // and of how many tokens each is, if some are of several.
  const coloured = (place, text, [lengths, losses, counts]) => {
    const isOfText = (node) => !node.parentElement.closest(".why");
    const walker = document.createTreeWalker(place, NodeFilter.SHOW_TEXT, {
      acceptNode: (node) => (isOfText(node) ? NodeFilter.FILTER_ACCEPT : NodeFilter.FILTER_REJECT),
    });
    const nodes = [];
    while (walker.nextNode()) nodes.push(walker.currentNode);
    let end = 0;
    const ends = lengths.map((length) => (end += length));
    let at = 0; // the stretch
    let here = 0; // characters before
    for (const node of nodes) {
      const stretches = [];
      for (let from = 0; from < node.data.length; ) {
        while (ends[at] <= here) at++;
        const size = Math.min(node.data.length - from, ends[at] - here);
        const span = make("span", { "data-at": at, tabindex: here ? -1 : 0 }, node.data.slice(from, from + size));
        span.style.background = ground(losses[at] / 100 / full, "s1");
        stretches.push(span);
        from += size;
        here += size;
      }
      node.replaceWith(...stretches);
    }
    const whole = plain(text);
    pointing(place, byId("told"), (i) => {
      const named = JSON.stringify(whole.slice(ends[i] - lengths[i], ends[i]));
      const what = counts && counts[i] > 1 ? `${counts[i]} tokens` : "token";
      return `${what} ${named} · loss ${figure(losses[i] / 100)} nats`;
    });
  };
  if (full) {
    const box = make("i", {});
    box.style.background = ground(1, "s1");
    const how = "point at one, or go to it by Tab and the arrow keys, for the number";
    const said = `ground of a token that a student wrote: its loss under that student, ${figure(full)} nats or more; ${how}`;
    byId("losses").append(make("span", {}, box, said));
  }

  const sides = (row, sought) => {
    const side = (title, text, ...more) =>
      make("div", {}, make("h3", {}, title), make("pre", {}, ...shown(text, sought)), make("p", {}, ...more));
    const found = [make("p", { class: "whole" }, ...shown(row.texts.question, sought))];
    for (const one of row.texts.teachers)
      found.push(side(`teacher: ${one.who}`, one.text, `answer ${one.answer || "none"} · gold ${row.gold}`));
    if (row.texts.more) found.push(make("p", {}, `${row.texts.more} more traces of teachers are not shown.`));
    row.answers.forEach((one, at) => {
      if (!one) return;
      const { text, note, loss } = row.texts.answers[at];
      const told = [` · answer ${one.answer === null ? "none" : one.answer}`, `gold ${row.gold}`];
      told.push(`${count(one.tokens)} tokens`, ...one.faults.filter((fault) => fault !== "wrong answer"), note);
      const node = side(students[at], text, verdict(one), told.filter(Boolean).join(" · "));
      found.push(node);
      if (!loss) return;
      const place = node.querySelector("pre");
      place.setAttribute("role", "group");
      place.setAttribute("aria-label", `tokens that ${students[at]} wrote`);
      whenSeen(place, () => coloured(place, text, loss));
    });
    return found;
  };

  const answers = rows.flatMap((row) => row.answers).filter(Boolean);
  const known = SAYS.filter((what) => answers.some((one) => one.says === what));
  options(byId("arm"), [["", "any"], ...students.map((name, at) => [String(at), name])]);
  options(byId("says"), [["", "any"], ...known.map((what) => [what, what]), ["differ", "students differ"]]);
  options(byId("fault"), counted(answers.flatMap((one) => one.faults), "anything, or nothing"));
  const fields = ["arm", "says", "fault"];
  return tableOf({ prefix: "", noun: "question", rows, fields, passing, columns, hay, sides });
};
