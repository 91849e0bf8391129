/** From a prompt to a streamed answer. */

import { asGuestError, GuestError } from "./errors.ts";
import { openModel, writeScored, writeText } from "./host.ts";
import type { Params } from "./params.ts";
import type {
  GenerateParams, Generation, Logprobs, Message, Model, Prefix, Sampling, Summary, Token, TokenId,
} from "./world.ts";

/** Tokens of an answer when the caller does not say. */
const TOKENS_DEFAULT = 512;

/** Sampling when the caller does not say: lively, without the long tail. */
const TEMPERATURE_DEFAULT = 0.7;
const TOP_P_DEFAULT = 0.95;

/** Takes the likeliest token every time. */
export const GREEDY: Sampling = {
  temperature: 0,
  topK: 0,
  topP: 1,
  minP: 0,
  typicalP: 1,
  repetitionPenalty: 1,
  frequencyPenalty: 0,
  presencePenalty: 0,
  seed: null,
};

/** What every function that answers takes besides its prompt. */
export interface Asked {
  model: Model;
  params: GenerateParams;
}

/**
 * Takes `model`, `max_tokens`, `stop`, `logprobs`, `response_format` and everything that says how
 * tokens are chosen, and refuses what is left.
 */
export function takeAsked(rest: Params): Asked {
  const name = rest.text("model");
  const params = {
    sampling: takeSampling(rest),
    bias: rest.biases("logit_bias"),
    logprobs: rest.whole32("logprobs", 0) ?? null,
    tokensMax: rest.whole32("max_tokens", 1) ?? TOKENS_DEFAULT,
    stop: rest.texts("stop"),
    constraint: rest.constraint("response_format") ?? null,
    sharedTokens: 0,
  };
  rest.finish();
  return { model: openModel(name), params };
}

function takeSampling(rest: Params): Sampling {
  return {
    temperature: rest.number("temperature") ?? TEMPERATURE_DEFAULT,
    topK: rest.whole32("top_k", 0) ?? GREEDY.topK,
    topP: rest.number("top_p") ?? TOP_P_DEFAULT,
    minP: rest.number("min_p") ?? GREEDY.minP,
    typicalP: rest.number("typical_p") ?? GREEDY.typicalP,
    repetitionPenalty: rest.number("repetition_penalty") ?? GREEDY.repetitionPenalty,
    frequencyPenalty: rest.number("frequency_penalty") ?? GREEDY.frequencyPenalty,
    presencePenalty: rest.number("presence_penalty") ?? GREEDY.presencePenalty,
    seed: rest.whole("seed") ?? null,
  };
}

/**
 * The tokens of an answer, as many at a time as are there; its summary is the return value. Of a
 * prefix, `prompt` is what is behind it.
 */
export function* generate(
  of: Model | Prefix, prompt: TokenId[], params: GenerateParams,
): Generator<Token[], Summary, void> {
  const generation: Generation = asGuestError(() => of.generate(prompt, params));
  for (;;) {
    const tokens = asGuestError(() => generation.next());
    if (tokens == null) break;
    yield tokens;
  }
  const summary = generation.summary();
  if (summary == null) throw new GuestError("failed", "no summary");
  return summary;
}

/** Generates an answer and streams what `change` makes of each piece of it. */
export function answer(
  { model, params }: Asked, prompt: TokenId[], change: (text: string) => string = (text) => text,
): Summary {
  const tokens = generate(model, prompt, params);
  let scored: Logprobs[] = [];
  const write = (text: string): void => {
    if (scored.length > 0) writeScored(text, scored);
    else writeText(text);
    scored = [];
  };
  for (;;) {
    const step = tokens.next();
    if (step.done) {
      // What is left are of what never became text: a stop string, or a part of a character.
      if (scored.length > 0) write("");
      return step.value;
    }
    const text = step.value.map((token) => token.text).join("");
    scored.push(...step.value.flatMap((token) => token.logprobs ?? []));
    if (text !== "") write(change(text));
  }
}

/** Generates the answer to a conversation, whole, without a word to the client. */
export function ask(model: Model, messages: Message[], params: GenerateParams): string {
  const prompt = asGuestError(() => model.tokenizeChat(messages));
  let text = "";
  for (const tokens of generate(model, prompt, params)) {
    text += tokens.map((token) => token.text).join("");
  }
  return text;
}
