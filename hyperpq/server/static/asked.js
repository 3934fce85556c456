// The images that are asked for, above the results: each can be left out, and has a weight.

import { showImage, thumbnail } from "./api.js";
import { partsOf, queryOf } from "./query.js";

/** The images of a query as items of a list; `change(query)` is called with what people make of it. */
export function askedImages(query, name, change) {
  const parts = partsOf(query);
  const isAlone = parts.length === 1 && parts[0].weight === 1;
  return parts.map((part, position) => {
    const item = document.createElement("li");
    const called = part.file ? part.file.name || "pasted image" : isAlone ? name : `image ${part.id}`;
    item.append(frameOf(part, called));
    if (isAlone) return item;
    const but = (other) => queryOf(other === null ? parts.toSpliced(position, 1) : parts.with(position, other));
    item.append(
      weightOf(part, called, (weight) => change(but({ ...part, weight }))),
      removal(called, () => change(but(null))),
    );
    return item;
  });
}

/** Show an image that was chosen. */
export function showFile(image, file) {
  const address = URL.createObjectURL(file);
  for (const name of ["load", "error"]) {
    image.addEventListener(name, () => URL.revokeObjectURL(address), { once: true });
  }
  image.src = address;
}

function frameOf({ file, id }, called) {
  const frame = document.createElement("span");
  frame.className = "frame";
  const image = new Image();
  image.alt = `Query: ${called}`;
  image.addEventListener("error", () => frame.replaceChildren(lostName(called)));
  if (file) showFile(image, file);
  else showImage(image, thumbnail(id, 256));
  frame.append(image);
  return frame;
}

function lostName(name) {
  const lost = document.createElement("span");
  lost.className = "missing";
  lost.textContent = name; // such as HEIC, which many browsers cannot show
  return lost;
}

function weightOf({ weight }, called, change) {
  const field = document.createElement("input");
  field.type = "number";
  field.step = "0.25";
  field.className = "part-weight";
  field.value = weight;
  field.setAttribute("aria-label", `Weight of ${called}; below 0 for results that are less like it`);
  field.addEventListener("change", () => {
    const wanted = Number(field.value);
    if (field.value && Number.isFinite(wanted) && wanted !== 0) change(wanted);
    else field.value = weight;
  });
  return field;
}

function removal(called, remove) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "part-remove";
  button.textContent = "×";
  button.setAttribute("aria-label", `Leave ${called} out`);
  button.addEventListener("click", remove);
  return button;
}
