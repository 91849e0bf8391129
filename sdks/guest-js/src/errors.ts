/** Refusals as exceptions. */

import type { Refusal } from "./world.ts";

/** Why something was refused. One of the host's may be caught, or left to be the call's end. */
export class GuestError extends Error {
  readonly refusal: Refusal;

  constructor(refusal: Refusal);
  constructor(tag: Extract<Refusal, { val: string }>["tag"], text: string);
  constructor(refusal: Refusal | Extract<Refusal, { val: string }>["tag"], text?: string) {
    const whole: Refusal =
      typeof refusal === "string" ? { tag: refusal, val: text ?? "" } : refusal;
    super(sentence(whole));
    this.name = "GuestError";
    this.refusal = whole;
  }
}

/** A parameter that is missing, unknown or out of range; the sentence names it. */
export const invalid = (sentence: string): GuestError => new GuestError("invalid", sentence);

function sentence(refusal: Refusal): string {
  switch (refusal.tag) {
    case "too-long":
      return `${refusal.val.tokens} tokens are too long; ${refusal.val.tokensMax} are the most`;
    case "busy":
      return `busy for ${refusal.val} ms`;
    default:
      return refusal.val;
  }
}

/** What a thrown value says to the host. */
export function toRefusal(thrown: unknown): Refusal {
  if (thrown instanceof GuestError) return thrown.refusal;
  const refusal = refusalOf(thrown);
  if (refusal !== undefined) return refusal;
  return { tag: "failed", val: thrown instanceof Error ? thrown.message : String(thrown) };
}

/** A refusal of the host, which the toolchain throws as the payload of an exception. */
function refusalOf(thrown: unknown): Refusal | undefined {
  if (typeof thrown !== "object" || thrown === null) return undefined;
  const payload: unknown = "payload" in thrown ? thrown.payload : thrown;
  return isRefusal(payload) ? payload : undefined;
}

function isRefusal(value: unknown): value is Refusal {
  return typeof value === "object" && value !== null && "tag" in value && "val" in value;
}

/** Runs what the host may refuse, and throws its refusals as a `GuestError`. */
export function asGuestError<T>(run: () => T): T {
  try {
    return run();
  } catch (thrown) {
    const refusal = refusalOf(thrown);
    throw refusal === undefined ? thrown : new GuestError(refusal);
  }
}
