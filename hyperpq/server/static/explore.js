// The page to explore a collection: its views, their addresses, and waiting for what is computed.

import { json, Problem } from "./api.js";
import { showCodewords } from "./disk.js";
import { showMap } from "./explore_map.js";
import { showGroups } from "./groups.js";
import "./token.js";

const $ = (selector) => document.querySelector(selector);
const VIEWS = { map: showMap, groups: showGroups, codewords: showCodewords };
const TITLES = { map: "Map", groups: "Groups", codewords: "Codewords" };
// Large collections take minutes.
const TRIES = 1000;
const known = new Map();

/** What the server has computed, asked for once. */
function computed(name) {
  if (!known.has(name)) {
    const asked = json(`/explore/${name}`, { tries: TRIES, onWait: () => say("The images are being grouped. This page shows them as soon as that is done.") });
    known.set(name, asked);
    asked.catch(() => known.delete(name));
  }
  return known.get(name);
}

function say(text) {
  const place = $("#problem");
  const found = document.createElement("p");
  found.textContent = text;
  place.replaceChildren(found);
  place.classList.add("waiting");
  place.hidden = false;
}

function complain(error) {
  if (!(error instanceof Problem)) console.error(error);
  say(error instanceof Problem ? error.message : "The page made a mistake.");
  const place = $("#problem");
  place.classList.remove("waiting");
  if (!error.canRetry) return;
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Try again";
  button.addEventListener("click", arrive);
  place.append(button);
}

let latest = 0;
async function arrive() {
  const own = ++latest;
  const [name, ...rest] = location.hash.slice(1).split("=");
  const view = name in VIEWS ? name : "map";
  for (const link of document.querySelectorAll(".views a")) {
    if (link.getAttribute("href") === `#${view}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${TITLES[view]} – hyperpq`;
  for (const other of Object.keys(VIEWS)) $(`#${other}-view`).hidden = other !== view;
  $("#problem").hidden = true;
  try {
    const data = await computed(view);
    if (own !== latest) return;
    $("#problem").hidden = true;
    await VIEWS[view](data, rest.join("="));
  } catch (error) {
    if (own === latest) complain(error);
  }
}

// Its address would be taken for a view.
$("#skip").addEventListener("click", (event) => {
  event.preventDefault();
  $("#views").focus();
});
window.addEventListener("hashchange", arrive);
arrive();
