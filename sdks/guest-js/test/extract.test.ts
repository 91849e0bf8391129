import assert from "node:assert/strict";
import { test } from "node:test";

import { rehearse } from "realm-guest/rehearsal";
import extract, { longestOf } from "../examples/extract.ts";

const text = "Ada Lovelace was born in London on 10 December 1815.";

test("each field is asked for, streamed and part of the whole", () => {
  const answers: Record<string, string> = {
    person: '{"person": "It is Ada Lovelace."}',
    place: '{"place": "Paris"}',
    year: '{"year": null}',
    date: '{"date": "10 December 1815, on',
  };
  const fields = Object.keys(answers);
  const said = rehearse(extract, "extract", { text, fields }, {
    answer: (prompt) => answers[/Which (\w+)/.exec(prompt)![1]!]!,
  });
  const facts = { person: "Ada Lovelace", place: null, year: null, date: null };
  assert.deepEqual(said.values, Object.entries(facts).map(([field, value]) => ({ field, value })));
  assert.deepEqual(said.outcome.data, facts);
});

test("a question about the text is answered as it was asked", () => {
  const params = { text, question: "Who?", response_format: { type: "regex", regex: "Ada .*" } };
  const said = rehearse(extract, "answer", params, {
    answer: (prompt) => (prompt.endsWith(`${text}\n\nWho?\n`) ? "Ada Lovelace" : prompt),
  });
  assert.equal(said.text, "Ada Lovelace");
});

test("the tenant's owner says which fields are read", () => {
  const settings = { fields: "author, title" };
  const said = rehearse(extract, "fields", {}, { settings });
  assert.deepEqual(said.outcome.data, ["author", "title"]);
});

test("only words of the text are facts", () => {
  assert.equal(longestOf("It was on 10 December 1815, in Rome", text), "on 10 December 1815");
  assert.equal(longestOf("Rome", text), null);
  assert.equal(longestOf("Lond", text), null);
  assert.equal(longestOf("", text), null);
});
