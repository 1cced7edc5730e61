#!/usr/bin/env bash
# Installs and starts what the tests need, then runs them all: format, lints, docs, tests, doc tests, dependencies,
# benches. On a fresh machine nothing else is needed than the Rust toolchain and, for what is missing, apt as root.
set -euo pipefail
cd "$(dirname "$0")"

say() { printf '\n== %s\n' "$*"; }
have() { command -v "$1" >/dev/null 2>&1; }

# --- programs that the tests compare with or drive -------------------------------------------------------------------
packages=()
need() { have "$1" || packages+=("$2"); }
need curl curl; need ssh-keygen openssh-client; need zsh zsh; need bash bash; need dash dash; need busybox busybox-static
need tmux tmux; need vim vim; need less less; need htop htop; need nano nano; need mc mc; need asciinema asciinema
need zip zip; need unzip unzip; need 7z p7zip-full; need python3 python3; need gcc gcc; need sqlite3 sqlite3
need openssl openssl
if [ "${#packages[@]}" -gt 0 ]; then
  say "installing ${packages[*]}"
  if [ "$(id -u)" != 0 ]; then
    echo "these packages are missing: ${packages[*]}; install them, or run this as root" >&2
    exit 1
  fi
  export DEBIAN_FRONTEND=noninteractive
  # Another installation may be under way: wait for it.
  apt-get -o DPkg::Lock::Timeout=600 update -qq
  apt-get -o DPkg::Lock::Timeout=600 install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
fi
for tool in cargo-nextest cargo-deny; do
  if ! have "$tool"; then
    say "installing $tool"
    cargo install --quiet --locked "$tool"
  fi
done

# --- Docker, for the tests of workflows --------------------------------------------------------------------------------
if ! { have docker && docker version >/dev/null 2>&1; }; then
  if [ "$(id -u)" != 0 ]; then
    echo "no Docker Engine answers; start one, or run this as root" >&2
    exit 1
  fi
  if ! have dockerd; then
    say "installing docker.io"
    export DEBIAN_FRONTEND=noninteractive
    apt-get -o DPkg::Lock::Timeout=600 update -qq
    apt-get -o DPkg::Lock::Timeout=600 install -y -qq --no-install-recommends docker.io iptables >/dev/null
  fi
  say "starting dockerd"
  setsid dockerd >/tmp/dockerd.log 2>&1 </dev/null &
  for _ in $(seq 120); do docker version >/dev/null 2>&1 && break; sleep 0.5; done
  docker version >/dev/null 2>&1 || { echo "dockerd does not start:" >&2; tail -20 /tmp/dockerd.log >&2; exit 1; }
fi
# No image can be pulled everywhere: the tests' own is made of busybox.
if ! docker image inspect dxflow-test:1 >/dev/null 2>&1; then
  root=$(mktemp -d)
  mkdir -p "$root/bin" "$root/tmp" "$root/etc" "$root/run"
  cp "$(command -v busybox)" "$root/bin/busybox"
  for applet in $("$root/bin/busybox" --list); do [ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"; done
  echo 'root:x:0:0:root:/:/bin/sh' >"$root/etc/passwd"
  tar -C "$root" -c . | docker import - dxflow-test:1 >/dev/null
  rm -rf "$root"
fi

# --- the checks ------------------------------------------------------------------------------------------------------
say "format"
cargo fmt --all --check
say "lints"
cargo clippy --quiet --workspace --all-targets --features fault-injection -- -D warnings
cargo clippy --quiet --workspace -- -D warnings
say "documentation"
# Private items are documented too: a link to one is no mistake here.
RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" cargo doc --quiet --workspace --no-deps --document-private-items
say "tests"
cargo nextest run --workspace --features fault-injection
say "doc tests"
cargo test --quiet --workspace --doc
say "dependencies"
cargo fetch --quiet --locked
cargo deny --offline check bans licenses sources
say "benches compile"
cargo bench --no-run --quiet --workspace
say "all is well"
