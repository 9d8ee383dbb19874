// Data are unpacked, and shown.
const wait = byId("wait");
wait.textContent = "unpacking …";
try {
  const data = await unpacked();
  const linked = readAddress();
  const stores = data.stores.filter((store) => store.documents.length);
  const fills = [];
  if (byId("table")) fills.push(tableOf(data.answers));
  if (byId("tokens")) fills.push(tokensOf(stores));
  for (const form of app.querySelectorAll("form")) form.addEventListener("submit", (event) => event.preventDefault());
  for (const fill of fills) fill();
  addEventListener("hashchange", () => readAddress() && fills.forEach((fill) => fill()));
  wait.hidden = true;
  app.hidden = false;
  const [visit] = performance.getEntriesByType("navigation");
  if (linked && !(visit && visit.type === "reload")) app.parentElement.scrollIntoView();
} catch (error) {
  console.error(error);
  const why = "the browser is too old to unpack its data, or the file is damaged";
  wait.textContent = `This part cannot be shown: ${why} (${error}).`;
}
