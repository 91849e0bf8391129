/** The imports of the world, which the toolchain makes modules of. */

declare module "realm:tenant/model@0.1.0" {
  const model: {
    listModels(): string[];
    Model: { open(name: string): import("./world.ts").Model };
  };
  export default model;
}

declare module "realm:tenant/reply@0.1.0" {
  const reply: {
    writeText(text: string): void;
    writeScored(text: string, logprobs: import("./world.ts").Logprobs[]): void;
    writeJson(json: string): void;
  };
  export default reply;
}

declare module "realm:tenant/config@0.1.0" {
  const config: { get(key: string): string | null | undefined; tenant(): string };
  export default config;
}

declare module "realm:tenant/log@0.1.0" {
  const log: { emit(level: import("./world.ts").Level, message: string): void };
  export default log;
}

declare module "realm:tenant/store@0.1.0" {
  const store: {
    get(key: string): Uint8Array | null | undefined;
    set(key: string, value: Uint8Array): void;
    delete(key: string): boolean;
    keys(prefix: string, after: string | null): string[];
  };
  export default store;
}

declare module "realm:tenant/clock@0.1.0" {
  const clock: { now(): bigint; elapsed(): bigint };
  export default clock;
}

declare module "realm:tenant/random@0.1.0" {
  const random: { bytes(count: number): Uint8Array };
  export default random;
}
