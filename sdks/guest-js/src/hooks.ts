/** What stands beside a program's own generations, token by token. */

import { toRefusal } from "./errors.ts";
import type { Bias, Finish, GenerateParams, TokenId } from "./world.ts";

/** A generation that the program is about to begin. */
export interface HookRequest {
  /** The name that the model was opened by. */
  model: string;
  prompt: TokenId[];
  params: GenerateParams;
}

/** What decides about the next token, besides the generation's own params. */
export type Steer =
  /** What was said last. */
  | { tag: "same" }
  /** At most 1024, in place of what was said last. None frees all. */
  | { tag: "add"; val: Bias[] }
  /** One of these comes next, 1 to 1024. */
  | { tag: "only"; val: TokenId[] };

/** What becomes of a token's text. */
export type Verdict =
  | { tag: "pass" }
  /** This in its place, at most 16 KiB. */
  | { tag: "rewrite"; val: string }
  /** This in its place, and the answer ends. */
  | { tag: "stop"; val: string };

export const SAME: Steer = { tag: "same" };
export const add = (biases: Bias[]): Steer => ({ tag: "add", val: biases });
export const only = (ids: TokenId[]): Steer => ({ tag: "only", val: ids });
export const PASS: Verdict = { tag: "pass" };
export const rewrite = (text: string): Verdict => ({ tag: "rewrite", val: text });
export const stop = (text: string): Verdict => ({ tag: "stop", val: text });

/** One generation's hooks. It is asked what it has, and costs nothing of what it lacks. */
export interface Beside {
  /** What the generation is begun with in place of the request's. */
  params?: GenerateParams;
  /** What decides about the next token: asked with the one before it, and first with none. */
  bias?(last: TokenId | undefined): Steer;
  /** What becomes of a token's text: whole characters, so that it may be empty. */
  onToken?(id: TokenId, text: string): Verdict;
  /** Text for the end of an answer that has ended by itself. */
  onFinish?(finish: Finish): string;
}

/**
 * Asked before each generation, in an instance of its own that knows nothing of the one which serves
 * the call, and may neither generate nor write a reply. Nothing lets the generation be; what is
 * thrown refuses it.
 */
export type Hooks = (request: HookRequest) => Beside | void;

interface Plan {
  params: GenerateParams;
  stages: { bias: boolean; token: boolean; finish: boolean };
}

/** The export `realm:tenant/hooks`. */
export interface HooksExport {
  onRequest(request: HookRequest): Plan;
  bias(last: TokenId | null | undefined): Steer;
  onToken(id: TokenId, text: string): Verdict;
  onFinish(finish: Finish): string;
}

/** Hooks as the host calls them. An instance has one generation. */
export function toHooks(hooks: Hooks): HooksExport {
  let beside: Beside = {};
  return {
    onRequest(request) {
      try {
        beside = hooks(request) ?? {};
        return { params: beside.params ?? request.params, stages: stagesOf(beside) };
      } catch (thrown) {
        // The host takes the refusal itself, not an exception around it.
        throw toRefusal(thrown);
      }
    },
    bias: (last) => beside.bias?.(last ?? undefined) ?? SAME,
    onToken: (id, text) => beside.onToken?.(id, text) ?? PASS,
    onFinish: (finish) => beside.onFinish?.(finish) ?? "",
  };
}

const stagesOf = ({ bias, onToken, onFinish }: Beside): Plan["stages"] => ({
  bias: bias !== undefined,
  token: onToken !== undefined,
  finish: onFinish !== undefined,
});
