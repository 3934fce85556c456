// The grid of results: tiles that are links, and the keys that move among them.

import { showImage, thumbnail } from "./api.js";
import { MINUS } from "./query.js";

const grid = document.querySelector("#grid");
const template = document.querySelector("#tile-template");
// The first rows are in the window: they don't wait for the browser to see that.
const EAGER = 12;

export const nameOf = (path) => path.slice(path.lastIndexOf("/") + 1) || path;
export const folderOf = (path) => path.slice(0, Math.max(0, path.lastIndexOf("/")));

/** The folders that all paths have in common, with a slash at the end. */
function commonOf(results) {
  let common = results.length ? `${folderOf(results[0].path)}/` : "";
  for (const { path } of results) {
    while (!path.startsWith(common)) common = common.replace(/[^/]*\/$/, "");
  }
  return common;
}

/** A folder without what is common; whole where nothing else is left. */
function shortFolder(path, common) {
  const rest = folderOf(path).slice(common.length);
  return common.length > 1 && rest ? `…/${rest}` : folderOf(path);
}

export function measures({ similarity, distance }) {
  const said = `distance ${distance.toFixed(3)}`;
  return similarity == null ? said : `similarity ${similarity.toFixed(1)}, ${said}`;
}

/** Show results; `href(id)` is where a tile leads, and those without a rank are no results. */
export function showResults(results, href) {
  const tiles = document.createDocumentFragment();
  const common = commonOf(results);
  results.forEach((result, position) => {
    const tile = tileOf(result, position, href(result.id));
    tile.querySelector(".folder").textContent = shortFolder(result.path, common);
    tiles.append(tile);
  });
  grid.replaceChildren(tiles);
  grid.removeAttribute("aria-busy");
}

function tileOf(result, position, address) {
  const tile = template.content.firstElementChild.cloneNode(true);
  const part = (name) => tile.querySelector(name);
  const name = nameOf(result.path);
  const link = part("a");
  link.href = address;
  link.dataset.id = result.id;
  link.title = result.path;
  const image = part("img");
  if (position < EAGER) image.loading = "eager";
  image.alt = `Search on from ${name}`;
  image.addEventListener("error", () => replaceLost(image, name), { once: true });
  showImage(image, thumbnail(result.id, 256));
  part(".name").textContent = name;
  const look = part(".look");
  look.dataset.position = position;
  look.setAttribute("aria-label", `Compare ${name} with the query`);
  const [more, less] = tile.querySelectorAll(".steer button");
  more.dataset.weight = 1;
  less.dataset.weight = MINUS;
  more.setAttribute("aria-label", `More like ${name}, too`);
  less.setAttribute("aria-label", `Less like ${name}`);
  if (result.rank === undefined) {
    tile.classList.add("plain");
    look.remove();
    part(".steer").remove();
    return tile;
  }
  part(".rank").textContent = result.rank;
  part(".distance").textContent = `distance ${result.distance.toFixed(2)}`;
  if (result.similarity == null) part(".similarity").remove();
  else part(".similarity").textContent = result.similarity.toFixed(1);
  return tile;
}

function replaceLost(image, name) {
  const lost = document.createElement("span");
  lost.className = "missing";
  lost.textContent = `${name} cannot be shown: its file is gone or no image.`;
  image.replaceWith(lost);
}

const links = () => [...grid.querySelectorAll("a.frame")];

function columns(all) {
  const top = all[0]?.getBoundingClientRect().top;
  const second = all.findIndex((link) => link.getBoundingClientRect().top > top + 4);
  return second < 0 ? all.length : second;
}

/** Move the focus among the tiles by an arrow; whether the key was one. */
export function moveBy(key, from) {
  const all = links();
  const at = all.indexOf(from);
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns(all), ArrowDown: columns(all) };
  const ends = { Home: 0, End: all.length - 1 };
  if (!(key in steps) && !(key in ends)) return false;
  const to = key in ends ? ends[key] : at < 0 ? 0 : at + steps[key];
  all[to]?.focus();
  all[to]?.scrollIntoView({ block: "nearest" });
  return true;
}
