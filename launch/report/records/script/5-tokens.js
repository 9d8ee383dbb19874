// Training documents, token by token: coloured by what is chosen, with all numbers of the token that is pointed at.
const waysOf = (store) => {
  const channels = store.channels.map(([name, what], i) => [String(i), `${what} (${name})`]);
  return [["kind", "kind"], ["weight", "weight"], ...channels];
};

// What paints a document into `place`, says of it and of its tokens in `said`, and explains its colours in `scale`.
const painterOf = (place, said, scale) => {
  let about = () => ""; // what is said of a token, by its number

  const key = (colour, text) => {
    const box = make("i", {});
    box.style.background = colour;
    return make("span", {}, box, text);
  };

  const draw = (store, own, armAt, by) => {
    const arm = store.arms[armAt];
    const weights = own.weights[store.weighs[armAt]];
    const isWeight = by === "weight";
    const channel = store.channels[Number(by)]; // none for kind and weight
    const values = isWeight ? weights : channel ? own.values[Number(by)] : null;
    const most = isWeight ? (weights || []).reduce((a, b) => Math.max(a, b), 0) || 1 : channel ? channel[3] : 1;
    const colour = channel && channel[1] === "loss" ? "s1" : "s0";
    const kindOf = (at) => store.kinds[own.kinds[at]];
    const isTrace = (at) => store.trace.includes(own.kinds[at]);
    const falseAt = (at) => (isTrace(at) ? own.false[own.steps[at]] : undefined);

    about = (at) => {
      const told = [`token ${at} ${JSON.stringify(own.tokens[at])}`, kindOf(at)[0]];
      told.push(weights ? `weight ${figure(weights[at])}` : "weight not known");
      store.channels.forEach(([name, what, unit], i) => {
        const value = own.values[i][at];
        told.push(`${what} (${name}) ${value === null ? "–" : `${figure(value)} ${unit}`}`);
      });
      if (isTrace(at)) told.push(`step ${own.steps[at]}`);
      if (falseAt(at) !== undefined) told.push(`false: ${falseAt(at)}`);
      return told.join(" · ");
    };

    const drawn = document.createDocumentFragment(); // a function takes no 100,000 arguments
    own.tokens.forEach((text, at) => {
      const classes = [kindOf(at)[1]];
      if (weights && !weights[at]) classes.push("none");
      if (falseAt(at) !== undefined) classes.push("false");
      const span = make("span", { class: classes.join(" "), tabindex: at ? -1 : 0, "data-at": at }, text || "␣");
      if (values && values[at] !== null) span.style.background = ground(values[at] / most, colour);
      drawn.append(span);
    });
    place.replaceChildren(drawn);
    const record = own.record_weight === 1 ? "" : ` Its record weighs ${figure(own.record_weight)}.`;
    const unknown = arm in store.unknown ? ` ${store.unknown[arm]}.` : "";
    said.textContent = `document ${own.number} of ${count(store.of)}, id ${own.id}.${record}${unknown}`;

    const keys = [...new Set(own.kinds)].map((kind) => key(`var(--${store.kinds[kind][1]})`, store.kinds[kind][0]));
    if (values && isWeight) keys.push(key(ground(1, colour), `weight ${figure(most)}`));
    if (values && channel) keys.push(key(ground(1, colour), `${channel[1]} of ${figure(most)} ${channel[2]} or more`));
    if (values && values.some((value) => value < 0)) keys.push(key(ground(-1), `-${figure(most)} or less`));
    scale.replaceChildren(...keys);
  };

  pointing(place, said, (at) => about(at));
  return draw;
};

const tokensOf = (stores) => {
  const paint = painterOf(byId("tokens"), byId("token"), byId("scale"));
  const fill = () => {
    const at = (list, name) => list[Number(state[name])] || list[0];
    const store = at(stores, "store");
    const listed = store.documents.map((one, i) => [
      String(i),
      `${one.number}: ${one.why}, ${one.tokens.length} tokens${one.question && ` · ${short(one.question)}`}`,
    ]);
    options(byId("store"), stores.map((one, i) => [String(i), one.arms.join(", ")]));
    options(byId("of"), store.arms.map((arm, i) => [String(i), arm]));
    options(byId("doc"), listed);
    options(byId("by"), waysOf(store));
    for (const name of Object.keys(OF_TOKENS)) {
      byId(name).value = state[name];
      if (byId(name).selectedIndex < 0) byId(name).selectedIndex = 0;
      state[name] = byId(name).value;
    }
    paint(store, store.documents[Number(state.doc)], Number(state.of), state.by);
  };
  for (const name of Object.keys(OF_TOKENS))
    byId(name).addEventListener("change", () => {
      state[name] = byId(name).value;
      fill();
      writeAddress();
    });
  return fill;
};
