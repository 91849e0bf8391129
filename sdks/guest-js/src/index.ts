/**
 * Write a tenant's program for Realm in TypeScript or JavaScript.
 *
 * A program's module has a `Program` as its default export: functions by their names. It sees its
 * own tenant's models, settings and client, and nothing else of the machine. Where it has an export
 * `hooks` that is `Hooks`, these stand beside its own generations, and an export `health` is asked
 * whether it works before it takes a call. `build.mjs` makes a component of it.
 */

export { type Asked, answer, ask, generate, GREEDY, takeAsked } from "./answer.ts";
export { asGuestError, GuestError, invalid } from "./errors.ts";
export {
  elapsed, listModels, log, now, openModel, randomBytes, setting, store, tenant, writeJson,
  writeScored, writeText,
} from "./host.ts";
export type { Health } from "./health.ts";
export {
  add, type Beside, type HookRequest, type Hooks, only, PASS, rewrite, SAME, type Steer, stop,
  type Verdict,
} from "./hooks.ts";
export { Params } from "./params.ts";
export type { FunctionOf, Outcome, Program } from "./program.ts";
export type * from "./world.ts";
