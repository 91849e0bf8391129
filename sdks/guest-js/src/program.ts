/** What a program serves. */

import { GuestError, toRefusal } from "./errors.ts";
import { Params } from "./params.ts";
import type { Finish } from "./world.ts";

/** How a call ends: by itself, and with `data` besides what it has written. */
export interface Outcome {
  finish?: Finish;
  /** The function's result; anything that JSON has. */
  data?: unknown;
}

/** A function that clients may call. */
export interface FunctionOf {
  description: string;
  /** The JSON Schema of its parameters. */
  params?: object;
  /** Whether it writes its reply in pieces. */
  streams?: boolean;
  /** Serves one call. */
  handle(params: Params): Outcome;
}

/** A program by the names of its functions: 1 to 64 of a-z, 0-9, `_`, `.` and `-`. */
export type Program = Record<string, FunctionOf>;

interface FunctionInfo {
  name: string;
  description: string;
  paramsSchema: string;
  streams: boolean;
}

/** The export `realm:tenant/handler`. */
export interface Handler {
  functions(): FunctionInfo[];
  handle(request: { function: string; params: string }): { finish: Finish; data: string | null };
}

/** A program as the host calls it. */
export function toHandler(program: Program): Handler {
  return {
    functions: () =>
      Object.entries(program).map(([name, { description, params, streams }]) => ({
        name,
        description,
        paramsSchema: JSON.stringify(params ?? {}),
        streams: streams ?? false,
      })),
    handle(request) {
      try {
        const { finish, data } = call(program, request.function, request.params);
        return { finish: finish ?? "stop", data: data === undefined ? null : JSON.stringify(data) };
      } catch (thrown) {
        // The host takes the refusal itself, not an exception around it.
        throw toRefusal(thrown);
      }
    },
  };
}

/** Serves one call; whatever goes wrong is thrown. */
export function call(program: Program, name: string, params: string): Outcome {
  if (!Object.hasOwn(program, name)) throw new GuestError("unknown-function", name);
  return program[name]!.handle(new Params(params));
}
