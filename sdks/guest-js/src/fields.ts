/** The members of a JSON object, which are taken out one after the other. */

import { invalid } from "./errors.ts";

export type Fields = Map<string, unknown>;

/** The members of what is an object. */
export function toFields(value: unknown): Fields | undefined {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return undefined;
  return new Map(Object.entries(value));
}

/** The member of that name, which is none of the object any more. */
export function pop(fields: Fields, name: string): unknown {
  const value = fields.get(name);
  fields.delete(name);
  return value;
}

/** Refuses whatever has not been taken of the object at `path`. */
export function nothingLeft(fields: Fields, path: string): void {
  for (const name of fields.keys()) throw invalid(`unknown parameter \`${path}.${name}\``);
}
