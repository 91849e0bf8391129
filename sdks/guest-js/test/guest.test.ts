import assert from "node:assert/strict";
import { test } from "node:test";

import {
  answer, type Constraint, elapsed, generate, GuestError, now, Params, type Program, randomBytes, store, takeAsked,
} from "realm-guest";
import { rehearse } from "realm-guest/rehearsal";
import { toHandler } from "../src/program.ts";
import { memberOf } from "../src/raw.ts";

const one = (handle: Program[string]["handle"]): Program => ({ one: { description: "", handle } });

const answering = one((params) => {
  const asked = takeAsked(params);
  return answer(asked, asked.model.tokenize("count", false));
});

const format = (of: object): object => ({ response_format: of });
const named = (of: object): object => format({ type: "json_schema", json_schema: of });

const refusals: [string, object][] = [
  ["`max_tokens` must be from 1 to 4294967295", { max_tokens: 0 }],
  ["`seed` must be a whole number of at least 0", { seed: -1 }],
  ["`seed` must be a whole number of at least 0", { seed: 2 ** 60 }],
  ["`stop` must be a string or a list of strings", { stop: [1] }],
  ["`temperature` must be a number", { temperature: "hot" }],
  ["`logit_bias` must be an object of numbers by token ids", { logit_bias: { "01": 1 } }],
  ["unknown parameter `colour`", { colour: "red" }],
  ["`response_format` must be an object", { response_format: "text" }],
  ["`response_format.type` must be a string", format({})],
  [
    "`response_format.type` must be `text`, `json_object`, `json_schema`, `regex` or `grammar`",
    format({ type: "xml" }),
  ],
  ["`response_format.regex` must be a string", format({ type: "regex" })],
  ["unknown parameter `response_format.regex`", format({ type: "text", regex: "a" })],
  ["`response_format.json_schema` must be an object", format({ type: "json_schema" })],
  ["`response_format.json_schema.schema` must be a JSON schema", named({ schema: [] })],
  ["`response_format.json_schema.name` must be a string", named({ schema: {}, name: 1 })],
  ["`response_format.json_schema.strict` must be a boolean", named({ schema: {}, strict: "no" })],
  ["unknown parameter `response_format.json_schema.more`", named({ schema: {}, more: 1 })],
  ["params must be a JSON object", []],
];

test("parameters are read strictly", () => {
  for (const [sentence, params] of refusals) {
    assert.throws(() => rehearse(answering, "one", params), new GuestError("invalid", sentence));
  }
  const unknown = new GuestError("unknown-model", "other");
  assert.throws(() => rehearse(answering, "one", { model: "other" }), unknown);
});

test("generations of a prefix begin with it", () => {
  const forks = one((params) => {
    const { model, params: asked } = takeAsked(params);
    const prefix = model.keep(model.tokenize("one ", false), 0);
    const longer = prefix.extend(model.tokenize("two ", false));
    const said = [prefix, longer, prefix].map((each) => {
      const tokens = [...generate(each, model.tokenize("three", false), asked)].flat();
      return tokens.map((token) => token.text).join("");
    });
    return { data: [longer.length(), ...said] };
  });
  const answered = rehearse(forks, "one", {}, { answer: (prompt) => `[${prompt}]` });
  const expected = [2, "[one three]", "[one two three]", "[one three]"];
  assert.deepEqual(answered.outcome.data, expected);
});

test("the form of an answer is said in the words of the common APIs", () => {
  const taking = one((params) => ({ data: takeAsked(params).params.constraint }));
  const check = (response_format: object | null, constraint: Constraint | null): void => {
    const said = rehearse(taking, "one", { response_format });
    assert.deepEqual(said.outcome.data, constraint);
  };
  check(null, null);
  check({ type: "text" }, null);
  check({ type: "json_object" }, { tag: "json-object" });
  check({ type: "regex", regex: "a+" }, { tag: "regex", val: "a+" });
  check({ type: "grammar", grammar: 'start: "a"' }, { tag: "grammar", val: 'start: "a"' });
});

test("a schema is handed on as it was sent, whatever its keys are", () => {
  const schema = '{"properties": {"b": {}, "1": {}, "a": {"maximum": 1.0}}, "enum": ["\\"}", 1e400]}';
  for (const sent of [schema, "true"]) {
    const named = `{"name": "it", "description": null, "strict": false, "schema" : ${sent} }`;
    const json = `{"a": "{", "response_format": {"json_schema": ${named}, "type": "json_schema"}}`;
    const constraint = new Params(json).constraint("response_format");
    assert.deepEqual(constraint, { tag: "json-schema", val: sent });
  }
});

test("a member of JSON text is the last of its name and of no object within", () => {
  assert.equal(memberOf('{"a": {"b": 1}, "b\\"": 2, "\\u0062" : [3, "]"] , "b": 4 }', "b"), "4");
  assert.equal(memberOf('{"a": {"b": 1}, "\\u0062" : [3, "]"] }', "b"), '[3, "]"]');
  assert.equal(memberOf(' { } ', "b"), undefined);
});

test("what nobody serves is an unknown function, whatever objects have", () => {
  for (const name of ["other", "toString", "__proto__"]) {
    const unknown = new GuestError("unknown-function", name);
    assert.throws(() => rehearse(answering, name, {}), unknown);
  }
});

test("an answer streams and ends as its parameters say", () => {
  const stage = { answer: () => "one two three four" };
  const check = (params: object, text: string, finish: string): void => {
    const said = rehearse(answering, "one", params, stage);
    assert.deepEqual([said.text, said.outcome.finish], [text, finish]);
  };
  check({}, "one two three four", "stop");
  check({ max_tokens: 2 }, "one two ", "length");
  check({ stop: " three" }, "one two", "stop");
});

test("an exception fails the program with its words, and a refusal stays what it is", () => {
  const ending = (thrown: unknown): unknown => {
    const handler = toHandler(one(() => { throw thrown; }));
    try {
      return handler.handle({ function: "one", params: "{}" });
    } catch (told) {
      return told;
    }
  };
  assert.deepEqual(ending(new Error("no more")), { tag: "failed", val: "no more" });
  const busy = { tag: "busy", val: 5 };
  assert.deepEqual(ending(busy), busy);
  assert.deepEqual(ending(Object.assign(new Error(), { payload: busy })), busy);
});

test("what a program stores outlives its call, and time and randomness are the host's", () => {
  const keeping = one(() => {
    const before = store.get("count")?.[0] ?? 0;
    store.set("count", Uint8Array.of(before + 1));
    store.set("other", randomBytes(2));
    return { data: { before, keys: store.keys("co"), at: now() + elapsed(), gone: store.delete("x") } };
  });
  const stage = { store: new Map<string, Uint8Array>(), now: 1200 };
  const data = (): unknown => rehearse(keeping, "one", {}, stage).outcome.data;
  assert.deepEqual(data(), { before: 0, keys: ["count"], at: 1200, gone: false });
  assert.deepEqual(data(), { before: 1, keys: ["count"], at: 1200, gone: false });
  assert.deepEqual(stage.store.get("other"), Uint8Array.of(0, 1));
});
