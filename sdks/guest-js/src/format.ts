/** What an answer keeps to, as callers say it. */

import { invalid } from "./errors.ts";
import { type Fields, nothingLeft, pop, toFields } from "./fields.ts";
import type { Constraint } from "./world.ts";

/**
 * The form of an answer in the words of the common APIs, which is at `path`. Whether it means
 * anything is the host's to say. `sent` is the text of the schema in it.
 */
export function toConstraint(
  path: string, format: unknown, sent: () => string,
): Constraint | undefined {
  const fields = toFields(format);
  if (fields === undefined) throw invalid(`\`${path}\` must be an object`);
  const constraint = ofType(path, textOf(fields, path, "type"), fields, sent);
  nothingLeft(fields, path);
  return constraint;
}

function ofType(
  path: string, type: string, fields: Fields, sent: () => string,
): Constraint | undefined {
  switch (type) {
    case "text":
      return undefined;
    case "json_object":
      return { tag: "json-object" };
    case "json_schema":
      checkSchema(`${path}.json_schema`, pop(fields, "json_schema"));
      return { tag: "json-schema", val: sent() };
    case "regex":
    case "grammar":
      return { tag: type, val: textOf(fields, path, type) };
    default: {
      const types = "`text`, `json_object`, `json_schema`, `regex` or `grammar`";
      throw invalid(`\`${path}.type\` must be ${types}`);
    }
  }
}

function checkSchema(path: string, named: unknown): void {
  const fields = toFields(named);
  if (fields === undefined) throw invalid(`\`${path}\` must be an object`);
  const schema = pop(fields, "schema");
  if (typeof schema !== "boolean" && toFields(schema) === undefined) {
    throw invalid(`\`${path}.schema\` must be a JSON schema`);
  }
  // A schema is always kept to, and what it is called is for its owner.
  for (const label of ["name", "description"]) {
    if (typeof (pop(fields, label) ?? "") !== "string") {
      throw invalid(`\`${path}.${label}\` must be a string`);
    }
  }
  if (typeof (pop(fields, "strict") ?? true) !== "boolean") {
    throw invalid(`\`${path}.strict\` must be a boolean`);
  }
  nothingLeft(fields, path);
}

function textOf(fields: Fields, path: string, name: string): string {
  const text = pop(fields, name);
  if (typeof text !== "string") throw invalid(`\`${path}.${name}\` must be a string`);
  return text;
}
