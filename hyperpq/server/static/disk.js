// The codewords of a subspace on a disk, and the images that use one of them.

import { json } from "./api.js";
import { searchTile } from "./tiles.js";

const $ = (selector) => document.querySelector(selector);
const SVG = "http://www.w3.org/2000/svg";
const LARGEST = 0.055;
const SMALLEST = 0.012;
const IMAGES = 60;
let drawn = null;
let asked = "";

/** Show a subspace and, with "m,codeword", the images of a codeword. */
export async function showCodewords({ disks }, address) {
  const [m, codeword] = address.split(",");
  const disk = disks[Number(m || 0)] ?? disks[0];
  if (drawn !== disk) draw(disks, disk);
  for (const link of $("#disk").querySelectorAll("a")) {
    const isIt = link.dataset.codeword === codeword;
    if (isIt) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
    if (isIt) makeReachable(link);
  }
  if (codeword in disk.usage) await showImages(disk, Number(codeword));
}

function element(name, attributes) {
  const found = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) found.setAttribute(key, value);
  return found;
}

function draw(disks, disk) {
  drawn = disk;
  const choice = $("#subspace");
  choice.replaceChildren(
    ...disks.map(({ m }) => new Option(`${m + 1} of ${disks.length}`, m, false, m === disk.m)),
  );
  choice.onchange = () => (location.hash = `codewords=${choice.value}`);
  const most = Math.max(1, ...disk.usage);
  // The largest are below the others.
  const order = disk.usage.map((_, k) => k).sort((a, b) => disk.usage[b] - disk.usage[a]);
  $("#disk").replaceChildren(
    element("circle", { r: 1, class: "edge" }),
    ...ringsOf(disk).map((r) => element("circle", { r, class: "ring" })),
    ...order.map((k) => pointOf(disk, k, most)),
  );
  makeReachable($("#disk a"));
  const space = {
    lorentz: `Poincaré disk of curvature ${disk.curvature.toFixed(2)}; rings are at whole distances from the centre.`,
    sphere: `Stereographic projection of a sphere of curvature ${disk.curvature.toFixed(2)}.`,
    euclidean: "Flat space.",
  }[disk.geometry];
  $("#disk-about").textContent =
    `${space} ${disk.used} of ${disk.usage.length} codewords are used, ${disk.entropy.toFixed(2)} bits. ` +
    `Distances to the centre are exact; the angles show ${Math.round(100 * disk.shown)} % of the variance.`;
}

function ringsOf({ geometry, curvature, distances }) {
  if (geometry !== "lorentz") return [];
  const most = Math.min(8, Math.floor(Math.max(...distances)) + 1);
  return Array.from({ length: most }, (_, i) => Math.tanh((Math.sqrt(-curvature) * (i + 1)) / 2));
}

function pointOf(disk, k, most) {
  const [x, y] = disk.positions[k];
  const link = element("a", { href: `#codewords=${disk.m},${k}`, tabindex: -1 });
  link.dataset.codeword = k;
  const usage = disk.usage[k];
  if (!usage) link.classList.add("unused");
  const text = `Codeword ${k}: ${usage.toLocaleString("en")} ${usage === 1 ? "image" : "images"}, distance ${disk.distances[k].toFixed(2)}`;
  link.setAttribute("aria-label", text);
  const title = element("title", {});
  title.textContent = text;
  const radius = Math.max(SMALLEST, LARGEST * Math.sqrt(usage / most));
  link.append(title, element("circle", { cx: x, cy: -y, r: radius }));
  return link;
}

// One codeword can be reached by Tab, and arrows move from it.
function makeReachable(link) {
  for (const other of $("#disk").querySelectorAll('a[tabindex="0"]')) other.setAttribute("tabindex", -1);
  link?.setAttribute("tabindex", 0);
}

$("#disk").addEventListener("keydown", (event) => {
  const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
  const all = [...$("#disk").querySelectorAll("a")];
  const ends = { Home: 0, End: all.length - 1 };
  const at = all.indexOf(event.target.closest("a"));
  if (at < 0 || !(event.key in steps || event.key in ends)) return;
  event.preventDefault();
  const to = event.key in ends ? ends[event.key] : (at + steps[event.key] + all.length) % all.length;
  makeReachable(all[to]);
  all[to].focus();
});

async function showImages(disk, codeword) {
  const own = `${disk.m}/${codeword}`;
  asked = own;
  const images = await json(`/explore/codewords/${own}?n=${IMAGES}`);
  if (asked !== own) return;
  const used = disk.usage[codeword].toLocaleString("en");
  $("#codeword-title").textContent = `Codeword ${codeword} of subspace ${disk.m + 1}`;
  $("#codeword-about").textContent =
    images.length < disk.usage[codeword]
      ? `${used} images use it; the first ${images.length} are shown.`
      : `${used} ${used === "1" ? "image uses" : "images use"} it.`;
  $("#codeword-images").replaceChildren(...images.map(searchTile));
  $("#status").textContent = `${$("#codeword-title").textContent}: ${$("#codeword-about").textContent}`;
}
