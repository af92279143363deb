// HTTP client: POST /v1/predict, one image per request, a few requests at a time, with retries as the server asks.

const MAX_CONCURRENT = 4;
const RETRY_LIMIT_MS = 120_000; // report an error if the server stays busy for this long

let model = null; // response of GET /v1/model
let resumeAt = 0; // time before which no request is sent, from Retry-After
const queue = []; // tasks that have not started
let inFlight = 0;

class ApiError extends Error { // the message is for the user; `retryable`: another attempt may succeed
  constructor(message, retryable) { super(message); this.retryable = retryable; }
}

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function post(file, query, signal) {
  try {
    return await fetch(`v1/predict?${new URLSearchParams(query)}`, { method: "POST", body: file, signal });
  } catch {
    signal.throwIfAborted();
    throw new ApiError("The server does not respond. Is it still running?", true);
  }
}

async function errorDetail(response) {
  try {
    const problem = await response.json();
    return problem.detail || problem.title;
  } catch {
    return `The server responded with status ${response.status}.`;
  }
}

// Send until there is a prediction. A full queue (429) and a restart (503) set Retry-After, which pauses all requests.
// `signal` ends it: the image was removed.
async function predict(file, query, signal) {
  await checkFile(file);
  const deadline = Date.now() + RETRY_LIMIT_MS;
  for (;;) {
    while (Date.now() < resumeAt) await sleep(resumeAt - Date.now());
    signal.throwIfAborted();
    const response = await post(file, query, signal);
    if (response.ok) return response.json();
    const wait = Number(response.headers.get("Retry-After")) * 1000;
    const busy = response.status === 429 || response.status === 503;
    const retryable = busy || response.status === 408;
    if (!busy || !wait || Date.now() + wait > deadline) throw new ApiError(await errorDetail(response), retryable);
    resumeAt = Math.max(resumeAt, Date.now() + wait);
  }
}

async function checkFile(file) {
  const limit = model?.max_bytes ?? Infinity;
  if (file.size > limit) {
    throw new ApiError(`The file has ${formatSize(file.size)}; the limit is ${formatSize(limit)}.`, false);
  }
  try {
    await file.slice(0, 1).arrayBuffer();
  } catch {
    throw new ApiError("The file cannot be read. Is it a folder, or was it moved?", false);
  }
}

const formatSize = (bytes) => `${(bytes / 2 ** 20).toFixed(1)} MiB`;

function enqueue(task) {
  queue.push(task);
  runNext();
}

async function runNext() {
  if (inFlight >= MAX_CONCURRENT || !queue.length) return;
  inFlight += 1;
  await queue.shift()();
  inFlight -= 1;
  runNext();
}
