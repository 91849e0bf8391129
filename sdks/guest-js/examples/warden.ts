/**
 * A program with hooks: `generate` never says the word that the setting `ban` names, blots out the
 * one that `redact` names and says at the end how often that was, ends before the one that `end`
 * names, says nothing but the words of `only`, and refuses prompts that are longer than
 * `prompt-tokens` allows. It takes no call before it has shown that it blots out.
 */

import {
  add, answer, type Beside, type HookRequest, invalid, only, openModel, type Program, rewrite, SAME,
  setting, type Steer, stop, takeAsked, type TokenId, type Verdict,
} from "realm-guest";

const program: Program = {
  generate: {
    description: "Goes on with a text, within what the tenant's settings let it say.",
    params: { type: "object", required: ["prompt"], properties: { prompt: { type: "string" } } },
    streams: true,
    handle(params) {
      const prompt = params.requiredText("prompt");
      const asked = takeAsked(params);
      return answer(asked, asked.model.tokenize(prompt, false));
    },
  },
};

export default program;

export function hooks({ model, prompt }: HookRequest): Beside {
  const most = setting("prompt-tokens");
  if (most !== undefined && prompt.length > Number(most)) {
    throw invalid(`the prompt has more than ${most} tokens`);
  }
  const beside: Beside = {};
  const steer = steerOf(model);
  if (steer !== undefined) beside.bias = (last) => (last === undefined ? steer : SAME);
  const [redacted, end] = [setting("redact") || undefined, setting("end") || undefined];
  if (redacted !== undefined || end !== undefined) {
    const watch = new Watch(redacted, end);
    beside.onToken = (_id, text) => watch.take(text);
    beside.onFinish = () => watch.rest();
  }
  return beside;
}

/** What holds from the first token on. */
function steerOf(model: string): Steer | undefined {
  const [ban, words] = [setting("ban"), setting("only")];
  if (words !== undefined) return only(words.split(" ").flatMap((word) => beginnings(model, word)));
  if (ban !== undefined) return add(beginnings(model, ban).map((id) => ({ id, by: -100 })));
  return undefined;
}

/** The tokens that a word may begin with, within a text and at its start. */
function beginnings(name: string, word: string): TokenId[] {
  const model = openModel(name);
  return [...new Set([word, ` ${word}`].flatMap((text) => model.tokenize(text, false).slice(0, 1)))];
}

/** The text of one answer, which is let out as soon as it is certain. */
class Watch {
  /** May yet turn out to be the beginning of a word that is watched for. */
  held = "";
  blots = 0;

  constructor(readonly redacted: string | undefined, readonly end: string | undefined) {}

  take(text: string): Verdict {
    this.held += text;
    const at = this.end === undefined ? -1 : this.held.indexOf(this.end);
    if (at < 0) return rewrite(this.release());
    this.held = this.held.slice(0, at);
    return stop(this.release() + this.held);
  }

  /** What may be told of the text that is held. */
  release(): string {
    const word = this.redacted;
    if (word !== undefined) {
      const parts = this.held.split(word);
      this.blots += parts.length - 1;
      this.held = parts.join("#".repeat(word.length));
    }
    const isOpen = (rest: string): boolean =>
      [word, this.end].some((watched) => watched?.startsWith(rest) === true);
    let certain = 0;
    while (certain < this.held.length && !isOpen(this.held.slice(certain))) certain += 1;
    const told = this.held.slice(0, certain);
    this.held = this.held.slice(certain);
    return told;
  }

  rest(): string {
    return this.redacted === undefined ? this.held : `${this.held} [${this.blots} blotted out]`;
  }
}

/** A warden that lets its word out is worse than none. */
export function health(): void {
  const watch = new Watch("secret", undefined);
  let told = "";
  for (const piece of ["a se", "cre", "t and a sec", ""]) {
    const verdict = watch.take(piece);
    if (verdict.tag === "rewrite") told += verdict.val;
  }
  told += watch.held;
  if (told !== "a ###### and a sec") throw new Error(`it makes \`${told}\` of a word that comes in pieces`);
}
