import assert from "node:assert/strict";
import { test } from "node:test";

import { answer, GuestError, type Program, takeAsked } from "realm-guest";
import { rehearse } from "realm-guest/rehearsal";
import { toHandler } from "../src/program.ts";

const one = (handle: Program[string]["handle"]): Program => ({ one: { description: "", handle } });

const answering = one((params) => {
  const asked = takeAsked(params);
  return answer(asked, asked.model.tokenize("count", false));
});

const refusals: [string, object][] = [
  ["`max_tokens` must be from 1 to 4294967295", { max_tokens: 0 }],
  ["`seed` must be a whole number of at least 0", { seed: -1 }],
  ["`seed` must be a whole number of at least 0", { seed: 2 ** 60 }],
  ["`stop` must be a string or a list of strings", { stop: [1] }],
  ["`temperature` must be a number", { temperature: "hot" }],
  ["`logit_bias` must be an object of numbers by token ids", { logit_bias: { "01": 1 } }],
  ["unknown parameter `colour`", { colour: "red" }],
  ["params must be a JSON object", []],
];

test("parameters are read strictly", () => {
  for (const [sentence, params] of refusals) {
    assert.throws(() => rehearse(answering, "one", params), new GuestError("invalid", sentence));
  }
  const unknown = new GuestError("unknown-model", "other");
  assert.throws(() => rehearse(answering, "one", { model: "other" }), unknown);
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
