/** What a program reaches. An agent is behind it, or a rehearsal. */

import { asGuestError, GuestError } from "./errors.ts";
import type { Level, Logprobs, Model } from "./world.ts";

export interface Host {
  listModels(): string[];
  openModel(name: string): Model;
  writeText(text: string): void;
  writeScored(text: string, logprobs: Logprobs[]): void;
  writeJson(json: string): void;
  setting(key: string): string | null | undefined;
  tenant(): string;
  log(level: Level, message: string): void;
  storeGet(key: string): Uint8Array | null | undefined;
  storeSet(key: string, value: Uint8Array): void;
  storeDelete(key: string): boolean;
  storeKeys(prefix: string, after: string | null): string[];
  now(): bigint;
  elapsed(): bigint;
  randomBytes(count: number): Uint8Array;
}

let host: Host | undefined;

/** Sets what stands behind the functions of this module. */
export function setHost(to: Host | undefined): void {
  host = to;
}

function outside(): Host {
  if (host === undefined) throw new GuestError("failed", "the host was called outside a call");
  return host;
}

/** The names of the tenant's models; the first is its default. */
export const listModels = (): string[] => outside().listModels();

/** Opens the model of that name, or the tenant's default. */
export function openModel(name?: string): Model {
  const opened = name ?? listModels()[0];
  if (opened === undefined) {
    throw new GuestError("invalid", "no `model` is named, and the tenant has none");
  }
  return asGuestError(() => outside().openModel(opened));
}

/** Sends a piece of text to the client, and waits while that is slow to read. */
export const writeText = (text: string): void => outside().writeText(text);

/** The same, with how likely the tokens were since the piece before. */
export const writeScored = (text: string, logprobs: Logprobs[]): void =>
  outside().writeScored(text, logprobs);

/** Sends a value to the client. */
export const writeJson = (value: unknown): void => outside().writeJson(JSON.stringify(value));

/** What the tenant's owner has set for the program under that name. */
export const setting = (key: string): string | undefined => outside().setting(key) ?? undefined;

/** Who is calling: `namespace/name`. */
export const tenant = (): string => outside().tenant();

/** Leaves a line for whoever runs the host. Only so many are kept of one call. */
export const log = (level: Level, message: string): void => outside().log(level, message);

/**
 * A little memory of the tenant's own that outlives a call: on this node, until its agent restarts.
 * It has 1024 entries and 256 KiB.
 */
export const store = {
  get: (key: string): Uint8Array | undefined => outside().storeGet(key) ?? undefined,
  /** Refused where there is no room. */
  set: (key: string, value: Uint8Array): void => asGuestError(() => outside().storeSet(key, value)),
  /** Whether there was one. */
  delete: (key: string): boolean => outside().storeDelete(key),
  /** The first keys, at most 256, that begin with `prefix` and come after `after`. */
  keys: (prefix = "", after?: string): string[] => outside().storeKeys(prefix, after ?? null),
};

/** Milliseconds since the Unix epoch, in steps of 100. */
export const now = (): number => Number(outside().now());

/** Milliseconds since the call began, in steps of 100. */
export const elapsed = (): number => Number(outside().elapsed());

/** So many random bytes, at most 4096. */
export const randomBytes = (count: number): Uint8Array => outside().randomBytes(count);
