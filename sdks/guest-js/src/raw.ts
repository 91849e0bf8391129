/** JSON as it was sent: parsed, an object has its keys that look like numbers before all others. */

/**
 * The text of a member of an object; of several of that name the last, as everywhere.
 *
 * `object` is JSON that has been parsed before.
 */
export function memberOf(object: string, name: string): string | undefined {
  let found: string | undefined;
  let [key, start, depth]: [unknown, number, number] = [undefined, 0, 0];
  const mark = /["[\]{}:,]/g;
  for (let next = mark.exec(object); next !== null; next = mark.exec(object)) {
    const [at, end] = [next.index, mark.lastIndex];
    switch (next[0]) {
      case '"':
        mark.lastIndex = afterString(object, end);
        break;
      case "{":
      case "[":
        depth += 1;
        if (depth === 1) start = end;
        break;
      case ":":
        if (depth > 1) break;
        key = JSON.parse(object.slice(start, at));
        start = end;
        break;
      default:
        if (depth === 1) {
          if (key === name) found = object.slice(start, at).trim();
          start = end;
        }
        if (next[0] !== ",") depth -= 1;
    }
  }
  return found;
}

/** Where the string ends whose first character is at `start`. */
function afterString(json: string, start: number): number {
  const mark = /\\.|"/g;
  mark.lastIndex = start;
  for (let next = mark.exec(json); next !== null; next = mark.exec(json)) {
    if (next[0] === '"') return mark.lastIndex;
  }
  return json.length;
}
