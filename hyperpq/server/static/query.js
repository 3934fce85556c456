// What is asked for: nothing, an image of the index ({ id }), images that were chosen ({ files }), or
// several of both with weights ({ parts: [{ id | file, weight }] }); and how an address says it.

/** Weight of an image that results are to be less like, as that of `hyperpq query --minus`. */
export const MINUS = -0.25;
const ADDRESS = /^\d+(:-?\d*\.?\d+)?(,\d+(:-?\d*\.?\d+)?)*$/;

/** The images of a query with their weights. */
export function partsOf(query) {
  if (!query) return [];
  if (query.parts) return query.parts;
  if (query.files) return query.files.map((file) => ({ file, weight: 1 }));
  return [{ id: query.id, weight: 1 }];
}

/** The query of some images, as plain as it can be said; null of none. */
export function queryOf(parts) {
  if (!parts.length) return null;
  const isPlain = parts.every(({ weight }) => weight === 1);
  if (isPlain && parts.length === 1 && !parts[0].file) return { id: parts[0].id };
  if (isPlain && parts.every(({ file }) => file)) return { files: parts.map(({ file }) => file) };
  return { parts };
}

/** Whether a query has images that no address can hold. */
export const hasFiles = (query) => partsOf(query).some(({ file }) => file);

/** A query with one more image of the index, or with another weight for it. */
export function withImage(query, id, weight) {
  const others = partsOf(query).filter((part) => part.file || part.id !== id);
  return queryOf([...others, { id, weight }]);
}

/** Write a query into the parameters of an address. */
export function writeQuery(query, given) {
  if (!query || hasFiles(query)) return;
  if (query.id !== undefined) given.set("id", query.id);
  else given.set("parts", query.parts.map(({ id, weight }) => (weight === 1 ? id : `${id}:${weight}`)).join(","));
}

/** The query in an address: null if it has none, undefined if it has one that makes no sense. */
export function readQuery(given) {
  const id = given.get("id");
  const parts = given.get("parts");
  if (parts !== null) {
    if (!ADDRESS.test(parts)) return undefined;
    return queryOf(
      parts.split(",").map((part) => {
        const [number, weight] = part.split(":");
        return { id: Number(number), weight: Number(weight ?? 1) };
      }),
    );
  }
  if (id === null) return null;
  return /^\d+$/.test(id) ? { id: Number(id) } : undefined;
}
