import assert from "node:assert/strict";
import { test } from "node:test";

import { GuestError, type Hooks, type Program, rewrite, stop } from "realm-guest";
import { rehearse } from "realm-guest/rehearsal";
import warden, { health, hooks } from "../examples/warden.ts";
import { toHealth } from "../src/health.ts";
import { toHooks } from "../src/hooks.ts";

const said = (settings: Record<string, string>, answer: string, params: object = {}) =>
  rehearse(warden, "generate", { prompt: "one two", ...params }, { hooks, settings, answer: () => answer });

test("a word is blotted out however its pieces fall, and counted at the end", () => {
  const { text } = said({ redact: "a b" }, "see a b and a c a b");
  assert.equal(text, "see ### and a c ### [2 blotted out]");
  assert.equal(said({}, "see a b").text, "see a b");
});

test("an answer ends before a word, and says no more", () => {
  const { text, outcome } = said({ end: "a b", redact: "see" }, "see a c and a b and more", { max_tokens: 7 });
  assert.equal(text, "### a c and ");
  assert.equal(outcome.finish, "stop");
  assert.equal(said({ end: "a b" }, "see a").text, "see a");
});

test("words are banned, or the only ones, by the tokens that begin them", () => {
  const [first, ...rest] = said({ ban: "cat" }, "a cat").steers;
  assert.deepEqual(first!.tag === "add" && first.val.map(({ by }) => by), [-100, -100]);
  assert.deepEqual(rest, [{ tag: "same" }]);
  assert.equal(said({ only: "yes no" }, "yes").steers[0]!.tag, "only");
});

test("a prompt that is too long is refused", () => {
  const refused = new GuestError("invalid", "the prompt has more than 1 tokens");
  assert.throws(() => said({ "prompt-tokens": "1" }, "no"), refused);
});

test("hooks are asked what they have, and their errors are the host's", () => {
  const request = { model: "m", prompt: [], params: {} as never };
  const stages = (of: Hooks) => toHooks(of).onRequest(request).stages;
  assert.deepEqual(stages(() => undefined), { bias: false, token: false, finish: false });
  const all = stages(() => ({ bias: () => ({ tag: "same" }), onFinish: () => "" }));
  assert.deepEqual(all, { bias: true, token: false, finish: true });
  const failing = toHooks(() => { throw new Error("no more"); });
  assert.throws(() => failing.onRequest(request), (told) => {
    assert.deepEqual(told, { tag: "failed", val: "no more" });
    return true;
  });
});

test("params of hooks stand in place of the program's, and a stop is a stop", () => {
  const program: Program = { one: warden["generate"]! };
  const stage = {
    answer: () => "one two three",
    hooks: (({ params }) => ({
      params: { ...params, tokensMax: 2 },
      onToken: (_id, text) => (text === "two " ? stop("!") : rewrite(text.toUpperCase())),
      onFinish: () => "never",
    })) satisfies Hooks,
  };
  const { text, outcome } = rehearse(program, "one", { prompt: "a" }, stage);
  assert.deepEqual([text, outcome.finish], ["ONE !", "stop"]);
});

test("a program is healthy unless it throws, and then says why", () => {
  assert.equal(toHealth(health).check(), undefined);
  const unwell = toHealth(() => { throw new Error("no dictionary"); });
  assert.throws(() => unwell.check(), (told) => told === "no dictionary");
});
