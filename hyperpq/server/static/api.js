// Requests to the server: the token, waiting while it is busy, and errors as sentences.

const KEY = "hyperpq-token";
const TRIES = 4;
const MOST_SECONDS = 10;

/** Why there is no answer, for people. `canRetry` says whether the same may work later. */
export class Problem extends Error {
  constructor(message, { status = 0, canRetry = false } = {}) {
    super(message);
    this.status = status;
    this.canRetry = canRetry;
  }
}

let askToken = null;
let asking = null;

/** `ask(wasWrong)` resolves to a token; it is called when the server demands one. */
export function onTokenNeeded(ask) {
  askToken = ask;
}

const token = () => sessionStorage.getItem(KEY);

function headers(given) {
  return token() === null ? given : { ...given, authorization: `Bearer ${token()}` };
}

// Requests that are refused together ask once.
async function renewToken(refused) {
  if (token() !== refused) return;
  asking ??= askToken(refused !== null).then((value) => sessionStorage.setItem(KEY, value));
  try {
    await asking;
  } finally {
    asking = null;
  }
}

const seconds = (count) => new Promise((resolve) => setTimeout(resolve, count * 1000));

/** The response to a request; `onWait(seconds)` is called while the server is busy. */
export async function request(path, { onWait, tries: most = TRIES, ...options } = {}) {
  for (let tries = 1; ; ) {
    const used = token();
    let response;
    try {
      response = await fetch(path, { ...options, headers: headers(options.headers ?? {}) });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Problem(
        "The server does not answer. It may have been stopped, or the connection is lost.",
        { canRetry: true },
      );
    }
    if (response.ok) return response;
    if (response.status === 401) {
      await renewToken(used);
    } else if (response.status === 503 && tries < most) {
      const wait = Math.min(Number(response.headers.get("retry-after")) || 1, MOST_SECONDS);
      onWait?.(wait);
      await seconds(wait);
      options.signal?.throwIfAborted();
      tries += 1;
    } else {
      throw new Problem(await sentence(response), {
        status: response.status,
        canRetry: response.status >= 500 || response.status === 408,
      });
    }
  }
}

async function sentence(response) {
  try {
    const { detail } = await response.json();
    return detail[0].toUpperCase() + detail.slice(1);
  } catch {
    return `The server answered with the status ${response.status}.`;
  }
}

export async function json(path, options) {
  return (await request(path, options)).json();
}

/** The answer to a search: of images (Blobs), of an id, or of parts with weights (see query.js). */
export function search(query, options, more) {
  const files = query.files ?? query.parts?.flatMap(({ file }) => file ?? []) ?? [];
  if (files.length) {
    const form = new FormData();
    for (const file of files) form.append("image", file, file.name || "image");
    if (query.parts) {
      const named = query.parts.map(({ file, id, weight }) =>
        file ? { image: files.indexOf(file), weight } : { id, weight },
      );
      form.append("parts", JSON.stringify(named));
    }
    for (const [name, value] of Object.entries(options)) form.append(name, String(value));
    return json("/search", { method: "POST", body: form, ...more });
  }
  const asked = query.parts ? { parts: query.parts } : { id: query.id };
  const body = JSON.stringify({ ...options, ...asked, exclude_self: true });
  const type = { "content-type": "application/json" };
  return json("/search", { method: "POST", headers: type, body, ...more });
}

// An <img> sends no token. So with one, images are fetched as they come near the window.
const waiting = new WeakMap();
const near = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) continue;
      near.unobserve(target);
      load(target, waiting.get(target));
    }
  },
  { rootMargin: "600px" },
);

async function load(image, path) {
  try {
    const content = await (await request(path)).blob();
    // Meanwhile it may be to show another.
    if (waiting.get(image) !== path) return;
    const address = URL.createObjectURL(content);
    image.addEventListener("load", () => URL.revokeObjectURL(address), { once: true });
    image.src = address;
  } catch {
    image.dispatchEvent(new Event("error"));
  }
}

/** Show an image of the server in an <img>. */
export function showImage(image, path) {
  waiting.set(image, path);
  if (token() === null) {
    image.src = path;
  } else {
    image.removeAttribute("src");
    near.observe(image);
  }
}

export const thumbnail = (id, size) => `/thumbnails/${id}?size=${size}`;
