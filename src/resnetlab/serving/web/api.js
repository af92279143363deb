// Asking the server: POST /v1/predict, one picture a request, a few at a time, and no more often than it likes.

const AT_ONCE = 4;
const PATIENCE_MS = 120_000; // a server that stays full for so long is told of

let model = null; // what GET /v1/model says
let resumeAt = 0; // no request before, by the server's wish
const waiting = []; // tasks that have not begun
let underway = 0;

class Refusal extends Error { // in words for a person; `again` where another try may help
  constructor(words, again) { super(words); this.again = again; }
}

const pause = (ms) => new Promise((done) => setTimeout(done, ms));

async function send(file, query) {
  try {
    return await fetch(`/v1/predict?${new URLSearchParams(query)}`, { method: "POST", body: file });
  } catch {
    throw new Refusal("The server does not answer. Is it still running?", true);
  }
}

async function told(response) {
  try {
    const problem = await response.json();
    return problem.detail || problem.title;
  } catch {
    return `The server answered with status ${response.status}.`;
  }
}

// Ask until there is an answer. A full server (429) and one that restarts (503) say when to come back; all heed it.
async function ask(file, query) {
  await check(file);
  const until = Date.now() + PATIENCE_MS;
  for (;;) {
    while (Date.now() < resumeAt) await pause(resumeAt - Date.now());
    const response = await send(file, query);
    if (response.ok) return response.json();
    const wait = Number(response.headers.get("Retry-After")) * 1000;
    const busy = response.status === 429 || response.status === 503;
    const again = busy || response.status === 408;
    if (!busy || !wait || Date.now() + wait > until) throw new Refusal(await told(response), again);
    resumeAt = Math.max(resumeAt, Date.now() + wait);
  }
}

async function check(file) {
  const cap = model?.max_bytes ?? Infinity;
  const words = `${size(file.size)} are too much; this server takes up to ${size(cap)}.`;
  if (file.size > cap) throw new Refusal(words, false);
  try {
    await file.slice(0, 1).arrayBuffer();
  } catch {
    throw new Refusal("cannot be read here; is it a folder, or was it moved?", false);
  }
}

const size = (bytes) => `${(bytes / 2 ** 20).toFixed(1)} MiB`;

function enqueue(task) {
  waiting.push(task);
  next();
}

async function next() {
  if (underway >= AT_ONCE || !waiting.length) return;
  underway += 1;
  await waiting.shift()();
  underway -= 1;
  next();
}
