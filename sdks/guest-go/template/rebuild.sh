#!/usr/bin/env bash
# Rebuilds the templates that programs in Go are put into, and the list of digests that ties them to
# the world and to the modules that they are made of.
set -euo pipefail
export LC_ALL=C
cd "$(dirname "${BASH_SOURCE[0]}")"
cache=${XDG_CACHE_HOME:-$HOME/.cache}/realm/guest-go
CARGO_TARGET_DIR="$cache" cargo run --quiet --locked -- ../../../proto/wit . ../build/templates
cd ../../..
sha256sum proto/wit/*.wit sdks/guest-go/template/{Cargo.lock,Cargo.toml,*.wat} \
  sdks/guest-go/template/src/main.rs sdks/guest-go/build/templates/*.wasm >sdks/guest-go/template/sources.sha256
