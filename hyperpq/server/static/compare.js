// Query and result side by side, with one zoom for both.

import { showImage, thumbnail } from "./api.js";
import { folderOf, measures, nameOf } from "./results.js";

const dialog = document.querySelector("#compare");
const part = (name) => dialog.querySelector(name);
const panes = [...dialog.querySelectorAll(".pane")];
const images = [...dialog.querySelectorAll(".pane img")];
const MOST = 16;
// Larger than most screens, and small enough to arrive at once.
const PIXELS = 2048;

let results = [];
let position = 0;
let href = null;
let goOn = null;
const view = { scale: 1, x: 0, y: 0 };

/** Open the comparison; `query` has a name and shows itself in an image. */
export function compare(query, given, at, address, onSearch) {
  [results, href, goOn] = [given, address, onSearch];
  query.show(images[0], PIXELS);
  images[0].alt = `The query: ${query.name}`;
  part(".left-name").replaceChildren(`Query: ${query.name}`, muted(query.note));
  if (!dialog.open) dialog.showModal();
  show(at);
  part("#compare-title").focus();
}

function show(at) {
  position = Math.min(Math.max(at, 0), results.length - 1);
  const result = results[position];
  const name = nameOf(result.path);
  part("#compare-title").textContent = `Result ${result.rank} of ${results.length}: ${name}`;
  images[1].alt = `Result ${result.rank}: ${name}`;
  showImage(images[1], thumbnail(result.id, PIXELS));
  part(".right-name").replaceChildren(
    name,
    muted(`${measures(result)} · ${folderOf(result.path)}`),
  );
  part("[data-do=previous]").disabled = position === 0;
  part("[data-do=next]").disabled = position === results.length - 1;
  part("#compare-on").href = href(result.id);
  document.querySelector("#status").textContent = part("#compare-title").textContent;
  fit();
}

function muted(text) {
  const found = document.createElement("span");
  found.className = "muted";
  found.textContent = text;
  return found;
}

function fit() {
  Object.assign(view, { scale: 1, x: 0, y: 0 });
  draw();
}

function draw() {
  const { clientWidth: width, clientHeight: height } = panes[0];
  view.x = Math.min(0, Math.max(view.x, width * (1 - view.scale)));
  view.y = Math.min(0, Math.max(view.y, height * (1 - view.scale)));
  for (const image of images) {
    image.style.transform = `translate(${view.x}px, ${view.y}px) scale(${view.scale})`;
  }
  part("#zoom").textContent = `${Math.round(view.scale * 100)}%`;
}

// The point (x, y) of the pane stays where it is.
function zoom(factor, x = panes[0].clientWidth / 2, y = panes[0].clientHeight / 2) {
  const scale = Math.min(MOST, Math.max(1, view.scale * factor));
  view.x = x - ((x - view.x) * scale) / view.scale;
  view.y = y - ((y - view.y) * scale) / view.scale;
  view.scale = scale;
  draw();
}

const actions = {
  in: () => zoom(1.5),
  out: () => zoom(1 / 1.5),
  fit,
  previous: () => show(position - 1),
  next: () => show(position + 1),
  close: () => dialog.close(),
};

dialog.addEventListener("click", (event) => {
  const named = event.target.closest("[data-do]");
  if (named) actions[named.dataset.do]();
  if (event.target === dialog) dialog.close(); // the backdrop
  if (event.target.id === "compare-on" && isPlain(event)) {
    event.preventDefault();
    searchOn();
  }
});

const isPlain = (event) => !(event.ctrlKey || event.metaKey || event.shiftKey || event.button);

function searchOn() {
  dialog.close();
  goOn(results[position].id);
}

dialog.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const keys = {
    ArrowLeft: actions.previous,
    ArrowRight: actions.next,
    "+": actions.in,
    "=": actions.in,
    "-": actions.out,
    0: fit,
  };
  const onControl = event.target.closest("button, a");
  const action = event.key === "Enter" && !onControl ? searchOn : keys[event.key];
  if (!action) return;
  event.preventDefault();
  action();
});

// The tile whose image was seen last has the focus afterwards.
dialog.addEventListener("close", () => {
  document.querySelectorAll("#grid a.frame")[position]?.focus();
});

const pointers = new Map();

function spread() {
  const [a, b] = [...pointers.values()];
  return Math.hypot(a.x - b.x, a.y - b.y);
}

for (const pane of panes) {
  const at = (event) => {
    const box = pane.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  };
  pane.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      const { x, y } = at(event);
      zoom(Math.exp(-event.deltaY / 400), x, y);
    },
    { passive: false },
  );
  pane.addEventListener("dblclick", (event) => {
    const { x, y } = at(event);
    if (view.scale > 1) fit();
    else zoom(3, x, y);
  });
  pane.addEventListener("pointerdown", (event) => {
    pane.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, at(event));
  });
  pane.addEventListener("pointermove", (event) => {
    const before = pointers.get(event.pointerId);
    if (!before) return;
    const now = at(event);
    const wide = pointers.size === 2 ? spread() : 0;
    pointers.set(event.pointerId, now);
    view.x += (now.x - before.x) / pointers.size;
    view.y += (now.y - before.y) / pointers.size;
    if (wide) zoom(spread() / wide, now.x, now.y);
    else draw();
  });
  for (const name of ["pointerup", "pointercancel"]) {
    pane.addEventListener(name, (event) => pointers.delete(event.pointerId));
  }
}
new ResizeObserver(draw).observe(panes[0]);
