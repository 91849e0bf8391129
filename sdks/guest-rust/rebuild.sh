#!/usr/bin/env bash
# Rebuilds every committed component from its source, and the digests that tie the two together.
#
# Uses the machine's own Rust where that can build for wasm32-unknown-unknown
# (`rustup target add wasm32-unknown-unknown`). Elsewhere it unpacks Debian's compiler and the
# standard library's source into the cache, without installing anything.
set -euo pipefail
export LC_ALL=C

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/realm/guest
target=wasm32-unknown-unknown
mkdir -p "$cache"
cd "$here"

# No path of the machine that builds may end up in a component.
remap="--remap-path-prefix=$root=realm --remap-path-prefix=$cache=cache"
cargo fetch --locked --quiet
for crates in "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*; do
  remap+=" --remap-path-prefix=$crates=crates"
done
build=(cargo build --locked --release)
wasm=("${build[@]}" --target "$target")

if [[ ! -d $(rustc --print target-libdir --target "$target" 2>/dev/null) ]]; then
  linker=$(rustc --print sysroot)/lib/rustlib/x86_64-unknown-linux-gnu/bin/rust-lld
  debian=$cache/debian
  if [[ ! -x $debian/usr/bin/rustc ]]; then
    mkdir -p "$cache/packages"
    (
      cd "$cache/packages"
      std=$(apt-cache depends libstd-rust-web-dev | awk '/Depends: libstd-rust-web-[0-9]/ { print $2 }')
      llvm=$(apt-cache depends "$std" | awk '/Depends: libllvm/ { print $2 }')
      apt-get download rustc-web libstd-rust-web-dev "$std" rust-web-src "$llvm"
      for package in *.deb; do dpkg -x "$package" "$debian"; done
    )
  fi
  export LD_LIBRARY_PATH=$debian/usr/lib/x86_64-linux-gnu RUSTC=$debian/usr/bin/rustc RUSTC_BOOTSTRAP=1
  export CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER=$linker
  wasm+=(-Zbuild-std=std,panic_abort)
fi

export CARGO_TARGET_DIR=$cache/target
packages=(realm-program-built-in realm-program-pirate realm-program-reader realm-program-warden
  realm-program-hostile realm-program-hostile-hooks realm-program-unhealthy)
"${build[@]}" -p realm-guest-build-tool
RUSTFLAGS="$remap" "${wasm[@]}" "${packages[@]/#/--package=}"

# component FOLDER NAME: wraps the module and lists the digest of every file it is made of.
component() {
  local folder=$1 name=$2
  "$CARGO_TARGET_DIR/release/realm-guest-build-tool" \
    "$CARGO_TARGET_DIR/$target/release/realm_program_$name.wasm" "$root/$folder/$name.wasm"
  (
    cd "$root"
    {
      find proto/wit sdks/guest-rust/src sdks/guest-rust/build-tool/src "$folder/src" -type f
      echo sdks/guest-rust/Cargo.toml sdks/guest-rust/Cargo.lock sdks/guest-rust/rebuild.sh \
        sdks/guest-rust/build-tool/Cargo.toml "$folder/Cargo.toml" "$folder/$name.wasm" | tr ' ' '\n'
    } | sort | xargs sha256sum >"$folder/$name.sha256"
  )
}
component sdks/guest-rust/programs/built-in built_in
component sdks/guest-rust/programs/pirate pirate
component sdks/guest-rust/programs/reader reader
component sdks/guest-rust/programs/warden warden
component tests/guests/hostile hostile
component tests/guests/hostile-hooks hostile_hooks
component tests/guests/unhealthy unhealthy
ls -l "$root"/sdks/guest-rust/programs/*/*.wasm "$root"/tests/guests/*/*.wasm
