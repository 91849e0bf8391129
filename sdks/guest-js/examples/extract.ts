/**
 * A program that reads facts out of a text: `extract` asks the model for one field after the other,
 * streams each as soon as it is known, and ends with all of them as one object. `fields` says which
 * fields the tenant's owner has set. `answer` answers a question about a text, in the form that the
 * caller asks for.
 */

import {
  answer, ask, GREEDY, type Message, type Model, openModel, type Params, type Program, setting,
  takeAsked, writeJson,
} from "realm-guest";

/** The fields of a tenant that sets none. */
const FIELDS = "person, place, date";

/** A fact is a few words; a model that goes on has lost the question. */
const CHARACTERS_MAX = 60;

/** A token has three characters or so; as many again are for braces, quotes and the field. */
const TOKENS_MAX = 40;

const fieldsOf = (text: string): string[] =>
  text.split(",").map((field) => field.trim()).filter((field) => field !== "");

function extract(params: Params) {
  const text = params.requiredText("text");
  const asked = params.texts("fields");
  const model = openModel(params.text("model"));
  params.finish();
  const fields = asked.length > 0 ? asked : fieldsOf(setting("fields") ?? FIELDS);
  const facts: Record<string, string | null> = {};
  for (const field of fields) {
    const value = read(model, text, field);
    facts[field] = value;
    writeJson({ field, value });
  }
  return { data: facts };
}

/** What the text says of a field; `null` where it has no such words, whatever the model says. */
function read(model: Model, text: string, field: string): string | null {
  const told = ask(model, about(text, `Which ${field} does this text name?`), {
    sampling: GREEDY,
    bias: [],
    logprobs: null,
    tokensMax: TOKENS_MAX,
    stop: [],
    constraint: { tag: "json-schema", val: JSON.stringify(schemaOf(field)) },
    sharedTokens: 0,
  });
  const value = valueOf(told, field);
  return typeof value === "string" ? longestOf(value, text) : null;
}

const about = (text: string, question: string): Message[] => [
  { role: "system", content: "Answer with words of the text, and with nothing else." },
  { role: "user", content: `${text}\n\n${question}` },
];

/** An object of that field alone: its name is what the model goes on from. */
const schemaOf = (field: string): object => ({
  type: "object",
  additionalProperties: false,
  required: [field],
  properties: { [field]: { type: ["string", "null"], maxLength: CHARACTERS_MAX } },
});

/** Of an answer that was cut off, there is nothing. */
function valueOf(json: string, field: string): unknown {
  try {
    return JSON.parse(json)[field];
  } catch {
    return null;
  }
}

/** The longest run of words of a value that is in the text too. */
export function longestOf(value: string, text: string): string | null {
  const words = value.split(/\s+/).map((word) => word.replace(/^[^\p{L}\p{N}]+|[^\p{L}\p{N}]+$/gu, ""));
  const within = ` ${text.replace(/[^\p{L}\p{N}]+/gu, " ")} `;
  for (let length = words.length; length > 0; length -= 1) {
    for (let start = 0; start + length <= words.length; start += 1) {
      const run = words.slice(start, start + length).join(" ");
      const plain = run.replace(/[^\p{L}\p{N}]+/gu, " ");
      if (plain !== "" && within.includes(` ${plain} `)) return run;
    }
  }
  return null;
}

const program: Program = {
  extract: {
    description: "Reads facts out of a text, streaming each as it is found.",
    params: {
      type: "object",
      additionalProperties: false,
      required: ["text"],
      properties: {
        text: { type: "string" },
        fields: { type: "array", items: { type: "string" } },
        model: { type: "string" },
      },
    },
    streams: true,
    handle: extract,
  },
  answer: {
    description: "Answers a question about a text, as `response_format` says.",
    params: {
      type: "object",
      required: ["text", "question"],
      properties: { text: { type: "string" }, question: { type: "string" } },
    },
    streams: true,
    handle(params) {
      const messages = about(params.requiredText("text"), params.requiredText("question"));
      const asked = takeAsked(params);
      return answer(asked, asked.model.tokenizeChat(messages));
    },
  },
  fields: {
    description: "The fields that are read when the caller names none.",
    handle(params) {
      params.finish();
      return { data: fieldsOf(setting("fields") ?? FIELDS) };
    },
  },
};

export default program;
