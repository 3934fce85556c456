// Groups within groups: the path to one, its typical images, and its parts.

import { imageOf, searchTile } from "./tiles.js";

const $ = (selector) => document.querySelector(selector);
const FACES = 4;
const count = (n) => `${n.toLocaleString("en")} ${n === 1 ? "image" : "images"}`;
const titleOf = ({ number, title }) => (number ? title : "All images");
let before = null;

/** Show a group by its number. */
export function showGroups({ clusters }, number) {
  const group = clusters[Number(number || 0)] ?? clusters[0];
  const trail = [];
  for (let at = group; at; at = at.parent === null ? null : clusters[at.parent]) trail.unshift(at);
  $("#trail").replaceChildren(
    ...trail.map((at) => {
      const item = document.createElement("li");
      const link = document.createElement("a");
      link.href = `#groups=${at.number}`;
      link.textContent = at.number ? at.title : "All";
      if (at === group) link.setAttribute("aria-current", "true");
      item.append(link);
      return item;
    }),
  );
  $("#groups-title").textContent = titleOf(group);
  const shares = group.labels.map(
    ({ column, value, share }) => `${column} ${value}: ${Math.round(100 * share)} %`,
  );
  $("#groups-about").textContent = [count(group.size), ...shares].join(" · ");
  $("#typical").replaceChildren(...group.representatives.map(searchTile));
  $("#parts-title").hidden = group.children.length === 0;
  $("#groups-list").replaceChildren(...group.children.map((child) => card(clusters[child])));
  $("#status").textContent = `${titleOf(group)}: ${count(group.size)}`;
  if (before !== null && before !== group.number) $("#groups-title").focus();
  before = group.number;
}

function card(group) {
  const item = document.createElement("li");
  const link = document.createElement("a");
  link.href = `#groups=${group.number}`;
  const title = document.createElement("strong");
  title.textContent = group.title;
  const about = document.createElement("span");
  about.className = "about";
  const parts = group.children.length ? `, ${group.children.length} parts` : "";
  about.textContent = count(group.size) + parts;
  const faces = document.createElement("span");
  faces.className = "faces";
  faces.append(...group.representatives.slice(0, FACES).map(({ id }) => imageOf(id, 128)));
  link.append(title, about, faces);
  item.append(link);
  return item;
}
