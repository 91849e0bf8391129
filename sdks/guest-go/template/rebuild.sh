#!/usr/bin/env bash
# Rebuilds the template that programs in Go are put into, and the list of digests that ties it to the
# world and to the modules that it is made of.
set -euo pipefail
export LC_ALL=C
cd "$(dirname "${BASH_SOURCE[0]}")"
cache=${XDG_CACHE_HOME:-$HOME/.cache}/realm/guest-go
CARGO_TARGET_DIR="$cache" cargo run --quiet --locked -- ../../../proto/wit . ../build/template.wasm
cd ../../..
sha256sum proto/wit/*.wit sdks/guest-go/template/{Cargo.lock,Cargo.toml,program.wat,system.wat} \
  sdks/guest-go/template/src/main.rs sdks/guest-go/build/template.wasm >sdks/guest-go/template/sources.sha256
