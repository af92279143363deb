// The page: pictures in, named classes out. It is one module with page.asking.js, which stands before it.

const TOP = 5;
const find = (id) => document.getElementById(id);

let round = []; // cards since nothing was under way: what the status line speaks of
const urls = []; // of the pictures shown, to let go of

// ---- a card: one picture and what was said of it

function newCard(file) {
  const article = find("card").content.firstElementChild.cloneNode(true);
  const url = URL.createObjectURL(file);
  urls.push(url);
  const part = (selector) => article.querySelector(selector);
  const card = {
    file, article, url, answer: null, overlay: null, done: false,
    picture: part("img"), title: part("h2"), name: part("h2 bdi"), state: part(".state"), bars: part(".bars"),
    where: part(".where"), again: part(".again"), time: part(".time"),
  };
  card.picture.onerror = () => { card.picture.hidden = true; part(".none").hidden = false; };
  card.picture.onload = () => { card.picture.hidden = false; part(".none").hidden = true; };
  card.where.onclick = () => toggle(card);
  card.again.onclick = () => start(card);
  show(card, false);
  return card;
}

function start(card) {
  card.done = false;
  if (document.activeElement === card.again) card.title.focus();
  card.again.hidden = true;
  head(card, card.file.name, true);
  say(card, "waiting …");
  round.push(card);
  enqueue(() => look(card));
  report();
}

async function look(card) {
  say(card, "looking …");
  try {
    const begun = performance.now();
    card.answer = await ask(card.file, { top: TOP });
    present(card, performance.now() - begun);
  } catch (error) {
    refuse(card, error);
  }
  card.done = true;
  report();
}

function present(card, ms) {
  const { label, top, times_ms: times } = card.answer;
  head(card, label, false);
  say(card, card.file.name);
  card.bars.replaceChildren(...top.map(row));
  card.where.hidden = false;
  card.where.setAttribute("aria-label", `Where it looked: ${label} in ${card.file.name}`);
  card.time.textContent = `network ${duration(times.inference)} · in all ${duration(ms)}`;
}

function row({ class: name, probability }) {
  const [item, bar, words, number] = ["li", "span", "bdi", "b"].map((tag) => document.createElement(tag));
  bar.className = "bar";
  bar.style.width = `${100 * probability}%`;
  words.textContent = name;
  number.textContent = percent(probability);
  item.append(bar, words, " ", number);
  return item;
}

function refuse(card, error) {
  const known = error instanceof Refusal;
  head(card, card.file.name, true);
  say(card, known ? error.message : `The page failed: ${error.message}`, true);
  card.again.hidden = known && !error.again;
  card.again.setAttribute("aria-label", `Try again: ${card.file.name}`);
}

function head(card, words, isFile) {
  card.name.textContent = words;
  card.title.classList.toggle("file", isFile);
}

function say(card, words, wrong = false) {
  card.state.textContent = words;
  card.state.classList.toggle("wrong", wrong);
}

function percent(probability) {
  if (probability < 0.0005) return "<\u00a00.1\u00a0%";
  return probability > 0.9995 && probability < 1 ? ">\u00a099.9\u00a0%" : `${(100 * probability).toFixed(1)}\u00a0%`;
}

function duration(ms) {
  if (ms < 10) return `${ms.toFixed(1)} ms`;
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;
}

// ---- where it looked: asked for at the first click, kept for the next ones

async function toggle(card) {
  if (card.where.getAttribute("aria-pressed") === "true") return show(card, false);
  if (!card.overlay) {
    if (card.where.getAttribute("aria-busy") === "true") return;
    card.where.setAttribute("aria-busy", "true");
    try {
      card.overlay = (await ask(card.file, { top: 1, explain: 1 })).overlay;
      say(card, card.file.name);
    } catch (error) {
      say(card, error.message, true);
      find("status").textContent = `${card.file.name}: ${error.message}`;
      return;
    } finally {
      card.where.removeAttribute("aria-busy");
    }
  }
  show(card, true);
}

function show(card, heat) {
  const label = card.answer?.label;
  card.picture.src = heat ? card.overlay : card.url;
  card.picture.alt = heat ? `What speaks for ${label}, drawn over ${card.file.name}; brighter is more` : card.file.name;
  card.picture.classList.toggle("heat", heat);
  card.where.setAttribute("aria-pressed", String(heat));
}

// ---- the status line, which screen readers read out

function report() {
  const left = round.filter((card) => !card.done).length;
  find("status").setAttribute("aria-busy", String(left > 0)); // only the outcome is read out
  find("status").textContent = left ? `Looking at ${counted(left)} …` : summary();
  if (!left) round = [];
}

const counted = (number) => `${number} ${number === 1 ? "picture" : "pictures"}`;

function summary() {
  if (!round.length) return "";
  const failed = round.filter((card) => card.state.classList.contains("wrong"));
  if (round.length === 1) {
    const [{ file, answer, state }] = round;
    const said = failed.length ? state.textContent : `${answer.label}, ${percent(answer.probability)}`;
    return `${file.name}: ${said}`;
  }
  const said = `${counted(round.length - failed.length)} answered`;
  return failed.length ? `${said}, ${failed.length} not: the reason stands beside each` : said;
}

// ---- the ways in: choosing, the camera, dropping, pasting

function take(files) {
  const cards = [...files].map(newCard);
  find("gallery").prepend(...cards.map((card) => card.article));
  find("gallery").hidden = find("end").hidden = false;
  cards.forEach(start);
  const smooth = matchMedia("(prefers-reduced-motion: no-preference)").matches;
  const block = innerHeight < 900 ? "start" : "nearest";
  find("status").scrollIntoView({ block, behavior: smooth ? "smooth" : "auto" });
}

function takeFrom(transfer, words) {
  if (transfer.files.length) take(transfer.files);
  else find("status").textContent = words;
}

for (const id of ["choose", "camera"]) {
  find(id).onchange = ({ target }) => { take(target.files); target.value = ""; };
}
document.addEventListener("paste", ({ clipboardData }) => {
  takeFrom(clipboardData, "There is no picture in the clipboard.");
});
const dragging = (now) => document.body.classList.toggle("dragging", now);
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  dragging(true);
});
document.addEventListener("dragleave", ({ relatedTarget }) => dragging(relatedTarget !== null));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  dragging(false);
  takeFrom(event.dataTransfer, "That was no file. Save the picture first, then drop the file.");
});

find("clear").onclick = () => {
  waiting.length = round.length = 0;
  urls.splice(0).forEach(URL.revokeObjectURL);
  find("gallery").replaceChildren();
  find("gallery").hidden = find("end").hidden = true;
  find("choose").focus();
  report();
};

// ---- whom one is talking to

async function introduce() {
  for (let tries = 0; tries < 120; tries += 1) {
    const response = await fetch("/v1/model").catch(() => null);
    if (response?.ok) return describe(await response.json());
    await pause(1000); // it is being loaded
  }
}

function describe(served) {
  model = served;
  const classes = `${model.classes.length.toLocaleString("en")} classes`;
  find("lead").textContent = `Give it photographs, and it names what it sees. It knows ${classes}.`;
  find("model").textContent = `${model.name}, ${classes}, ${model.backend} ${model.precision}.`;
}

introduce();
