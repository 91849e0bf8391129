#!/usr/bin/env node
// Makes a component of a program: `build.mjs PROGRAM OUT`.
import { writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import path from "node:path";
import { fileURLToPath } from "node:url";

// Required, not imported, so that NODE_PATH may say where they are.
const require = createRequire(import.meta.url);
const { build } = require("esbuild");
const { componentize } = require("componentize-qjs");

const here = path.dirname(fileURLToPath(import.meta.url));
const source = (file) => path.join(here, "src", file);

const [program, out] = process.argv.slice(2);
if (program === undefined || out === undefined || process.argv.length > 4) {
  console.error("usage: build.mjs PROGRAM OUT");
  process.exit(1);
}

const shared = {
  bundle: true,
  write: false,
  format: "esm",
  target: "es2022",
  platform: "neutral",
  mainFields: ["module", "main"],
  external: ["realm:*"],
  alias: { "realm-guest": source("index.ts") },
};

/** What a program's module exports. */
async function exportsOf(module) {
  const { metafile } = await build({ ...shared, entryPoints: [module], outdir: here, metafile: true });
  return Object.values(metafile.outputs).flatMap((output) => output.exports);
}

// What the program has decides which world it is of: one without hooks is never asked for any.
const exported = await exportsOf(path.resolve(program));
const hasHooks = exported.includes("hooks");
const hasHealth = exported.includes("health");
const world = `${hasHealth ? "checked-" : ""}${hasHooks ? "hooked-" : ""}program`;

// The host comes first: modules of the program may not reach it while they load, but find it set.
const entry = `
  import ${JSON.stringify(source("wire.ts"))};
  import { toHandler } from ${JSON.stringify(source("program.ts"))};
  import { toHealth } from ${JSON.stringify(source("health.ts"))};
  import { toHooks } from ${JSON.stringify(source("hooks.ts"))};
  import * as module from ${JSON.stringify(path.resolve(program))};
  export const handler = toHandler(module.default);
  ${hasHooks ? "export const hooks = toHooks(module.hooks);" : ""}
  ${hasHealth ? "export const health = toHealth(module.health);" : ""}
`;

const bundled = await build({
  ...shared,
  stdin: { contents: entry, resolveDir: here, loader: "ts" },
});

const { component } = await componentize({
  witPath: path.join(here, "../../proto/wit"),
  world,
  jsSource: bundled.outputFiles[0].text,
  // The world is synchronous, and nothing of the system is there to be imported.
  sync: true,
  stubWasi: true,
});
await writeFile(out, component);
