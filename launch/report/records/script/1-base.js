// What all parts below need: nodes, numbers, texts, what is chosen, and the address that keeps it. Texts of models are
// put in as text alone. The files in this folder are one script, in the order of their names.
const byId = (name) => document.getElementById("records-" + name);
const app = byId("app");

const make = (tag, attributes, ...children) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children.filter((child) => child !== null && child !== ""));
  return node;
};
const options = (select, pairs) =>
  select.replaceChildren(...pairs.map(([value, text]) => make("option", { value }, text)));

const count = (number) => number.toLocaleString("en-US");
const figure = (value) => String(Number(value.toPrecision(4)));
const SHORT = 110; // characters of a text in a cell
const short = (text) => (text.length > SHORT ? text.slice(0, SHORT) + " …" : text);

// Texts come in pieces, see shown.py

const plain = (pieces) => {
  if (typeof pieces === "string") return pieces;
  return pieces.map((piece) => (typeof piece === "string" ? piece : piece.false || "")).join("");
};
const withHits = (text, sought) => {
  const wanted = sought.toLowerCase();
  const low = text.toLowerCase();
  if (!wanted || low.length !== text.length) return [text];
  const parts = [];
  let at = 0;
  for (let hit; (hit = low.indexOf(wanted, at)) >= 0; at = hit + wanted.length)
    parts.push(text.slice(at, hit), make("span", { class: "hit" }, text.slice(hit, hit + wanted.length)));
  return [...parts, text.slice(at)];
};
const shown = (pieces, sought) =>
  (typeof pieces === "string" ? [pieces] : pieces).flatMap((piece) => {
    if (typeof piece === "string") return withHits(piece, sought);
    if (piece.cut) return [make("span", { class: "cut" }, ` … ${count(piece.cut)} characters are left out … `)];
    const why = piece.why && piece.why !== piece.false ? `false: ${piece.why}` : "false";
    const mark = make("mark", { title: why }, ...withHits(piece.false, sought));
    return [mark, make("span", { class: "why" }, ` (${why})`)];
  });

// Grounds of tokens: `share` of the full colour, below 0 in that of what is bad.
const FULL = 42; // percent of a colour behind the text: what can still be read
const ground = (share, colour) => {
  const percent = Math.round(Math.min(1, Math.abs(share)) * FULL);
  return percent ? `color-mix(in srgb, var(--${share < 0 ? "bad" : colour}) ${percent}%, transparent)` : "";
};
// Tokens in `place`, each with its number in data-at: `said` tells about the one that is pointed at, or that Tab and
// the arrow keys have come to.
const pointing = (place, said, about) => {
  const show = (event) => {
    const at = event.target.dataset.at;
    if (at !== undefined) said.textContent = about(Number(at));
  };
  place.addEventListener("mouseover", show);
  place.addEventListener("focusin", (event) => {
    for (const other of place.querySelectorAll('[data-at][tabindex="0"]')) other.tabIndex = -1;
    event.target.tabIndex = 0;
    show(event);
  });
  place.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity }[event.key];
    if (step === undefined || event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
    const spans = [...place.querySelectorAll("[data-at]")];
    const { at } = event.target.dataset;
    if (at === undefined) return;
    const isOther = (span) => span.dataset.at !== at; // a hit parts a token
    const from = spans.indexOf(event.target);
    const next = { 1: spans.slice(from).find(isOther), "-1": spans.slice(0, from).findLast(isOther) };
    const to = Number.isFinite(step) ? next[step] : spans.at(step > 0 ? -1 : 0);
    if (to) to.focus();
    event.preventDefault();
  });
};

// What is drawn once it comes into view, or is printed: of hundreds of texts that are open few are seen.
const drawings = new WeakMap();
const drawNow = (place) => {
  watcher.unobserve(place);
  place.removeAttribute("data-later");
  drawings.get(place)();
};
const watcher = new IntersectionObserver(
  (entries) => entries.filter((one) => one.isIntersecting).forEach((one) => drawNow(one.target)),
  { rootMargin: "300px" },
);
const whenSeen = (place, draw) => {
  drawings.set(place, draw);
  place.setAttribute("data-later", "");
  watcher.observe(place);
};
addEventListener("beforeprint", () => document.querySelectorAll("[data-later]").forEach(drawNow));

const bytesOf = (text) => {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const letters = atob(text);
  const bytes = new Uint8Array(letters.length);
  for (let at = 0; at < letters.length; at++) bytes[at] = letters.charCodeAt(at);
  return bytes;
};
const unpacked = async (node) => {
  const packed = new Blob([bytesOf(JSON.parse(node.textContent).gzip)]);
  return new Response(packed.stream().pipeThrough(new DecompressionStream("gzip"))).json();
};
const pause = () => new Promise((done) => setTimeout(done)); // the page answers, and paints

const OF_ANY_TABLE = { q: "", min: "", max: "", sort: "n", down: "", page: "1", open: "" };
const OF_TABLE = { ...OF_ANY_TABLE, arm: "", says: "", fault: "" };
const TRAINING = "t-"; // before the names of what belongs to the table of training records
const OF_TRAINING = { ...OF_ANY_TABLE, of: "", teacher: "", style: "", state: "", says: "", coloured: "" };
const ofTraining = Object.entries(OF_TRAINING).map(([name, value]) => [TRAINING + name, value]);
const OF_TOKENS = { store: "0", of: "0", doc: "0", by: "kind" };
const PLAIN = { ...OF_TABLE, ...Object.fromEntries(ofTraining), ...OF_TOKENS };
const state = { ...PLAIN };
const MARK = "#traces?";

const readAddress = () => {
  if (!location.hash.startsWith(MARK)) return false;
  Object.assign(state, PLAIN);
  for (const [name, value] of new URLSearchParams(location.hash.slice(MARK.length)))
    if (name in PLAIN) state[name] = value;
  return true;
};

let later = 0;
const writeAddress = () => {
  clearTimeout(later); // browsers refuse to be told at every key
  later = setTimeout(() => {
    const changed = Object.entries(state).filter(([name, value]) => value !== PLAIN[name]);
    const is = changed.length ? MARK + new URLSearchParams(changed) : "#traces";
    if (changed.length || location.hash.startsWith(MARK)) history.replaceState(null, "", is);
  }, 200);
};
