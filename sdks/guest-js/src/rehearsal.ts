/**
 * Calls a program without an agent, for tests: its models say what `answer` says, a word at a time,
 * and every word is a token. Hooks stand beside what it says; how they steer it is only told.
 */

import { GuestError, invalid } from "./errors.ts";
import type { Beside, Hooks, Steer } from "./hooks.ts";
import { setHost } from "./host.ts";
import { call, type Outcome, type Program } from "./program.ts";
import type {
  GenerateParams, Generation, Level, Model, Prefix, Summary, TokenId,
} from "./world.ts";

const CONTEXT_DEFAULT = 2048;

export interface Stage {
  /** What stands beside the program's generations. */
  hooks?: Hooks;
  /** Given the prompt; of a conversation, a line `role: content` for each message. */
  answer?(prompt: string): string;
  settings?: Record<string, string>;
  tenant?: string;
  models?: string[];
  context?: number;
  /** What the program's store holds; what it puts there is put here. */
  store?: Map<string, Uint8Array>;
  /** Milliseconds since the Unix epoch. */
  now?: number;
}

/** What became of a call. */
export interface Rehearsed {
  outcome: Outcome;
  text: string;
  pieces: string[];
  values: unknown[];
  log: [Level, string][];
  /** What hooks have said of each next token. */
  steers: Steer[];
}

/** Serves one call of a function. */
export function rehearse(
  program: Program, name: string, params: object, stage: Stage = {},
): Rehearsed {
  const pieces: string[] = [];
  const values: unknown[] = [];
  const log: [Level, string][] = [];
  const steers: Steer[] = [];
  const models = stage.models ?? ["model"];
  const stored = stage.store ?? new Map<string, Uint8Array>();
  setHost({
    listModels: () => models,
    openModel(name) {
      if (!models.includes(name)) throw new GuestError("unknown-model", name);
      return new RehearsedModel(name, stage, steers);
    },
    writeText: (text) => pieces.push(text),
    writeScored: (text) => pieces.push(text),
    writeJson: (json) => values.push(JSON.parse(json)),
    setting: (key) => stage.settings?.[key],
    tenant: () => stage.tenant ?? "default/rehearsal",
    log: (level, message) => log.push([level, message]),
    storeGet: (key) => stored.get(key),
    storeSet: (key, value) => void stored.set(key, value),
    storeDelete: (key) => stored.delete(key),
    storeKeys: (prefix, after) =>
      [...stored.keys()].filter((key) => key.startsWith(prefix) && key > (after ?? "")).sort(),
    now: () => BigInt(stage.now ?? 0),
    elapsed: () => 0n,
    randomBytes: (count) => Uint8Array.from({ length: count }, (_, at) => at % 256),
  });
  try {
    const outcome = call(program, name, JSON.stringify(params));
    return { outcome, text: pieces.join(""), pieces, values, log, steers };
  } finally {
    setHost(undefined);
  }
}

class RehearsedModel implements Model {
  readonly #name: string;
  readonly #stage: Stage;
  readonly #steers: Steer[];
  readonly #words: string[] = [];

  constructor(name: string, stage: Stage, steers: Steer[]) {
    this.#name = name;
    this.#stage = stage;
    this.#steers = steers;
  }

  get #context(): number {
    return this.#stage.context ?? CONTEXT_DEFAULT;
  }

  info() {
    const vocabulary = this.#words.length;
    const context = this.#context;
    return {
      name: this.#name, architecture: "rehearsal", context, vocabulary, hasChatTemplate: true,
    };
  }

  abilities() {
    return { generates: true, chats: true };
  }

  tokenize(text: string): TokenId[] {
    return words(text).map((word) => this.#words.push(word) - 1);
  }

  detokenize(ids: TokenId[]): Uint8Array {
    const escaped = encodeURIComponent(this.#text(ids)).match(/%..|./g) ?? [];
    return Uint8Array.from(escaped, (c) => (c.length > 1 ? parseInt(c.slice(1), 16) : c.charCodeAt(0)));
  }

  tokenizeChat(messages: { role: string; content: string }[]): TokenId[] {
    return this.tokenize(messages.map(({ role, content }) => `${role}: ${content}\n`).join(""));
  }

  generate(prompt: TokenId[], asked: GenerateParams): Generation {
    const { hooks } = this.#stage;
    const beside = hooks?.({ model: this.#name, prompt, params: asked }) ?? {};
    const params = beside.params ?? asked;
    const room = this.#context - prompt.length;
    if (room <= 0) {
      const val = { tokens: prompt.length, tokensMax: this.#context - 1 };
      throw new GuestError({ tag: "too-long", val });
    }
    const { answer } = this.#stage;
    if (answer === undefined) throw new GuestError("refused", "the rehearsal has no answers");
    const whole = params.stop.reduce((text, stop) => text.split(stop)[0]!, answer(this.#text(prompt)));
    const most = Math.min(room, params.tokensMax ?? room);
    return rehearsedGeneration(words(whole), most, prompt.length, beside, this.#steers);
  }

  keep(tokens: TokenId[]): Prefix {
    return {
      length: () => tokens.length,
      extend: (tail) => this.keep([...tokens, ...tail]),
      generate: (tail, params) => this.generate([...tokens, ...tail], params),
    };
  }

  embed(): never {
    throw new GuestError("refused", "the rehearsal has no vectors");
  }

  #text(ids: TokenId[]): string {
    return ids.map((id) => this.#words[id] ?? missing(id)).join("");
  }
}

function missing(id: TokenId): never {
  throw invalid(`there is no token ${id}`);
}

const words = (text: string): string[] => text.match(/\S*\s|\S+/g) ?? [];

function rehearsedGeneration(
  all: string[], tokensMax: number, promptTokens: number, beside: Beside, steers: Steer[],
): Generation {
  const left = all.slice(0, tokensMax);
  const usage = { promptTokens, cachedTokens: 0, completionTokens: left.length };
  const summary: Summary = { finish: left.length < all.length ? "length" : "stop", usage };
  let isEnded = false;
  const steer = (last?: TokenId): void => {
    if (beside.bias !== undefined) steers.push(beside.bias(last));
  };
  steer();
  return {
    next() {
      const word = left.shift();
      isEnded = word === undefined;
      if (word === undefined) return null;
      const verdict = beside.onToken?.(0, word) ?? { tag: "pass" };
      let text = verdict.tag === "pass" ? word : verdict.val;
      if (verdict.tag === "stop") {
        usage.completionTokens -= left.length;
        summary.finish = "stop";
        left.length = 0;
      } else if (left.length === 0) {
        text += beside.onFinish?.(summary.finish) ?? "";
      } else {
        steer(0);
      }
      return [{ id: 0, text }];
    },
    summary: () => (isEnded ? summary : null),
  };
}
