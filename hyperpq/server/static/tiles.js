// Small images that lead to a search.

import { showImage, thumbnail } from "./api.js";
import { nameOf } from "./results.js";

/** An image of the index; without a name it is an ornament. */
export function imageOf(id, size, name = "") {
  const image = new Image();
  image.alt = name;
  image.loading = "lazy";
  image.addEventListener("error", () => image.replaceWith(name), { once: true });
  showImage(image, thumbnail(id, size));
  return image;
}

/** An item of a list: an image that leads to what is like it. */
export function searchTile({ id, path }) {
  const item = document.createElement("li");
  const link = document.createElement("a");
  link.href = `/?id=${id}`;
  link.title = path;
  link.append(imageOf(id, 128, `Search on from ${nameOf(path)}`));
  item.append(link);
  return item;
}
