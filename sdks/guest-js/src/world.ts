/** The words of `proto/wit`, as the toolchain spells them in JavaScript. */

/** A token's number in its model's vocabulary. */
export type TokenId = number;

/** Why an answer ended. */
export type Finish = "stop" | "length";

/** A token and how likely the model itself found it. */
export interface ScoredToken {
  id: TokenId;
  /** What it is in a text; these need not be whole characters. */
  bytes: Uint8Array;
  logprob: number;
}

/** How likely a token was, and which ones were likeliest in its place. */
export interface Logprobs {
  chosen: ScoredToken;
  /** The likeliest first. */
  top: ScoredToken[];
}

/** A token of an answer. */
export interface Token {
  id: TokenId;
  /** Whole characters only: empty while one, or a possible stop string, is incomplete. */
  text: string;
  logprobs?: Logprobs | null;
}

/** One message of a conversation. */
export interface Message {
  role: string;
  content: string;
}

/** What a generation cost, in tokens. */
export interface Usage {
  promptTokens: number;
  cachedTokens: number;
  completionTokens: number;
}

/** How a generation ended. */
export interface Summary {
  finish: Finish;
  usage: Usage;
}

/** What a model is. */
export interface Info {
  name: string;
  architecture: string;
  /** Tokens that prompt and answer may have together. */
  context: number;
  vocabulary: number;
  hasChatTemplate: boolean;
}

/** What a model makes of texts. */
export interface EmbedInfo {
  dimensions: number;
  tokensMax: number;
  shortens: boolean;
}

/** What a model can be asked for. */
export interface Abilities {
  generates: boolean;
  chats: boolean;
  embeds?: EmbedInfo | null;
}

/** How the next token is chosen. */
export interface Sampling {
  /** 0 is greedy. */
  temperature: number;
  topK: number;
  topP: number;
  minP: number;
  typicalP: number;
  repetitionPenalty: number;
  frequencyPenalty: number;
  presencePenalty: number;
  /** Makes an answer repeatable; none draws one. */
  seed: number | null;
}

/** What is added to the logit of a token: -100 bans it, 100 leaves nothing else. */
export interface Bias {
  id: TokenId;
  by: number;
}

/** What an answer keeps to; it ends as soon as it is whole. */
export type Constraint =
  /** One JSON object, whatever is in it. */
  | { tag: "json-object" }
  /** A JSON schema as JSON text, a regular expression, or a grammar in Lark's notation. */
  | { tag: "json-schema" | "regex" | "grammar"; val: string };

/** How an answer is generated. */
export interface GenerateParams {
  sampling: Sampling;
  bias: Bias[];
  /** How many of the likeliest tokens to tell with each; none tells nothing. */
  logprobs: number | null;
  /** None for as many as the context holds. */
  tokensMax: number | null;
  /** The text ends before the first of these. */
  stop: string[];
  /** None where anything may be said. */
  constraint: Constraint | null;
  /** Of the prompt, how many tokens from the first on are public in the tenant's share group. */
  sharedTokens: number;
}

/** A text to embed. */
export type Text = { tag: "words"; val: string } | { tag: "tokens"; val: TokenId[] };

/** How vectors are made. */
export interface EmbedParams {
  /** None for all there are. */
  dimensions: number | null;
  normalize: boolean;
}

/** What became of texts, in their order. */
export interface Embedded {
  vectors: number[][];
  tokens: number[];
}

/** Why something was refused. */
export type Refusal =
  | {
      tag: "unknown-function" | "unknown-model" | "invalid" | "model-not-ready" | "refused" | "failed";
      val: string;
    }
  | { tag: "too-long"; val: { tokens: number; tokensMax: number } }
  | { tag: "busy"; val: number };

/** A loaded model. Opening one copies nothing. */
export interface Model {
  info(): Info;
  /**
   * With `special`, text that spells a control token becomes that token: never set it for text
   * that came from a client.
   */
  tokenize(text: string, special: boolean): TokenId[];
  detokenize(ids: TokenId[]): Uint8Array;
  /** Puts a conversation through the model's own chat template. */
  tokenizeChat(messages: Message[]): TokenId[];
  /** Begins a generation, which runs in the shared batch at the tenant's share. */
  generate(prompt: TokenId[], params: GenerateParams): Generation;
  abilities(): Abilities;
  embed(texts: Text[], params: EmbedParams): Embedded;
  /**
   * Computes tokens that generations are to begin with, and keeps them: of what the cache holds for
   * the tenant and nobody uses, they go last. `sharedTokens` is as in `GenerateParams`.
   */
  keep(tokens: TokenId[], sharedTokens: number): Prefix;
}

/** What many generations begin with, computed once. */
export interface Prefix {
  /** How many tokens it has. */
  length(): number;
  /** A longer one, which counts only what is behind this one. This one stays what it is. */
  extend(tail: TokenId[]): Prefix;
  /**
   * Begins a generation of the prefix with `tail` behind it. What of it is shared is what was so when
   * it was kept, whatever `params` say.
   */
  generate(tail: TokenId[], params: GenerateParams): Generation;
}

/** A running generation. */
export interface Generation {
  /** Waits for the next token and gives it with those that are there already; none at the end. */
  next(): Token[] | null | undefined;
  /** None until `next` has given none. */
  summary(): Summary | null | undefined;
}

export type Level = "debug" | "info" | "warn" | "error";
