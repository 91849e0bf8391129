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
  if (opened === undefined) throw new GuestError("unknown-model", "the tenant has no models");
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
