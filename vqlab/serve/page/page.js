// The inspection page: what is loaded, and who shows it.

import { form, json, predict } from "./api.js";
import { Detail } from "./detail.js";
import { OperatingPanel } from "./distribution.js";
import { announce, byId, element, once, showProblem } from "./dom.js";
import { showDrift } from "./drift.js";
import { listen } from "./files.js";
import { HistoryView } from "./history.js";
import { judge } from "./operating.js";
import { thumbnail } from "./picture.js";
import { Sheet } from "./sheet.js";

const BATCH = 4;
const BATCH_BYTES = 16e6;
const CONCURRENT = 2;
const LOADED_DETAILS = 12;
const PERSON_KEYS = { g: "good", d: "defect", u: "unsure" };

let categories = [];
let category = null;
let versions = []; // shown: one, or two side by side
let panels = new Map(); // version → OperatingPanel
let items = [];
let nextId = 1;
let session = 0; // changes when images or category are dropped
let running = 0;
let full = new Map(); // `item version` → answer with map

const sheet = new Sheet((item) => select(item), verdictsOf);
const detail = new Detail({ full: loadFull, judge: storeVerdict, step: (by) => sheet.step(by), verdict: verdictOf });
const historyView = new HistoryView(() => categories);
const redraw = once(showResults);

start();

async function start() {
  listen(addFiles);
  document.addEventListener("keydown", personKey);
  byId("clear").addEventListener("click", clear);
  byId("category").addEventListener("change", () => chooseCategory(byId("category").value));
  byId("version").addEventListener("change", chooseVersions);
  byId("other").addEventListener("change", chooseVersions);
  tabs();
  try {
    categories = await json("/v1/categories");
    byId("category").replaceChildren(...categories.map((each) => element("option", { value: each.category }, each.category)));
    if (!categories.length) throw new Error("no category has a champion; promote one first.");
    const asked = new URLSearchParams(location.hash.slice(1)).get("category");
    const first = categories.find((each) => each.category === asked) ?? categories[0];
    byId("category").value = first.category;
    await chooseCategory(first.category);
  } catch (error) {
    showProblem(error.message);
  }
}

// categories and versions

async function chooseCategory(name) {
  category = categories.find((each) => each.category === name);
  showDrift(name);
  const files = items.map(({ file, name: title }) => ({ file, name: title }));
  clear();
  try {
    const list = await json(`/v1/categories/${encodeURIComponent(name)}/versions`);
    const options = () => list.map(({ version, champion }) => element("option", { value: version }, `${version}${champion ? " (champion)" : ""}`));
    byId("version").replaceChildren(...options());
    byId("version").value = category.version;
    byId("other").replaceChildren(element("option", { value: "" }, "none"), ...options());
    byId("other").value = "";
    await chooseVersions();
  } catch (error) {
    showProblem(error.message);
  }
  if (files.length) addFiles(files, 0);
}

async function chooseVersions() {
  const chosen = [Number(byId("version").value)];
  for (const option of byId("other").options) option.disabled = Number(option.value) === chosen[0];
  if (byId("other").value === byId("version").value) byId("other").value = "";
  const other = Number(byId("other").value);
  if (other) chosen.push(other);
  showProblem("");
  try {
    const loaded = new Map();
    for (const version of chosen) {
      const path = `/v1/categories/${encodeURIComponent(category.category)}/operating-points?version=${version}`;
      loaded.set(version, panels.get(version) ?? new OperatingPanel(await json(path), () => redraw()));
    }
    [panels, versions] = [loaded, chosen];
  } catch (error) {
    showProblem(error.message);
    return;
  }
  byId("operating").replaceChildren(...versions.map((version) => panels.get(version).node));
  document.body.classList.toggle("comparing", versions.length > 1);
  for (const item of items) item.score = item.answers.get(versions[0])?.score ?? null;
  redraw();
  work();
  if (sheet.selected) select(sheet.selected);
}

// images

function addFiles(files, skipped) {
  showProblem(skipped ? `${skipped} ${skipped === 1 ? "file was" : "files were"} skipped: no image file extension.` : "");
  for (const { file, name } of files) {
    items.push({ id: nextId++, file, name, answers: new Map(), asked: new Set(), score: null, error: null, thumb: null, person: null });
  }
  showTab("inspect");
  redraw();
  work();
}

function clear() {
  session += 1;
  for (const { thumb } of items) if (thumb) URL.revokeObjectURL(thumb);
  [items, full] = [[], new Map()];
  sheet.selected = null;
  detail.hide();
  redraw();
}

/** Keep up to CONCURRENT requests running until every image is judged by every version shown. */
function work() {
  while (running < CONCURRENT) {
    const batch = nextBatch();
    if (!batch) return;
    running += 1;
    judgeBatch(batch).finally(() => { running -= 1; work(); });
  }
}

function nextBatch() {
  for (const version of versions) {
    const waiting = items.filter((item) => !item.error && !item.asked.has(version));
    let bytes = 0;
    const part = waiting.slice(0, BATCH).filter((item, index) => (bytes += item.file.size) <= BATCH_BYTES || index === 0);
    if (part.length) {
      part.forEach((item) => item.asked.add(version));
      return { version, part, session };
    }
  }
  return null;
}

async function judgeBatch({ version, part, session: mine }) {
  await Promise.all(part.map(async (item) => {
    if (item.thumb === null) item.thumb = await thumbnail(item.file);
    if (mine === session) redraw();
  }));
  try {
    const answer = await predict(category.category, version, part, { record: version === versions[0] });
    if (mine !== session) return;
    answer.images.forEach((image, index) => accept(part[index], version, image));
  } catch (error) {
    if (mine !== session) return;
    if (part.length > 1) { // find the image that the server refuses
      for (const item of part) await judgeBatch({ version, part: [item], session: mine });
      return;
    }
    if (error.status === 0 || error.status === 429 || error.status >= 500) showProblem(error.message);
    part[0].error = error.message;
  }
  redraw();
}

function accept(item, version, image) {
  if (image.error) {
    item.error = image.error;
    return;
  }
  item.answers.set(version, image);
  if (version === versions[0]) item.score = image.score;
}

/** Return an answer with the map (and overlay), from the last few or from the server. */
async function loadFull(item, version, overlay) {
  const key = `${item.id} ${version}`;
  if (!full.has(key)) {
    const answer = await predict(category.category, version, [item], { map: true, overlay });
    const [image] = answer.images;
    if (image.error) throw new Error(image.error);
    full.set(key, { ...answer, image });
    while (full.size > LOADED_DETAILS) full.delete(full.keys().next().value);
  }
  return full.get(key);
}

function verdictOf(answer, version) {
  const thresholds = panels.get(version)?.thresholds;
  return thresholds ? judge(answer.score, thresholds) : answer.verdict;
}

function verdictsOf(item) {
  if (item.error) return ["unreadable"];
  return versions.map((version) => {
    const answer = item.answers.get(version);
    return answer ? verdictOf(answer, version) : "waiting";
  });
}

function select(item) {
  detail.show(item, versions).then(() => detail.rejudge());
  if (window.matchMedia("(max-width: 899px)").matches) byId("detail").scrollIntoView({ behavior: "smooth", block: "start" });
  redraw();
}

// the person's verdict

function personKey(event) {
  const verdict = PERSON_KEYS[event.key.toLowerCase()];
  const typing = event.target.closest("input:not([type=range], [type=checkbox]), select, textarea, dialog");
  if (!verdict || typing || event.ctrlKey || event.altKey || event.metaKey || byId("inspect").hidden) return;
  if (sheet.selected && !sheet.selected.error) storeVerdict(sheet.selected, verdict);
}

async function storeVerdict(item, verdict) {
  if (item.saving) return;
  item.saving = true;
  detail.showPerson();
  try {
    const query = new URLSearchParams({ category: category.category, verdict });
    const answer = await json(`/v1/feedback?${query}`, { method: "POST", body: form([item]) });
    item.person = answer.verdict;
    item.became = answer.text;
    announce(`${verdict}. ${answer.text}`);
  } catch (error) {
    item.became = error.message;
  }
  item.saving = false;
  if (sheet.selected === item) detail.showPerson();
  sheet.draw();
}

// drawing

function showResults() {
  byId("results").hidden = !items.length;
  document.body.classList.toggle("loaded", items.length > 0);
  sheet.items = items;
  sheet.draw();
  detail.rejudge();
  for (const version of versions) {
    const answers = items.map((item) => item.answers.get(version)).filter(Boolean);
    const chosen = sheet.selected?.answers.get(version);
    panels.get(version).show(answers.map((a) => ({ score: a.score, verdict: verdictOf(a, version) })), chosen?.score ?? null);
  }
  const total = items.length * versions.length;
  const done = items.reduce((sum, item) => sum + (item.error ? versions.length : versions.filter((v) => item.answers.has(v)).length), 0);
  const progress = byId("progress");
  progress.hidden = done >= total;
  progress.max = Math.max(total, 1);
  progress.value = done;
  showAgreement();
}

function showAgreement() {
  const place = byId("agreement");
  const pairs = items.map(verdictsOf).filter((verdicts) => verdicts.length > 1 && !verdicts.includes("waiting"));
  place.hidden = !pairs.length;
  const equal = pairs.filter(([a, b]) => a === b).length;
  place.textContent = pairs.length ? `Versions ${versions.join(" and ")} agree on ${equal} of ${pairs.length} images.` : "";
}

// tabs

function tabs() {
  const names = ["inspect", "history"];
  for (const name of names) {
    byId(`tab-${name}`).addEventListener("click", () => showTab(name));
    byId(`tab-${name}`).addEventListener("keydown", (event) => {
      if (!["ArrowLeft", "ArrowRight"].includes(event.key)) return;
      const next = names[(names.indexOf(name) + 1) % names.length];
      showTab(next);
      byId(`tab-${next}`).focus();
    });
  }
}

function showTab(name) {
  for (const each of ["inspect", "history"]) {
    byId(each).hidden = each !== name;
    byId(`tab-${each}`).setAttribute("aria-selected", String(each === name));
    byId(`tab-${each}`).tabIndex = each === name ? 0 : -1;
  }
  if (name === "history") historyView.show(category?.category ?? "");
}
