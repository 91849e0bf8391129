/** Strict reading of a function's parameters: each is taken by name, what is left is refused. */

import { invalid } from "./errors.ts";
import { type Fields, nothingLeft, pop, toFields } from "./fields.ts";
import { toConstraint } from "./format.ts";
import { memberOf } from "./raw.ts";
import type { Bias, Constraint, Message } from "./world.ts";

const U32_MAX = 0xffff_ffff;

/** The roles that chat templates know. */
const ROLES = ["system", "user", "assistant", "tool"];

/** A function's parameters. Take what the function knows, then call `finish`. */
export class Params {
  readonly #fields: Fields;
  /** As they were sent. */
  readonly #json: string;

  constructor(json: string) {
    const fields = toFields(parse(json));
    if (fields === undefined) throw invalid("params must be a JSON object");
    this.#fields = fields;
    this.#json = json;
  }

  /** The parameter of that name, if it is there and not `null`. */
  take(name: string): unknown {
    return pop(this.#fields, name) ?? undefined;
  }

  text(name: string): string | undefined {
    return this.#of(name, "a string", (value) => typeof value === "string");
  }

  requiredText(name: string): string {
    const text = this.text(name);
    if (text === undefined) throw invalid(`\`${name}\` is missing`);
    return text;
  }

  flag(name: string): boolean | undefined {
    return this.#of(name, "true or false", (value) => typeof value === "boolean");
  }

  /** A number. Its range is the host's to check. */
  number(name: string): number | undefined {
    return this.#of(name, "a number", (value) => typeof value === "number");
  }

  /** A whole number from `min` to `max`, which is no more than JavaScript counts exactly. */
  whole(name: string, min = 0, max = Number.MAX_SAFE_INTEGER): number | undefined {
    const number = this.#of<number>(name, "a whole number of at least 0", isWhole);
    if (number !== undefined && (number < min || number > max)) {
      throw invalid(`\`${name}\` must be from ${min} to ${max}`);
    }
    return number;
  }

  /** A whole number from `min` to the most that 32 bits hold. */
  whole32(name: string, min: number): number | undefined {
    return this.whole(name, min, U32_MAX);
  }

  /** One text or a list of texts. */
  texts(name: string): string[] {
    const value = this.take(name) ?? [];
    const texts: unknown[] = Array.isArray(value) ? value : [value];
    if (!texts.every((text) => typeof text === "string")) {
      throw invalid(`\`${name}\` must be a string or a list of strings`);
    }
    return texts;
  }

  /** What is added to the logits of tokens: an object of numbers, by the tokens' ids. */
  biases(name: string): Bias[] {
    const expected = `\`${name}\` must be an object of numbers by token ids`;
    const value = this.take(name);
    if (value === undefined) return [];
    const fields = toFields(value);
    if (fields === undefined) throw invalid(expected);
    return [...fields].map(([key, by]) => {
      const id = Number(key);
      if (!isWhole(id) || id > U32_MAX || String(id) !== key || typeof by !== "number") {
        throw invalid(expected);
      }
      return { id, by };
    });
  }

  /**
   * The form of an answer: an object whose `type` is `text`, `json_object`, `json_schema`, `regex`
   * or `grammar`, with what it needs beside it. Whether that means anything is the host's to say.
   */
  constraint(name: string): Constraint | undefined {
    const format = this.take(name);
    if (format === undefined) return undefined;
    const sent = () => [name, "json_schema", "schema"].reduce(memberIn, this.#json);
    return toConstraint(name, format, sent);
  }

  /** The conversation in `messages`, which must be there and not be empty. */
  messages(): Message[] {
    const value = this.take("messages");
    if (value === undefined) throw invalid("`messages` is missing");
    if (!Array.isArray(value) || value.length === 0) {
      throw invalid("`messages` must be a list of at least one message");
    }
    return value.map((each: unknown, at) => message(`messages[${at}]`, each));
  }

  /** Refuses whatever has not been taken. */
  finish(): void {
    for (const name of this.#fields.keys()) throw invalid(`unknown parameter \`${name}\``);
  }

  #of<T>(name: string, expected: string, is: (value: unknown) => boolean): T | undefined {
    const value = this.take(name);
    if (value === undefined) return undefined;
    if (!is(value)) throw invalid(`\`${name}\` must be ${expected}`);
    return value as T;
  }
}

const isWhole = (value: unknown): boolean => Number.isSafeInteger(value) && Number(value) >= 0;

const memberIn = (object: string, name: string): string => memberOf(object, name) ?? "";

function parse(json: string): unknown {
  try {
    return JSON.parse(json);
  } catch {
    return undefined;
  }
}

function message(name: string, value: unknown): Message {
  const fields = toFields(value);
  if (fields === undefined) throw invalid(`\`${name}\` must be an object`);
  const text = (field: string): string => {
    const value = pop(fields, field);
    if (typeof value === "string") return value;
    throw invalid(`\`${name}.${field}\` ${value === undefined ? "is missing" : "must be a string"}`);
  };
  const [role, content] = [text("role"), text("content")];
  if (!ROLES.includes(role)) {
    throw invalid(`\`${name}.role\` must be one of ${ROLES.join(", ")}`);
  }
  nothingLeft(fields, name);
  return { role, content };
}
