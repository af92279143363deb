// The web page: select images, show predictions and heat maps. It is one module with api.js, which precedes it.

const TOP = 5;
const byId = (id) => document.getElementById(id);

let round = []; // cards started since the queue was last empty: the status line summarises them
const urls = []; // object URLs of the images, to revoke
let removal = new AbortController(); // of all cards on the page: ends their requests

// ---- cards: one image and its prediction

function newCard(file) {
  const article = byId("card").content.firstElementChild.cloneNode(true);
  const url = URL.createObjectURL(file);
  urls.push(url);
  const find = (selector) => article.querySelector(selector);
  const card = {
    file, article, url, prediction: null, overlay: null, done: false, failure: null, removed: removal.signal,
    image: find("img"), title: find("h2"), name: find("h2 bdi"), message: find(".message"), bars: find(".bars"),
    explain: find(".explain"), retry: find(".retry"), time: find(".time"),
  };
  card.image.onerror = () => { card.image.hidden = true; find(".no-preview").hidden = false; };
  card.image.onload = () => { card.image.hidden = false; find(".no-preview").hidden = true; };
  card.explain.onclick = () => toggleHeatMap(card);
  card.retry.onclick = () => start(card);
  setHeatMap(card, false);
  return card;
}

function start(card) {
  card.done = false;
  card.failure = null;
  if (document.activeElement === card.retry) card.title.focus();
  card.retry.hidden = true;
  setTitle(card, card.file.name, true);
  setMessage(card, "queued …");
  if (!round.includes(card)) round.push(card); // a second attempt may belong to the same round
  enqueue(() => classify(card));
  updateStatus();
}

async function classify(card) {
  setMessage(card, "classifying …");
  try {
    const startMs = performance.now();
    card.prediction = await predict(card.file, { top: TOP }, card.removed);
    showPrediction(card, performance.now() - startMs);
  } catch (error) {
    if (card.removed.aborted) return;
    showError(card, error);
  }
  card.done = true;
  updateStatus();
}

function showPrediction(card, totalMs) {
  const { top, times_ms: times } = card.prediction;
  const best = top[0].class;
  setTitle(card, answer(card.prediction), false);
  showPredictionMessage(card);
  card.bars.replaceChildren(...top.map(newBar));
  card.explain.hidden = false;
  card.explain.setAttribute("aria-label", `Heat map: ${best} in ${card.file.name}`);
  card.time.textContent = `network ${formatDuration(times.inference)} · total ${formatDuration(totalMs)}`;
}

function showPredictionMessage(card) {
  const { file: { name }, prediction: { unknown } } = card;
  setMessage(card, unknown ? `${name}: no class is probable enough; the candidates are` : name);
}

// The class, or the labels where an image may have several.
const answer = ({ label, labels }) => (labels ? labels.join(", ") || "no label" : label);

function newBar({ class: name, probability }) {
  const [item, bar, label, value] = ["li", "span", "bdi", "b"].map((tag) => document.createElement(tag));
  bar.className = "bar";
  bar.style.width = `${100 * probability}%`;
  label.textContent = name;
  value.textContent = formatPercent(probability);
  item.append(bar, label, " ", value);
  return item;
}

function showError(card, error) {
  const expected = error instanceof ApiError;
  setTitle(card, card.file.name, true);
  card.failure = expected ? error.message : `The page failed: ${error.message}`;
  setMessage(card, card.failure, true);
  card.retry.hidden = expected && !error.retryable;
  card.retry.setAttribute("aria-label", `Try again: ${card.file.name}`);
}

function setTitle(card, text, isFile) {
  card.name.textContent = text;
  card.title.classList.toggle("file", isFile);
}

function setMessage(card, text, isError = false) {
  card.message.textContent = text;
  card.message.classList.toggle("error", isError);
}

function formatPercent(probability) {
  if (probability < 0.0005) return "<\u00a00.1\u00a0%";
  return probability > 0.9995 && probability < 1 ? ">\u00a099.9\u00a0%" : `${(100 * probability).toFixed(1)}\u00a0%`;
}

function formatDuration(ms) {
  if (ms < 10) return `${ms.toFixed(1)} ms`;
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;
}

// ---- heat map: requested at the first click, cached for the next ones

async function toggleHeatMap(card) {
  if (card.explain.getAttribute("aria-pressed") === "true") return setHeatMap(card, false);
  if (!card.overlay) {
    if (card.explain.getAttribute("aria-busy") === "true") return;
    card.explain.setAttribute("aria-busy", "true");
    card.explain.textContent = "Computing …";
    try {
      card.overlay = (await predict(card.file, { top: 1, explain: 1 }, card.removed)).overlay;
      showPredictionMessage(card);
    } catch (error) {
      if (card.removed.aborted) return;
      setMessage(card, error.message, true);
      byId("status").textContent = `${card.file.name}: ${error.message}`;
      return;
    } finally {
      card.explain.removeAttribute("aria-busy");
      card.explain.textContent = "Heat map";
    }
  }
  setHeatMap(card, true);
}

function setHeatMap(card, visible) {
  const label = card.prediction?.top[0].class;
  const description = `Heat map for ${label} over ${card.file.name}; brighter regions support the class more`;
  card.image.src = visible ? card.overlay : card.url;
  card.image.alt = visible ? description : card.file.name;
  card.image.classList.toggle("heat-map", visible);
  card.explain.setAttribute("aria-pressed", String(visible));
}

// ---- status line, which screen readers announce

function updateStatus() {
  const remaining = round.filter((card) => !card.done).length;
  byId("status").setAttribute("aria-busy", String(remaining > 0)); // announce only the final text
  byId("status").textContent = remaining ? `Classifying ${countImages(remaining)} …` : summary();
  if (!remaining) round = [];
}

const countImages = (number) => `${number} ${number === 1 ? "image" : "images"}`;

function summary() {
  if (!round.length) return "";
  const failed = round.filter((card) => card.failure !== null);
  if (round.length === 1) {
    const [{ file, prediction, failure }] = round;
    if (failed.length) return `${file.name}: ${failure}`;
    const { label, labels, probability, unknown } = prediction;
    return `${file.name}: ${unknown || labels ? answer(prediction) : `${label}, ${formatPercent(probability)}`}`;
  }
  const classified = `${countImages(round.length - failed.length)} classified`;
  return failed.length ? `${classified}, ${failed.length} failed: the reason is next to each image` : classified;
}

// ---- input: file selection, camera, drag and drop, paste

function addFiles(files) {
  const cards = [...files].map(newCard);
  byId("gallery").prepend(...cards.map((card) => card.article));
  byId("gallery").hidden = byId("end").hidden = false;
  cards.forEach(start);
  const smooth = matchMedia("(prefers-reduced-motion: no-preference)").matches;
  const block = innerHeight < 900 ? "start" : "nearest";
  byId("status").scrollIntoView({ block, behavior: smooth ? "smooth" : "auto" });
}

function addTransfer(transfer, emptyMessage) {
  if (transfer.files.length) addFiles(transfer.files);
  else byId("status").textContent = emptyMessage;
}

for (const id of ["files", "camera"]) {
  byId(id).onchange = ({ target }) => { addFiles(target.files); target.value = ""; };
}
document.addEventListener("paste", ({ clipboardData }) => {
  addTransfer(clipboardData, "There is no image in the clipboard.");
});
const setDragging = (dragging) => document.body.classList.toggle("dragging", dragging);
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  setDragging(true);
});
document.addEventListener("dragleave", ({ relatedTarget }) => setDragging(relatedTarget !== null));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  setDragging(false);
  addTransfer(event.dataTransfer, "That was not a file. Save the image first, then drop the file.");
});

byId("clear").onclick = () => {
  removal.abort();
  removal = new AbortController();
  queue.length = round.length = 0;
  urls.splice(0).forEach(URL.revokeObjectURL);
  byId("gallery").replaceChildren();
  byId("gallery").hidden = byId("end").hidden = true;
  byId("files").focus();
  updateStatus();
};

// ---- model

async function loadModelInfo() {
  for (let attempt = 0; attempt < 120; attempt += 1) {
    const response = await fetch("v1/model").catch(() => null);
    if (response?.ok) return showModelInfo(await response.json());
    await sleep(1000); // the model is loading
  }
}

function showModelInfo(info) {
  model = info;
  const number = model.classes.length;
  const classes = `${number.toLocaleString("en")} ${number === 1 ? "class" : "classes"}`;
  byId("lead").textContent = `Add images to classify them into ${classes}.`;
  byId("model").textContent = `${model.name}, ${classes}, ${model.runtime}.`;
}

loadModelInfo();
