import assert from "node:assert/strict";
import { test } from "node:test";

import { rehearse } from "realm-guest/rehearsal";
import extract, { longestOf } from "../examples/extract.ts";

const text = "Ada Lovelace was born in London on 10 December 1815.";

test("each field is asked for, streamed and part of the whole", () => {
  const answers: Record<string, string> = { person: "It is Ada Lovelace.", place: "Paris" };
  const said = rehearse(extract, "extract", { text, fields: ["person", "place"] }, {
    answer: (prompt) => answers[/Which (\w+)/.exec(prompt)![1]!]!,
  });
  assert.deepEqual(said.values, [
    { field: "person", value: "Ada Lovelace" },
    { field: "place", value: null },
  ]);
  assert.deepEqual(said.outcome.data, { person: "Ada Lovelace", place: null });
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
