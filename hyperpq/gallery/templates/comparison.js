"use strict";
// Two images of a group side by side, with one zoom; the page is whole without it.
const dialog = document.querySelector("dialog");
const panes = [...dialog.querySelectorAll(".pane")];
const shown = dialog.querySelector("output");
let tiles = [], zoom = 1, x = 0, y = 0;

function place() {
  const style = dialog.style;
  style.setProperty("--zoom", zoom);
  style.setProperty("--x", `${x}px`);
  style.setProperty("--y", `${y}px`);
  shown.textContent = `${Math.round(100 * zoom)} %`;
  if (zoom > 1) panes.forEach(sharpen);
}

// The thumbnail gives way to its file, where the browser can read that.
function sharpen(pane, side) {
  const image = pane.querySelector("img");
  const link = tiles[side].querySelector("a.frame");
  if (!link || image.dataset.full === link.href) return;
  image.dataset.full = link.href;
  const full = new Image();
  full.onload = () => { if (image.dataset.full === full.src) image.src = full.src; };
  full.src = link.href;
}

function fill() {
  panes.forEach((pane, side) => {
    const image = pane.querySelector("img");
    const source = tiles[side].querySelector("img");
    image.dataset.full = "";
    image.src = source ? source.src : "";
    image.alt = source ? source.alt : "This image cannot be shown";
    const parts = [...tiles[side].querySelectorAll("figcaption > span")];
    pane.querySelector("figcaption").textContent = parts.map((part) => part.textContent.trim()).join(" · ");
  });
  place();
}

function change(factor) {
  const next = Math.min(16, Math.max(1, zoom * factor));
  x *= next / zoom;
  y *= next / zoom;
  zoom = next;
  if (zoom === 1) x = y = 0;
  place();
}

const actions = {
  in: () => change(1.5),
  out: () => change(1 / 1.5),
  swap: () => { tiles.reverse(); fill(); },
  one: () => {
    const alone = dialog.classList.toggle("one");
    dialog.querySelector("[data-do=one]").textContent = alone ? "Side by side" : "One at a time";
  },
  close: () => dialog.close(),
};

for (const button of document.querySelectorAll(".compare")) {
  button.hidden = false;
  button.addEventListener("click", () => {
    const tile = button.closest(".tile");
    tiles = [tile.parentElement.firstElementChild, tile];
    zoom = 1;
    x = y = 0;
    fill();
    dialog.showModal();
  });
}
for (const button of dialog.querySelectorAll("[data-do]")) {
  button.addEventListener("click", actions[button.dataset.do]);
}
const keys = {
  "+": actions.in, "=": actions.in, "-": actions.out, s: actions.swap, S: actions.swap, " ": actions.swap,
  ArrowLeft: () => { x += 40; place(); }, ArrowRight: () => { x -= 40; place(); },
  ArrowUp: () => { y += 40; place(); }, ArrowDown: () => { y -= 40; place(); },
};
dialog.addEventListener("keydown", (event) => {
  const isButton = event.target.tagName === "BUTTON" && event.key === " ";
  if (!(event.key in keys) || isButton || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  keys[event.key]();
});
for (const pane of panes) {
  const view = pane.querySelector(".view");
  view.addEventListener("wheel", (event) => {
    event.preventDefault();
    change(event.deltaY < 0 ? 1.2 : 1 / 1.2);
  }, { passive: false });
  view.addEventListener("pointerdown", (event) => view.setPointerCapture(event.pointerId));
  view.addEventListener("pointermove", (event) => {
    if (!view.hasPointerCapture(event.pointerId)) return;
    x += event.movementX;
    y += event.movementY;
    place();
  });
}
