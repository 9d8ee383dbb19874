// Data are unpacked, and shown: the lines of the tables first, then documents, then all texts, part by part.
const wait = byId("wait");
wait.textContent = "unpacking …";
const section = app.parentElement;
const held = (name) => document.querySelectorAll(".records-" + name);
const linked = readAddress();
const showApp = () => {
  wait.hidden = true;
  app.hidden = false;
  const [visit] = performance.getEntriesByType("navigation");
  if (linked && !(visit && visit.type === "reload")) section.scrollIntoView();
};
try {
  const fills = [];
  for (const form of app.querySelectorAll("form")) form.addEventListener("submit", (event) => event.preventDefault());
  addEventListener("hashchange", () => readAddress() && fills.forEach((fill) => fill()));
  const lines = await unpacked(held("lines")[0]);
  const tables = {};
  if (byId("table")) {
    tables.texts = questionsOf(lines.answers);
    fills.push(tables.texts.fill);
    tables.texts.fill();
    showApp();
    await pause();
  }
  const stores = (await unpacked(held("documents")[0])).filter((store) => store.documents.length);
  if (byId(TRAINING + "table")) {
    tables.training = trainingOf(lines.training, stores);
    fills.push(tables.training.fill);
    tables.training.fill();
  }
  if (byId("tokens")) {
    fills.push(tokensOf(stores));
    fills.at(-1)();
  }
  if (app.hidden) showApp();
  if (document.readyState === "loading") await new Promise((done) => addEventListener("DOMContentLoaded", done));
  for (const [name, table] of Object.entries(tables))
    for (const node of held(name)) {
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
