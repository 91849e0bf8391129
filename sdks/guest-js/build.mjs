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

// The host comes first: modules of the program may not reach it while they load, but find it set.
const entry = `
  import ${JSON.stringify(source("wire.ts"))};
  import { toHandler } from ${JSON.stringify(source("program.ts"))};
  import program from ${JSON.stringify(path.resolve(program))};
  export const handler = toHandler(program);
`;

const bundled = await build({
  stdin: { contents: entry, resolveDir: here, loader: "ts" },
  bundle: true,
  write: false,
  format: "esm",
  target: "es2022",
  platform: "neutral",
  mainFields: ["module", "main"],
  external: ["realm:*"],
  alias: { "realm-guest": source("index.ts") },
});

const { component } = await componentize({
  witPath: path.join(here, "../../proto/wit"),
  world: "program",
  jsSource: bundled.outputFiles[0].text,
  // The world is synchronous, and nothing of the system is there to be imported.
  sync: true,
  stubWasi: true,
});
await writeFile(out, component);
