#!/usr/bin/env node
// Runs the unit tests: bundles each, since Node 20 reads no TypeScript, and hands it to Node's own
// runner.
import { spawnSync } from "node:child_process";
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";

const { build } = createRequire(import.meta.url)("esbuild");

const here = path.dirname(fileURLToPath(import.meta.url));
const outdir = await mkdtemp(path.join(tmpdir(), "guest-"));
try {
  const tests = (await readdir(path.join(here, "test"))).map((file) => path.join(here, "test", file));
  await build({
    entryPoints: tests,
    outdir,
    outExtension: { ".js": ".mjs" },
    bundle: true,
    format: "esm",
    platform: "node",
    alias: {
      "realm-guest/rehearsal": path.join(here, "src/rehearsal.ts"),
      "realm-guest": path.join(here, "src/index.ts"),
    },
  });
  const files = (await readdir(outdir)).map((file) => path.join(outdir, file));
  const { status } = spawnSync(process.execPath, ["--test", "--test-reporter=dot", ...files], { stdio: "inherit" });
  process.exitCode = status ?? 1;
} finally {
  await rm(outdir, { recursive: true });
}
