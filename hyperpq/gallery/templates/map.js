"use strict";
// A map of groups within groups. The view is a part of the unit square: what is drawn of a group
// depends on how large it is on the screen.
const data = JSON.parse(document.getElementById("data").textContent);
const { clusters, files, folders, frame, side, columns } = data;
const sheets = [...document.querySelectorAll(".sheet")];
// A page of a server has its own way to show images.
const given = window.mapImages ?? null;
const canvas = document.querySelector(".stage canvas");
const pen = canvas.getContext("2d");
const still = matchMedia("(prefers-reduced-motion: reduce)");
const at = (selector) => document.querySelector(selector);
// Pixels: from which size a group is drawn as its parts, an image on its own, the images that stand
// for a group, and an image from its file.
const SPLIT = 170, CELL = 30, TYPICAL = 58, LABEL = 84, LARGE = 90;
const MAX_ZOOM = Math.max(8, 0.6 * Math.sqrt(files.length) * 4);
const LISTED = 40;

let view = { x: 0.5, y: 0.5, zoom: 1 };
let width = 1, height = 1, scale = 1, group = 0, chosen = -1, listed = LISTED, waiting = false, run = 0;
let colours = {};

const number = (n) => n.toLocaleString("en");
const images = (n) => `${number(n)} image${n === 1 ? "" : "s"}`;
const unit = () => Math.min(width, height) * view.zoom;
const toX = (x) => (x - view.x) * unit() + width / 2;
const toY = (y) => (y - view.y) * unit() + height / 2;
const fromX = (x) => (x - width / 2) / unit() + view.x;
const fromY = (y) => (y - height / 2) / unit() + view.y;

function inside([left, top, wide, high]) {
  const edge = frame * Math.min(wide, high);
  return [left + edge, top + edge, wide - 2 * edge, high - 2 * edge];
}

// As `hyperpq.explore.layout.grid`.
function grid(n, wide, high) {
  const near = Math.max(1, Math.round(Math.sqrt((n * wide) / high)));
  let best = [1, n], most = -1;
  for (let c = Math.max(1, near - 2); c <= Math.min(n, near + 2); c++) {
    const lines = Math.ceil(n / c), own = Math.min(wide / c, high / lines);
    if (own > most) [best, most] = [[c, lines], own];
  }
  return best;
}

// The image in a square of a sheet, cut to the shape of a place.
function drawThumbnail(target, file, x, y, wide, high) {
  if (given?.draw(target, files[file][2], x, y, wide, high)) return;
  const place = files[file][2], sheet = sheets[Math.floor(place / (columns * columns))];
  if (place < 0 || !sheet?.naturalWidth) {
    target.fillStyle = colours.line;
    target.fillRect(x, y, wide, high);
    return;
  }
  const inSheet = place % (columns * columns), line = Math.floor(inSheet / columns);
  const part = Math.min(wide, high) / Math.max(wide, high);
  const w = side * (wide > high ? 1 : part), h = side * (wide > high ? part : 1);
  target.drawImage(sheet, (inSheet % columns) * side + (side - w) / 2, line * side + (side - h) / 2, w, h, x, y, wide, high);
}

// Images without a thumbnail are read from their files while they are large on the screen, a few at
// a time; the last ones are kept.
const originals = new Map();
let reading = 0;
function addressOf(file) {
  const [folder, name, , address] = files[file], above = folders[folder][1];
  return above && `${above}/${address || name}`;
}
function original(file) {
  const known = originals.get(file);
  if (known) return known.naturalWidth ? known : null;
  const url = addressOf(file);
  if (known || !url || reading >= 4) return null;
  const image = new Image();
  originals.set(file, image);
  if (originals.size > 200) originals.delete(originals.keys().next().value);
  reading++;
  image.onload = image.onerror = () => { reading--; redraw(); };
  image.src = url;
  return null;
}
function cover(image, x, y, wide, high) {
  const factor = Math.max(wide / image.naturalWidth, high / image.naturalHeight), w = wide / factor, h = high / factor;
  pen.drawImage(image, (image.naturalWidth - w) / 2, (image.naturalHeight - h) / 2, w, h, x, y, wide, high);
}

function onScreen([left, top, wide, high]) {
  const x = toX(left), y = toY(top), w = wide * unit(), h = high * unit();
  return { x, y, w, h, seen: x < width && y < height && x + w > 0 && y + h > 0 };
}

// What is drawn of a group now: its parts, its images, or those that stand for it.
function drawnAs(cluster) {
  const place = onScreen(cluster.box), [, , wide, high] = inside(cluster.box);
  if (cluster.children.length) return Math.min(place.w, place.h) >= SPLIT ? "parts" : "typical";
  const count = cluster.files[1] - cluster.files[0];
  const [c, lines] = grid(count, wide, high);
  return Math.min(wide / c, high / lines) * unit() >= CELL ? "images" : "typical";
}

function cellsOf(cluster) {
  const [left, top, wide, high] = inside(cluster.box), [first, stop] = cluster.files;
  const [c, lines] = grid(stop - first, wide, high);
  return { first, stop, columns: c, lines, left, top, wide: wide / c, high: high / lines };
}

function place(cells, file) {
  const index = file - cells.first, line = Math.floor(index / cells.columns);
  const column = line % 2 ? cells.columns - 1 - (index % cells.columns) : index % cells.columns;
  return [cells.left + column * cells.wide, cells.top + line * cells.high, cells.wide, cells.high];
}

function typicalPlaces(cluster) {
  const { x, y, w, h } = onScreen(inside(cluster.box));
  const most = Math.max(1, Math.floor(w / TYPICAL) * Math.floor(h / TYPICAL));
  const count = Math.min(cluster.typical.length, most);
  const [c, lines] = grid(count, w, h);
  // Only full lines.
  return cluster.typical.slice(0, lines > 1 ? c * Math.max(1, Math.floor(count / c)) : c).map((file, index, all) => {
    const rows = all.length / c;
    return [file, x + (index % c) * (w / c), y + Math.floor(index / c) * (h / rows), w / c, h / rows];
  });
}

function drawImages(cluster) {
  const cells = cellsOf(cluster), gap = Math.min(3, 0.03 * cells.wide * unit());
  // Lines that are on the screen.
  const from = Math.max(0, Math.floor((fromY(0) - cells.top) / cells.high));
  const to = Math.min(cells.lines - 1, Math.floor((fromY(height) - cells.top) / cells.high));
  for (let file = cells.first + from * cells.columns; file < Math.min(cells.stop, cells.first + (to + 1) * cells.columns); file++) {
    const { x, y, w, h, seen } = onScreen(place(cells, file));
    if (!seen) continue;
    const image = files[file][2] < 0 && Math.min(w, h) >= LARGE ? original(file) : null;
    if (image) cover(image, x + gap, y + gap, w - 2 * gap, h - 2 * gap);
    else drawThumbnail(pen, file, x + gap, y + gap, w - 2 * gap, h - 2 * gap);
    if (file === chosen) ring(x, y, w, h);
  }
}

function ring(x, y, w, h) {
  pen.strokeStyle = colours.accent;
  pen.lineWidth = 4;
  pen.strokeRect(x + 1, y + 1, w - 2, h - 2);
}

function label(cluster) {
  const { x, y, w, h } = onScreen(cluster.box);
  if (w < LABEL || Math.min(y + h, height) - Math.max(y, 0) < 40) return;
  pen.font = `600 12px ${colours.font}`;
  // A name stays in sight while its group is.
  const left = Math.max(x, 0) + 6, top = Math.max(y, 0) + 6, room = Math.min(x + w, width) - left - 6;
  let text = `${cluster.title}  ${number(cluster.size)}`;
  if (pen.measureText(text).width + 14 > room) text = cluster.title;
  while (text.length > 1 && pen.measureText(text).width + 14 > room) text = `${text.slice(0, -2)}…`;
  if (room < 30 || text.length < 2) return;
  pen.fillStyle = colours.surface;
  pen.globalAlpha = 0.92;
  pen.beginPath();
  pen.roundRect(left, top, pen.measureText(text).width + 14, 21, 6);
  pen.fill();
  pen.globalAlpha = 1;
  pen.fillStyle = colours.text;
  pen.fillText(text, left + 7, top + 15);
}

function drawCluster(index, labels) {
  const cluster = clusters[index], { x, y, w, h, seen } = onScreen(cluster.box);
  if (!seen || cluster.files[0] === cluster.files[1]) return;
  const how = drawnAs(cluster);
  if (how === "parts") {
    pen.fillStyle = index % 2 ? colours.page : colours.well;
    pen.fillRect(x, y, w, h);
    cluster.children.forEach((child) => drawCluster(child, labels));
  } else if (how === "images") {
    drawImages(cluster);
    labels.push(cluster);
  } else {
    for (const [file, left, top, wide, high] of typicalPlaces(cluster)) {
      drawThumbnail(pen, file, left + 0.5, top + 0.5, wide - 1, high - 1);
      if (file === chosen) ring(left, top, wide, high);
    }
    labels.push(cluster);
  }
  if (index === group && index) ring(x, y, w, h);
}

function draw() {
  waiting = false;
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.imageSmoothingQuality = "high";
  pen.fillStyle = colours.well;
  pen.fillRect(0, 0, width, height);
  const labels = [];
  drawCluster(0, labels);
  labels.forEach(label);
}

function redraw() {
  if (!waiting) requestAnimationFrame(draw);
  waiting = true;
}

function clamp() {
  view.zoom = Math.min(MAX_ZOOM, Math.max(1, view.zoom));
  const spare = (length) => Math.min(0.5, length / 2 / unit());
  view.x = Math.min(1 - spare(width), Math.max(spare(width), view.x));
  view.y = Math.min(1 - spare(height), Math.max(spare(height), view.y));
}

function zoomAt(factor, x = width / 2, y = height / 2) {
  const [left, top] = [fromX(x), fromY(y)];
  view.zoom = Math.min(MAX_ZOOM, Math.max(1, view.zoom * factor));
  view.x = left - (x - width / 2) / unit();
  view.y = top - (y - height / 2) / unit();
  moved();
}

// The deepest group that fills the window is where the reader is.
function moved() {
  run++;
  clamp();
  let now = 0;
  for (;;) {
    const next = clusters[now].children.find((child) => {
      const { x, y, w, h } = onScreen(clusters[child].box);
      const inX = x <= width / 2 && x + w >= width / 2, inY = y <= height / 2 && y + h >= height / 2;
      return inX && inY && Math.max(w / width, h / height) > 0.7;
    });
    if (next === undefined) break;
    now = next;
  }
  show(now);
  redraw();
}

function fly(box) {
  const [left, top, wide, high] = box, from = { ...view };
  const zoom = Math.min(MAX_ZOOM, Math.min(width / wide, height / high) / Math.min(width, height) * 0.94);
  const to = { x: left + wide / 2, y: top + high / 2, zoom: Math.max(1, zoom) };
  const own = ++run, start = performance.now();
  const step = (now) => {
    if (own !== run) return;
    const t = still.matches ? 1 : Math.min(1, (now - start) / 380), eased = t * t * (3 - 2 * t);
    view.zoom = from.zoom * (to.zoom / from.zoom) ** eased;
    // In step with the zoom, so that the target grows where it is.
    const share = from.zoom === to.zoom ? eased : (1 / from.zoom - 1 / view.zoom) / (1 / from.zoom - 1 / to.zoom);
    view.x = from.x + (to.x - from.x) * share;
    view.y = from.y + (to.y - from.y) * share;
    clamp();
    redraw();
    if (t < 1) requestAnimationFrame(step);
  };
  step(start);
}

function enter(index) {
  chosen = -1;
  show(index);
  fly(clusters[index].box);
}

function nameOf(file) { return files[file][1] || "image"; }

function thumbnail(file) {
  if (given) return given.thumbnail(files[file][2]);
  if (files[file][2] < 0) return Object.assign(document.createElement("i"), { className: "none" });
  const small = document.createElement("canvas");
  small.width = small.height = side;
  small.setAttribute("aria-hidden", "true");
  drawThumbnail(small.getContext("2d"), file, 0, 0, side, side);
  return small;
}

function entry(file, name, detail, act) {
  const item = document.createElement("li"), button = document.createElement("button"), text = document.createElement("span");
  button.type = "button";
  text.append(name);
  if (detail) text.append(Object.assign(document.createElement("small"), { textContent: detail }));
  button.append(thumbnail(file), text);
  button.addEventListener("click", act);
  item.append(button);
  return item;
}

// The list of groups beside the map says where it is.
function show(index) {
  if (index === group && chosen < 0 && at(".path").childElementCount && at(".chosen").hidden) return;
  if (index !== group) listed = LISTED;
  group = index;
  const line = [];
  for (let up = index; up !== null; up = clusters[up].parent) line.unshift(up);
  at(".path").replaceChildren(...line.map((up) => {
    const item = document.createElement("li"), button = document.createElement("button");
    button.type = "button";
    button.textContent = up ? clusters[up].title : "All";
    if (up === index) button.setAttribute("aria-current", "true");
    button.addEventListener("click", () => enter(up));
    item.append(button);
    return item;
  }));
  const cluster = clusters[index];
  at(".group h2").textContent = index ? cluster.title : "All images";
  const [first, stop] = cluster.files, shown = stop - first;
  const parts = cluster.children.length ? `, ${cluster.children.length} parts` : "";
  at(".about").textContent = images(cluster.size) + parts + (shown < cluster.size ? `; ${number(shown)} of them are on the map` : "");
  at(".shares").replaceChildren(...cluster.labels.map(([text, share]) => {
    const item = document.createElement("li"), meter = document.createElement("meter");
    meter.value = share;
    meter.setAttribute("aria-label", text);
    item.append(text, Object.assign(document.createElement("span"), { textContent: `${Math.round(100 * share)} %` }), meter);
    return item;
  }));
  const list = cluster.children.length
    ? cluster.children.map((child) => entry(clusters[child].typical[0], clusters[child].title, images(clusters[child].size), () => enter(child)))
    : Array.from({ length: Math.min(shown, listed) }, (_, i) => entry(first + i, nameOf(first + i), "", () => select(first + i, true)));
  at(".parts").replaceChildren(...list);
  at(".more").hidden = cluster.children.length > 0 || shown <= listed;
  at(".chosen").hidden = true;
  chosen = -1;
}

function groupOf(file) {
  let index = 0;
  for (;;) {
    const next = clusters[index].children.find((child) => file >= clusters[child].files[0] && file < clusters[child].files[1]);
    if (next === undefined) return index;
    index = next;
  }
}

function select(file, goes) {
  const home = groupOf(file);
  if (goes) {
    if (home !== group) show(home);
    const [x, y, w, h] = place(cellsOf(clusters[home]), file), wide = 6 * Math.max(w, h);
    fly([x + w / 2 - wide / 2, y + h / 2 - wide / 2, wide, wide]);
  }
  chosen = file;
  const [folder, name, thumb] = files[file], text = folders[folder][0];
  at(".chosen h2").textContent = name || "image";
  at(".where").textContent = text;
  const image = at(".chosen img"), link = at(".open"), url = addressOf(file);
  at(".chosen").hidden = false;
  redraw();
  image.alt = name;
  if (given) {
    given.show(image, link, thumb);
    return;
  }
  image.hidden = true;
  image.onload = () => { image.hidden = false; };
  // Its own file, or else the thumbnail.
  image.onerror = () => {
    image.onerror = null;
    if (thumb >= 0) image.src = thumbnail(file).toDataURL();
  };
  if (url) image.src = url; else image.onerror();
  link.hidden = !url;
  if (url) link.href = url;
}

// What is below a point: an image if it is drawn, and its group.
function under(x, y) {
  const [left, top] = [fromX(x), fromY(y)];
  const holds = ([l, t, w, h]) => left >= l && left < l + w && top >= t && top < t + h;
  if (!holds(clusters[0].box)) return null;
  let index = 0;
  while (drawnAs(clusters[index]) === "parts") {
    const next = clusters[index].children.find((child) => holds(clusters[child].box));
    if (next === undefined) return { index, file: -1 };
    index = next;
  }
  if (drawnAs(clusters[index]) === "typical") {
    const found = typicalPlaces(clusters[index]).find(([, l, t, w, h]) => x >= l && x < l + w && y >= t && y < t + h);
    return { index, file: found ? found[0] : -1, typical: true };
  }
  const cells = cellsOf(clusters[index]);
  const column = Math.floor((left - cells.left) / cells.wide), line = Math.floor((top - cells.top) / cells.high);
  if (column < 0 || column >= cells.columns || line < 0 || line >= cells.lines) return { index, file: -1 };
  const file = cells.first + line * cells.columns + (line % 2 ? cells.columns - 1 - column : column);
  return { index, file: file < cells.stop ? file : -1 };
}

function tap(x, y) {
  const found = under(x, y);
  if (!found) return;
  // Seen from afar, an image stands for its group, which comes nearer.
  if (found.typical || found.file < 0) enter(found.index);
  else select(found.file, false);
}

const pointers = new Map();
let travelled = 0;
const local = (event) => {
  const box = canvas.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
};

function tip(x, y) {
  const found = under(x, y), box = at(".tip");
  box.hidden = !found;
  if (!found) return;
  const cluster = clusters[found.index];
  box.textContent = found.file >= 0 && !found.typical ? nameOf(found.file) : `${found.index ? cluster.title : "All"}: ${images(cluster.size)}`;
  box.style.transform = `translate(${Math.min(x + 14, width - box.offsetWidth - 4)}px, ${Math.min(y + 18, height - box.offsetHeight - 4)}px)`;
}

canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  pointers.set(event.pointerId, local(event));
  if (pointers.size === 1) travelled = 0;
  canvas.classList.add("moving");
});
canvas.addEventListener("pointermove", (event) => {
  const [x, y] = local(event), before = pointers.get(event.pointerId);
  if (!before) {
    tip(x, y);
    return;
  }
  at(".tip").hidden = true;
  const other = [...pointers].find(([id]) => id !== event.pointerId);
  if (other) {
    const [ox, oy] = other[1];
    zoomAt(Math.hypot(x - ox, y - oy) / Math.max(1, Math.hypot(before[0] - ox, before[1] - oy)), (x + ox) / 2, (y + oy) / 2);
    travelled += 9;
  } else {
    view.x -= (x - before[0]) / unit();
    view.y -= (y - before[1]) / unit();
    travelled += Math.hypot(x - before[0], y - before[1]);
    if (travelled > 6) moved();
  }
  pointers.set(event.pointerId, [x, y]);
});
for (const name of ["pointerup", "pointercancel"]) {
  canvas.addEventListener(name, (event) => {
    const known = pointers.delete(event.pointerId);
    if (!pointers.size) canvas.classList.remove("moving");
    if (known && name === "pointerup" && !pointers.size && travelled <= 6) tap(...local(event));
  });
}
canvas.addEventListener("pointerleave", () => { at(".tip").hidden = true; });
canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  const lines = event.deltaMode === 1 ? 24 : event.deltaMode === 2 ? 240 : 1;
  zoomAt(Math.exp(-event.deltaY * lines * (event.ctrlKey ? 0.01 : 0.0022)), ...local(event));
}, { passive: false });

function up() {
  const parent = clusters[group].parent;
  enter(parent === null ? 0 : parent);
}

const keys = {
  "+": () => zoomAt(1.4),
  "=": () => zoomAt(1.4),
  "-": () => zoomAt(1 / 1.4),
  "0": () => enter(0),
  Home: () => enter(0),
  Escape: () => (at(".chosen").hidden ? up() : unchoose()),
  ArrowLeft: () => shift(-1, 0),
  ArrowRight: () => shift(1, 0),
  ArrowUp: () => shift(0, -1),
  ArrowDown: () => shift(0, 1),
  Enter: () => tap(width / 2, height / 2),
};
function shift(x, y) {
  view.x += (x * width) / 6 / unit();
  view.y += (y * height) / 6 / unit();
  moved();
}
function unchoose() {
  chosen = -1;
  at(".chosen").hidden = true;
  redraw();
}
canvas.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !keys[event.key]) return;
  event.preventDefault();
  keys[event.key]();
});
at("[data-do=in]").addEventListener("click", () => zoomAt(1.6));
at("[data-do=out]").addEventListener("click", () => zoomAt(1 / 1.6));
at("[data-do=all]").addEventListener("click", () => enter(0));
at(".back").addEventListener("click", unchoose);
at(".more").addEventListener("click", () => {
  listed += 2 * LISTED;
  const last = at(".parts").childElementCount;
  chosen = chosen < 0 ? -2 : chosen;
  show(group);
  at(".parts").children[last].firstChild.focus();
});

function look() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ["page", "surface", "well", "line", "text", "accent"]) colours[name] = style.getPropertyValue(`--${name}`).trim();
  colours.font = getComputedStyle(document.body).fontFamily;
  redraw();
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", look);
new ResizeObserver(() => {
  const box = canvas.getBoundingClientRect();
  scale = window.devicePixelRatio || 1;
  [width, height] = [Math.max(1, box.width), Math.max(1, box.height)];
  [canvas.width, canvas.height] = [Math.round(width * scale), Math.round(height * scale)];
  clamp();
  redraw();
}).observe(canvas);
given?.onReady(redraw);
look();
Promise.allSettled(sheets.map((sheet) => sheet.decode())).then(() => {
  group = -1;
  show(0);
  redraw();
  document.documentElement.dataset.ready = "";
});
