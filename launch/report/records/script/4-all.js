// Data are unpacked, and shown: the lines of the table first, then documents, then all texts, part by part.
const wait = byId("wait");
wait.textContent = "unpacking …";
const section = app.parentElement;
const held = (name) => document.querySelectorAll(".records-" + name);
const shownOnce = () => {
  wait.hidden = true;
  app.hidden = false;
  const [visit] = performance.getEntriesByType("navigation");
  if (linked && !(visit && visit.type === "reload")) section.scrollIntoView();
};
const linked = readAddress();
try {
  const fills = [];
  for (const form of app.querySelectorAll("form")) form.addEventListener("submit", (event) => event.preventDefault());
  addEventListener("hashchange", () => readAddress() && fills.forEach((fill) => fill()));
  const table = byId("table") && tableOf(await unpacked(held("lines")[0]));
  if (table) {
    fills.push(table.fill);
    table.fill();
    shownOnce();
    await pause();
  }
  if (byId("tokens")) {
    fills.push(tokensOf((await unpacked(held("documents")[0])).filter((store) => store.documents.length)));
    fills.at(-1)();
  }
  if (!table) shownOnce();
  if (document.readyState === "loading") await new Promise((done) => addEventListener("DOMContentLoaded", done));
  for (const node of held("texts")) {
    await pause();
    table.take(await unpacked(node));
  }
  section.dataset.texts = "unpacked";
} catch (error) {
  console.error(error);
  const why = "the browser is too old to unpack its data, or the file is damaged";
  wait.textContent = `${app.hidden ? "This part" : "Some of this part"} cannot be shown: ${why} (${error}).`;
  wait.hidden = false;
}
