// The page of searches: what is asked for, its address, and the way back.

import { json, Problem, search, showImage, thumbnail } from "./api.js";
import { askedImages, showFile } from "./asked.js";
import { compare } from "./compare.js";
import { completeIn } from "./completion.js";
import { hasFiles, partsOf, readQuery, withImage, writeQuery } from "./query.js";
import { folderOf, moveBy, nameOf, showResults } from "./results.js";
import "./token.js";

const $ = (selector) => document.querySelector(selector);
const form = $("#search");
const OPTIONS = ["k", "where", "min_similarity", "max_distance", "existing"];
const DEFAULT_K = "50";
const SAMPLE = 60;
// What a form has beside the files, at most.
const FORM_BYTES = 8192;

let facts = null;
let columns = [];
// What is shown: its key in the history, its query, and its results.
let current = { key: null, query: null, results: [] };
let running = null;
// Images that were chosen, and what has been shown, by keys of the history: until the page is
// loaded again.
const uploads = new Map();
const shown = new Map();

// ---- Addresses ----

/** The options of an address or of the form: text by names, without those that are empty. */
function optionsOf(source) {
  const found = {};
  for (const name of OPTIONS) {
    const value = (source.get(name) ?? "").trim();
    if (value) found[name] = value;
  }
  return found;
}

const inForm = () => optionsOf(new FormData(form));

function addressOf(query, options) {
  const { k, ...others } = options;
  const given = new URLSearchParams(others);
  if (k && k !== DEFAULT_K) given.set("k", k);
  writeQuery(query, given);
  const text = given.toString();
  return text ? `/?${text}` : "/";
}

/** Options as the server takes them. */
function typed({ k, where, min_similarity, max_distance, existing }) {
  const wanted = { k: Number(k ?? DEFAULT_K) };
  if (where) wanted.where = where;
  if (min_similarity) wanted.min_similarity = Number(min_similarity);
  if (max_distance) wanted.max_distance = Number(max_distance);
  if (existing) wanted.existing = true;
  return wanted;
}

function fillForm(options) {
  for (const name of OPTIONS) {
    const field = form.elements[name];
    if (field.type === "checkbox") field.checked = name in options;
    else field.value = options[name] ?? (name === "k" ? DEFAULT_K : "");
  }
  const hidden = ["min_similarity", "max_distance", "existing"].some((name) => name in options);
  $(".more").classList.toggle("used", hidden);
}

// ---- Going from one search to the next ----

const newKey = () => crypto.getRandomValues(new Uint32Array(2)).join("-");

// Tiles that are out of sight have a height that is guessed, so that a place is a tile: the one
// with the focus, or else the first that is in sight.
function keepPlace() {
  const known = shown.get(current.key);
  if (!known) return;
  const tiles = [...$("#grid").children];
  const focused = tiles.indexOf(document.activeElement.closest("#grid > li"));
  const top = ({ top }) => top >= 0 && top < window.innerHeight;
  const tile = focused < 0 ? tiles.findIndex((one) => top(one.getBoundingClientRect())) : focused;
  known.place =
    window.scrollY > 0 && tile >= 0
      ? { focused, tile, top: tiles[tile].getBoundingClientRect().top }
      : { focused };
}

function returnTo({ focused, tile, top }) {
  const tiles = $("#grid").children;
  tiles[focused]?.querySelector("a").focus({ preventScroll: true });
  if (tile === undefined) {
    window.scrollTo(0, 0);
    return;
  }
  tiles[tile].scrollIntoView();
  window.scrollBy(0, tiles[tile].getBoundingClientRect().top - top);
}

/** Show another search, which the button Back leaves again. */
function go(query, options) {
  keepPlace();
  const key = newKey();
  const isOwn = hasFiles(query);
  if (isOwn) uploads.set(key, query);
  history.pushState({ key, upload: isOwn ? key : null }, "", addressOf(query, options));
  return arrive({ moveFocus: true });
}

const searchOn = (id) => go({ id }, inForm());

/** Show what the address and the history say. */
async function arrive({ moveFocus = false } = {}) {
  const state = history.state ?? { key: newKey(), upload: null };
  if (!history.state) history.replaceState(state, "");
  const given = new URLSearchParams(location.search);
  const options = optionsOf(given);
  fillForm(options);
  running?.abort();
  hideProblem();
  const known = shown.get(state.key);
  const query = state.upload ? uploads.get(state.upload) : readQuery(given);
  current = { key: state.key, query, results: [] };
  if (known) {
    show(query, known.answer, moveFocus);
    returnTo(known.place ?? {});
    return;
  }
  if (state.upload && !query) {
    clear();
    $("#start").hidden = false;
    complain(
      new Problem("Your image was not kept when the page was loaded again. Choose it once more."),
    );
    return;
  }
  if (query === undefined) {
    clear();
    const wrong = given.has("parts")
      ? `the parts ${given.get("parts")}; expected ids, each with a weight after a colon if it has one`
      : `the id ${given.get("id")}, which is no number`;
    complain(new Problem(`The address has ${wrong}.`));
    return;
  }
  await run(query, options, moveFocus);
}

async function run(query, options, moveFocus) {
  const own = new AbortController();
  running = own;
  const grid = $("#grid");
  grid.setAttribute("aria-busy", "true");
  if (query) showAsked(query, null);
  const more = { signal: own.signal, onWait: (wait) => say(`The server is busy. Trying again in ${wait} s.`) };
  try {
    const answer = query
      ? await search(query, typed(options), more)
      : { results: await json(`/sample?n=${SAMPLE}`, more) };
    if (running !== own) return;
    hideProblem();
    shown.set(current.key, { answer });
    show(query, answer, moveFocus);
    if (moveFocus) window.scrollTo(0, 0);
  } catch (error) {
    if (error.name === "AbortError" || running !== own) return;
    grid.removeAttribute("aria-busy");
    grid.replaceChildren();
    complain(error, () => run(query, options, moveFocus));
  }
}

// ---- What is shown ----

function clear() {
  for (const name of ["#start", "#asked", "#empty"]) $(name).hidden = true;
  $("#grid").replaceChildren();
  $("#grid").removeAttribute("aria-busy");
  document.title = "Image search – hyperpq";
}

function show(query, answer, moveFocus) {
  current.results = answer.results;
  $("#start").hidden = query !== null;
  $("#asked").hidden = query === null;
  showResults(answer.results, (id) => addressOf({ id }, inForm()));
  const empty = $("#empty");
  empty.hidden = answer.results.length > 0;
  if (query === null) {
    document.title = "Image search – hyperpq";
    empty.textContent = "The index has no images.";
    return;
  }
  showAsked(query, answer);
  empty.textContent = "No image is found. A wider filter or another similarity may have results.";
  const count = answer.results.length;
  announce(`${$("#asked-title").textContent}: ${summary(count)}`);
  if (moveFocus) $("#asked-title").focus({ preventScroll: true });
}

function summary(count) {
  const { where, min_similarity, max_distance, existing } = inForm();
  return [
    `${count.toLocaleString("en")} ${count === 1 ? "image" : "images"}`,
    where,
    min_similarity && `similarity at least ${min_similarity}`,
    max_distance && `distance at most ${max_distance}`,
    existing && "with a file",
  ]
    .filter(Boolean)
    .join(" · ");
}

function nameOfQuery(query, answer) {
  if (query.files) return query.files.map((file) => file.name || "the pasted image").join(" and ");
  if (query.parts) return query.parts.length === 1 ? "one image" : `${query.parts.length} images`;
  return answer ? nameOf(answer.query) : `image ${query.id}`;
}

function showAsked(query, answer) {
  $("#start").hidden = true;
  $("#asked").hidden = false;
  $("#empty").hidden = true;
  const name = nameOfQuery(query, answer);
  const title = `Like ${name}`;
  $("#asked-title").textContent = title;
  document.title = `${title} – hyperpq`;
  $("#asked-folder").textContent = query.id === undefined || !answer ? "" : folderOf(answer.query);
  $("#asked-count").textContent = answer ? summary(answer.results.length) : "";
  $("#asked-note").textContent = hasFiles(query)
    ? "The address of this page cannot hold an image of yours. Search on from a result to get one that can be shared."
    : "";
  const list = $("#asked .asked-images");
  if (list.dataset.key === current.key) return;
  list.dataset.key = current.key;
  list.replaceChildren(...askedImages(query, name, (wanted) => go(wanted, inForm())));
}

const announce = (text) => ($("#status").textContent = text);

function say(text) {
  const place = $("#problem");
  place.replaceChildren(paragraph(text));
  place.classList.add("waiting");
  place.hidden = false;
}

function complain(error, again) {
  if (!(error instanceof Problem)) console.error(error);
  const text =
    error instanceof Problem
      ? error.message.replace(/^where /i, "The filter ") // as the page calls it
      : "The page made a mistake.";
  say(text);
  const place = $("#problem");
  place.classList.remove("waiting");
  // A value that the server refuses, and neither the image nor a number.
  const isOther = /^(the image|k |min_|max_)/i.test(text);
  if (error.status === 422 && $("#where").value && !isOther) {
    $("#where").setAttribute("aria-invalid", "true");
  }
  if (again && error.canRetry) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Try again";
    button.addEventListener("click", again);
    place.append(button);
  }
}

function hideProblem() {
  $("#problem").hidden = true;
  $("#where").removeAttribute("aria-invalid");
}

function paragraph(text) {
  const found = document.createElement("p");
  found.textContent = text;
  return found;
}

// ---- What people do ----

function takeFiles(files) {
  const found = [...files];
  if (!found.length) return;
  const most = facts?.max_images ?? 1;
  if (found.length > most) {
    complain(new Problem(`${found.length} images were given; a query has at most ${most}.`));
    return;
  }
  // The server stops to read, which a browser takes for a lost connection.
  const bytes = found.reduce((sum, file) => sum + file.size, FORM_BYTES);
  if (bytes > (facts?.max_upload_bytes ?? Infinity)) {
    const size = (count) => `${(count / 2 ** 20).toFixed(1)} MiB`;
    const what = found.length > 1 ? "The images have" : `${found[0].name || "The image"} has`;
    complain(
      new Problem(
        `${what} ${size(bytes)}; the server takes at most ${size(facts.max_upload_bytes)}.`,
      ),
    );
    return;
  }
  go({ files: found }, inForm());
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  $(".more").open = false;
  const k = Number(form.elements.k.value);
  if (!(Number.isInteger(k) && k >= 1 && k <= (facts?.max_k ?? Infinity))) {
    complain(new Problem(`Results is ${form.elements.k.value || "empty"}; expected a number from 1 to ${facts?.max_k ?? 1000}.`));
    form.elements.k.focus();
    return;
  }
  if (current.query) {
    go(current.query, inForm());
  } else {
    complain(new Problem("Choose an image first, or one of those below; the filter then applies to what is like it."));
  }
});

$("#choose").addEventListener("click", () => $("#file").click());
$("#drop").addEventListener("click", () => $("#file").click());
$("#file").addEventListener("change", ({ target }) => {
  takeFiles(target.files);
  target.value = "";
});

document.addEventListener("paste", (event) => {
  const files = event.clipboardData.files;
  if (!files.length) return; // text, for the filter
  event.preventDefault();
  takeFiles(files);
});

let depth = 0;
const bringsFiles = (event) => event.dataTransfer?.types.includes("Files");
document.addEventListener("dragenter", (event) => {
  if (bringsFiles(event)) $("#dropping").hidden = ++depth === 0;
});
document.addEventListener("dragleave", (event) => {
  if (bringsFiles(event)) $("#dropping").hidden = --depth === 0;
});
document.addEventListener("dragover", (event) => {
  if (bringsFiles(event)) event.preventDefault();
});
document.addEventListener("drop", (event) => {
  depth = 0;
  $("#dropping").hidden = true;
  if (!bringsFiles(event)) return;
  event.preventDefault();
  takeFiles(event.dataTransfer.files);
});

const isPlain = (event) => !(event.ctrlKey || event.metaKey || event.shiftKey || event.button);

$("#grid").addEventListener("click", (event) => {
  const look = event.target.closest(".look");
  if (look) return openComparison(Number(look.dataset.position));
  const part = event.target.closest("button[data-weight]");
  if (part) {
    const id = Number(part.closest(".tile").querySelector("a.frame").dataset.id);
    return go(withImage(current.query, id, Number(part.dataset.weight)), inForm());
  }
  const link = event.target.closest("a.frame");
  if (!link || !isPlain(event)) return;
  event.preventDefault();
  searchOn(Number(link.dataset.id));
});

$("#home").addEventListener("click", (event) => {
  if (!isPlain(event)) return;
  event.preventDefault();
  go(null, {});
});

function openComparison(position) {
  const { query, results } = current;
  if (!query || !results.length) return;
  const { answer } = shown.get(current.key);
  const [{ file, id }, ...others] = partsOf(query);
  const name = file ? file.name || "the pasted image" : others.length ? `image ${id}` : nameOf(answer.query);
  const own = file ? "your image" : others.length ? "" : folderOf(answer.query);
  const note = others.length ? `the first of ${others.length + 1} images` : own;
  const showIn = file
    ? (image) => showFile(image, file)
    : (image, size) => showImage(image, thumbnail(id, size));
  compare({ name, note, show: showIn }, results, position, (id) => addressOf({ id }, inForm()), searchOn);
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  if ($("dialog[open]")) return;
  const sheet = $(".more");
  if (event.key === "Escape" && sheet.open) {
    sheet.open = false;
    sheet.querySelector("summary").focus();
    return;
  }
  if (event.target.closest("input, textarea, summary")) return;
  const link = event.target.closest(".tile")?.querySelector("a.frame");
  if (event.key === "/") $("#where").focus();
  else if (event.key === "c" && link) openComparison([...$("#grid").children].indexOf(link.closest("li")));
  else if (!(link || event.key === "ArrowDown") || !moveBy(event.key, link)) return;
  event.preventDefault();
});

document.addEventListener("pointerdown", (event) => {
  if (!event.target.closest(".more")) $(".more").open = false;
});

$("#tile").addEventListener("input", ({ target }) => {
  document.documentElement.style.setProperty("--tile", `${target.value}px`);
});

// ---- Start ----

async function load() {
  try {
    // One after the other: if a token is needed, the first asks for it.
    facts = await json("/index");
    const share = facts.recall ?? 1;
    const exact = share < 1 ? `searches find about ${+(100 * share).toFixed(1)} % of the exact results, ` : "";
    $("#facts").textContent = `${facts.rows.toLocaleString("en")} images, codes of ${facts.code_bytes} bytes, ${exact}hyperpq ${facts.version}`;
    form.elements.k.max = facts.max_k;
    await arrive();
    columns = await json("/columns");
  } catch (error) {
    complain(error, () => {
      hideProblem();
      load();
    });
  }
}

completeIn($("#where"), $("#suggestions"), () => columns);
history.scrollRestoration = "manual";
window.addEventListener("popstate", () => {
  // Where the page stood that is left is still known.
  keepPlace();
  if ($("#compare").open) $("#compare").close();
  arrive();
});
load();
