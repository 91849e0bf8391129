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
