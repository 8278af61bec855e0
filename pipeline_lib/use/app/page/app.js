// The page of `whyscore app`. Texts of users and of the model are only ever set as text, never as HTML.
"use strict";

const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const AT_ONCE = 3; // uploads
const EVERY_MS = 700;

let about = null;
let batch = null; // promise of the id of this page's batch on the server
let known = 0; // changes of the batch that this page has seen
let places = 0; // of the files that were given, in their order
let items = new Map(); // number -> {number, name, state, scored, file, url, card}
let sending = []; // files that wait to be sent
let underWay = 0;
let chosen = []; // numbers of the images to compare
let polling = false;

async function ask(address, options = {}) {
  let answer;
  try {
    answer = await fetch(address, { ...options, headers: { "X-WhyScore": "1" } });
  } catch {
    throw new Error("The server does not answer. Is `whyscore app` still running?");
  }
  if (answer.status === 204) return null;
  const content = await answer.json().catch(() => ({}));
  if (!answer.ok) {
    const error = new Error(content.error || `The server refused this (${answer.status}).`);
    error.status = answer.status;
    throw error;
  }
  return content;
}

function make(kind, name, text) {
  const node = document.createElement(kind);
  if (name) node.className = name;
  if (text !== undefined) node.textContent = text;
  return node;
}

function draw(kind, attributes, text) {
  const node = document.createElementNS(SVG, kind);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

const number = (value) => value.toFixed(2).replace("-", "\u2212");
const plural = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;

function notice(text, list = []) {
  const box = make("div", "notice");
  const said = make("div", "", text);
  if (list.length) {
    const names = make("ul");
    for (const line of list.slice(0, 5)) names.append(make("li", "", line));
    if (list.length > 5) names.append(make("li", "", `and ${list.length - 5} more`));
    said.append(names);
  }
  const close = make("button", "plain", "Dismiss");
  close.type = "button";
  close.addEventListener("click", () => box.remove());
  box.append(said, close);
  $("notices").append(box);
}

// ---- giving images ----

function give(files) {
  if (!about || !files.length) return;
  const limits = about.limits;
  const large = files.filter((file) => file.size > limits.megabytes * 1e6);
  let fitting = files.filter((file) => file.size <= limits.megabytes * 1e6);
  if (large.length) {
    notice(
      `${plural(large.length, "file")} not taken: larger than ${limits.megabytes} MB.`,
      large.map((file) => `${file.name}, ${(file.size / 1e6).toFixed(1)} MB`),
    );
  }
  const room = limits.images - items.size - sending.length - underWay;
  if (fitting.length > room) {
    notice(
      `${plural(fitting.length - room, "image")} of ${fitting.length.toLocaleString("en")} not taken: this page holds` +
        ` ${limits.images} at a time. Clear it for the others, or use whyscore predict for large folders.`,
    );
    fitting = fitting.slice(0, Math.max(0, room));
  }
  sending.push(...fitting.map((file) => ({ file, place: places++ })));
  for (let free = AT_ONCE - underWay; free > 0; free--) send();
  show();
}

async function send() {
  const next = sending.shift();
  if (!next) return;
  const { file, place } = next;
  underWay++;
  const mine = (batch ??= ask("api/batches", { method: "POST" }).then((answer) => answer.batch));
  try {
    const address = `api/batches/${await mine}/images?name=${encodeURIComponent(file.webkitRelativePath || file.name)}`;
    const item = await ask(address, { method: "POST", body: file });
    if (mine === batch) keep({ ...item, file, place });
  } catch (error) {
    if (mine === batch) {
      notice(`${file.name} was not taken: ${error.message}`);
      if (!error.status || error.status === 404) sending = []; // the next ones would fail in the same way
      if (!items.size) batch = null;
    }
  }
  underWay--;
  show();
  poll();
  send();
}

async function filesOf(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some((entry) => entry.isDirectory)) return [...transfer.files];
  const found = [];
  let passed = 0;
  const visit = async (entry, inner) => {
    if (entry.isFile) {
      const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
      const known = about.endings.some((ending) => file.name.toLowerCase().endsWith(ending));
      if (known || !inner) found.push(file);
      else passed++;
      return;
    }
    const reader = entry.createReader();
    for (;;) {
      const part = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
      if (!part.length) return;
      for (const next of part) await visit(next, true);
    }
  };
  for (const entry of entries) await visit(entry, false);
  if (passed) notice(`${plural(passed, "file")} of the folder passed over: not named like an image.`);
  return found;
}

// ---- what the server says ----

function keep(news) {
  const item = items.get(news.number) || {};
  Object.assign(item, news);
  if (item.file && !item.url) item.url = URL.createObjectURL(item.file);
  items.set(item.number, item);
  if (item.scored) item.file = null;
  fill(item);
}

async function poll() {
  if (polling || !batch) return;
  polling = true;
  const mine = batch;
  try {
    while (mine === batch) {
      const state = await ask(`api/batches/${await mine}?since=${known}`);
      if (mine !== batch) break;
      known = state.changes;
      for (const news of state.changed) keep(news);
      show(state);
      if (state.done === state.total && !underWay && !sending.length) break;
      await new Promise((resolve) => setTimeout(resolve, EVERY_MS));
    }
  } catch (error) {
    if (mine === batch) notice(error.message);
  }
  polling = false;
}

async function clear() {
  const old = batch;
  for (const item of items.values()) if (item.url) URL.revokeObjectURL(item.url);
  batch = null;
  known = 0;
  items = new Map();
  sending = [];
  chosen = [];
  $("cards").replaceChildren();
  $("notices").replaceChildren();
  show();
  if (old) await ask(`api/batches/${await old}`, { method: "DELETE" }).catch(() => {});
}

// ---- what is shown ----

function show(state) {
  const done = [...items.values()].filter((item) => item.scored);
  const failed = done.filter((item) => item.scored.problem !== null).length;
  const total = items.size + sending.length + underWay;
  document.body.classList.toggle("filled", total > 0);
  document.body.classList.toggle("few", items.size > 0 && total <= 2);
  $("work").hidden = !total || done.length === total;
  $("bar").style.width = total ? `${(100 * done.length) / total}%` : "0";
  const ahead = state?.ahead ? `, ${plural(state.ahead, "image")} of other pages in turn` : "";
  const uploads = sending.length + underWay ? `, ${sending.length + underWay} to upload` : "";
  $("progress").textContent = `${done.length} of ${plural(total, "image")} scored${uploads}${ahead}`;
  $("results").hidden = !items.size;
  $("count").textContent =
    `${plural(done.length - failed, "image")} scored` + (failed ? `, ${failed} could not be scored` : "");
  $("hint").textContent = items.size > 1 ? "Choose Compare on two images to see them side by side." : "";
  if (batch && done.length) {
    batch.then((id) => {
      for (const kind of ["csv", "xlsx", "gallery"]) $(kind).href = `api/batches/${id}/${$(kind).download}`;
    });
  }
  $("downloads").hidden = !done.length;
  arrange();
  compare();
}

function arrange() {
  const of = (item) => item.scored?.predicted ?? null;
  const width = (item) => (item.scored?.interval_high ?? null) === null ? spread(item) : item.scored.interval_high - item.scored.interval_low;
  const last = (a, b, value, sign) => {
    const [x, y] = [value(a), value(b)];
    if (x === null || y === null) return (x === null) - (y === null);
    return sign * (x - y);
  };
  const orders = {
    given: (a, b) => (a.place ?? places) - (b.place ?? places), // uploads arrive in another order
    best: (a, b) => last(a, b, of, -1),
    worst: (a, b) => last(a, b, of, 1),
    unsure: (a, b) => last(a, b, width, -1),
    name: (a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }),
  };
  const sorted = [...items.values()].sort((a, b) => orders[$("order").value](a, b) || a.number - b.number);
  const there = $("cards").children;
  sorted.forEach((item, at) => {
    if (there[at] !== item.card) $("cards").insertBefore(item.card, there[at] || null);
  });
}

// Standard deviation of the bin, where there is no interval.
function spread(item) {
  const p = item.scored?.score_distribution;
  if (!p) return null;
  const mean = p.reduce((sum, share, bin) => sum + share * bin, 0);
  return Math.sqrt(p.reduce((sum, share, bin) => sum + share * (bin - mean) ** 2, 0));
}

function picture(item) {
  const box = make("div", "picture");
  const image = make("img");
  image.alt = item.name;
  image.loading = "lazy";
  image.decoding = "async";
  const served = async () => (batch ? `api/batches/${await batch}/images/${item.number}` : "");
  let again = false;
  image.addEventListener("error", async () => {
    if (!again && item.scored && item.scored.problem === null) {
      again = true; // a format that this browser does not show
      image.src = await served();
    } else {
      box.classList.add("failed");
      box.replaceChildren(make("span", "none", "no picture"));
    }
  });
  if (item.url) image.src = item.url;
  else served().then((address) => (image.src = address));
  box.append(image);
  return box;
}

function facts(item) {
  const box = make("div", "facts");
  const scored = item.scored;
  if (!scored) {
    box.append(make("p", "waiting", item.state === "scoring" ? "Being scored \u2026" : "Waits for its turn \u2026"));
    return box;
  }
  if (scored.problem !== null) {
    box.append(make("p", "problem", `Not scored: ${scored.problem}`));
    return box;
  }
  const line = make("p", "verdict-line");
  line.append(make("span", "score", number(scored.predicted)), make("span", "bounds", "on the scale of your scores"));
  const bounds =
    scored.interval_low === null
      ? "no interval: too few validation images"
      : `90 % interval ${number(scored.interval_low)} to ${number(scored.interval_high)}`;
  box.append(line, make("p", "bounds bounds-line", bounds), scale(scored), distribution(scored));
  if (scored.parsed) box.append(make("p", "said", scored.explanation));
  else {
    box.append(make("p", "flag", "The answer has no score and explanation in the right form:"));
    box.append(make("pre", "raw", scored.text));
  }
  return box;
}

function scale(scored) {
  const { low, high } = about;
  const at = (value) => 8 + (304 * (Math.min(Math.max(value, low), high) - low)) / (high - low || 1);
  const interval = scored.interval_low === null ? "" : `, interval ${number(scored.interval_low)} to ${number(scored.interval_high)}`;
  const plot = draw("svg", {
    class: "plot", viewBox: "0 0 320 34", role: "img",
    "aria-label": `Score ${number(scored.predicted)}${interval} on a scale from ${number(low)} to ${number(high)}`,
  });
  plot.append(draw("line", { class: "scale", x1: at(low), x2: at(high), y1: 10, y2: 10 }));
  if (scored.interval_low !== null) {
    plot.append(draw("line", { class: "range", x1: at(scored.interval_low), x2: at(scored.interval_high), y1: 10, y2: 10 }));
  }
  plot.append(draw("circle", { class: "point", cx: at(scored.predicted), cy: 10, r: 6 }));
  plot.append(draw("text", { x: 4, y: 31 }, number(low)), draw("text", { class: "end", x: 316, y: 31 }, number(high)));
  return plot;
}

function distribution(scored) {
  const p = scored.score_distribution;
  const most = Math.max(...p);
  const plot = draw("svg", {
    class: "plot", viewBox: "0 0 320 92", role: "img",
    "aria-label": "Probability of each bin: " + p.map((share, bin) => `${bin}: ${Math.round(100 * share)} %`).join(", "),
  });
  p.forEach((share, bin) => {
    const height = 56 * (share / most);
    const stated = bin === scored.stated_score ? " stated" : "";
    const bar = draw("rect", { class: `bin${stated}`, x: 10 + 31 * bin, y: 62 - height, width: 22, height });
    bar.append(draw("title", {}, `bin ${bin}: ${(100 * share).toFixed(1)} %`));
    plot.append(bar, draw("text", { class: `tick${stated}`, x: 21 + 31 * bin, y: 75 }, String(bin)));
  });
  plot.append(draw("line", { class: "base", x1: 6, x2: 316, y1: 62.5, y2: 62.5 }));
  const stated = scored.stated_score === null ? "" : `; the text states ${scored.stated_score}`;
  plot.append(draw("text", { class: "legend-text", x: 6, y: 90 }, `probability of each bin, 9 is the best${stated}`));
  return plot;
}

function fill(item) {
  const card = (item.card ??= make("li", "card"));
  if (!card.firstChild) card.append(picture(item));
  else if (item.scored?.problem === null && card.firstChild.classList.contains("failed")) card.firstChild.replaceWith(picture(item));
  while (card.children.length > 1) card.lastChild.remove();
  const body = make("div", "body");
  body.append(make("p", "name", item.name), facts(item));
  card.append(body);
  if (item.scored && item.scored.problem === null) {
    const tail = make("p", "tail");
    const button = make("button", "", "Compare");
    button.type = "button";
    button.setAttribute("aria-pressed", String(chosen.includes(item.number)));
    button.addEventListener("click", () => choose(item.number));
    item.button = button;
    tail.append(button);
    body.append(tail);
  }
}

function choose(picked) {
  chosen = chosen.includes(picked) ? chosen.filter((other) => other !== picked) : [...chosen, picked].slice(-2);
  for (const item of items.values()) item.button?.setAttribute("aria-pressed", String(chosen.includes(item.number)));
  compare();
  if (chosen.length === 2) $("compare").scrollIntoView({ block: "start", behavior: "smooth" });
}

let compared = "";
function compare() {
  const pair = chosen.map((picked) => items.get(picked)).filter(Boolean);
  $("compare").hidden = pair.length !== 2;
  const now = pair.length === 2 ? chosen.join() : "";
  if (now === compared) return;
  compared = now;
  $("pair").replaceChildren();
  if (pair.length !== 2) return;
  const [a, b] = pair;
  const gap = a.scored.predicted - b.scored.predicted;
  const [better, worse] = gap >= 0 ? [a, b] : [b, a];
  let said = `${better.name} is scored ${number(Math.abs(gap))} higher than ${worse.name}.`;
  if (a.scored.interval_low !== null && b.scored.interval_low !== null) {
    said +=
      better.scored.interval_low > worse.scored.interval_high
        ? " Their intervals do not overlap."
        : " Their intervals overlap, so which one is better is not sure.";
  }
  $("difference").textContent = said;
  for (const item of pair) {
    const side = make("div", "side");
    side.append(picture(item), make("p", "name", item.name), facts(item));
    $("pair").append(side);
  }
}

// ---- beginning ----

async function begin() {
  about = await ask("api/about");
  const { limits } = about;
  $("about").textContent =
    `${about.model} gives each image its ${about.criterion} and says why. Scores are on the scale of the column ` +
    `${about.score_column} that it learnt from; it gives ${number(about.low)} to ${number(about.high)}.`;
  $("limits").textContent =
    `Up to ${limits.images} images, ${limits.megabytes} MB and ${limits.megapixels} million pixels each. JPEG, PNG, WebP, AVIF, GIF, TIFF, BMP, JPEG 2000.`;
  $("files").accept = [...about.endings, "image/*"].join(",");
  for (const line of about.verdict) $("verdict").append(make("p", "", line));
  $("verdict").hidden = !about.verdict.length;
}

$("files").addEventListener("change", () => {
  give([...$("files").files]);
  $("files").value = "";
});
for (const kind of ["dragenter", "dragover"]) {
  addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.add("over");
  });
}
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) $("drop").classList.remove("over");
});
addEventListener("drop", async (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  give(await filesOf(event.dataTransfer).catch(() => []));
});
$("order").addEventListener("change", arrange);
$("clear").addEventListener("click", clear);
$("end-compare").addEventListener("click", () => {
  chosen = [];
  for (const item of items.values()) item.button?.setAttribute("aria-pressed", "false");
  compare();
});
begin().catch((error) => notice(error.message));
