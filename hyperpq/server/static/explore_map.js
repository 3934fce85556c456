// The map of `hyperpq map` with images of the server, which are fetched when they come in sight.

import { request, showImage, thumbnail } from "./api.js";
import { imageOf } from "./tiles.js";

const SIDE = 96;
const KEPT = 1500;
const WAITING = 300;
const AT_ONCE = 8;
// Images by ids, those that were drawn last at the end; null where there is none.
const known = new Map();
// What is asked for last is in sight.
let waiting = [];
let running = 0;
let redraw = () => {};
let isShown = false;

function next() {
  while (running < AT_ONCE && waiting.length) {
    const id = waiting.pop();
    running += 1;
    request(thumbnail(id, SIDE))
      .then((response) => response.blob())
      .then(createImageBitmap)
      .catch(() => null)
      .then((bitmap) => {
        running -= 1;
        known.set(id, bitmap);
        for (const [old, image] of known) {
          if (known.size <= KEPT) break;
          image?.close();
          known.delete(old);
        }
        redraw();
        next();
      });
  }
}

/** Draw an image, cut to the shape of its place; whether it is there. */
function draw(target, id, x, y, wide, high) {
  const bitmap = known.get(id);
  if (bitmap === undefined) {
    if (!waiting.includes(id)) waiting = [...waiting.slice(-WAITING), id];
    next();
    return false;
  }
  if (bitmap === null) return false;
  known.delete(id);
  known.set(id, bitmap);
  const scale = Math.min(bitmap.width / wide, bitmap.height / high);
  const [w, h] = [wide * scale, high * scale];
  target.drawImage(bitmap, (bitmap.width - w) / 2, (bitmap.height - h) / 2, w, h, x, y, wide, high);
  return true;
}

function show(image, link, id) {
  link.textContent = "Search on from this";
  link.href = `/?id=${id}`;
  link.hidden = false;
  image.hidden = false;
  showImage(image, thumbnail(id, 512));
}

/** Show the map; the script of maps reads its data from an element of the page. */
export async function showMap(data) {
  if (isShown) return;
  isShown = true;
  window.mapImages = {
    draw,
    show,
    thumbnail: (id) => imageOf(id, SIDE),
    onReady: (again) => (redraw = again),
  };
  const place = document.createElement("script");
  place.type = "application/json";
  place.id = "data";
  place.textContent = JSON.stringify(data);
  const script = document.createElement("script");
  script.src = "/static/map.js";
  document.body.append(place, script);
}
