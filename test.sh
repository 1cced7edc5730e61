#!/usr/bin/env bash
# Installs and starts what the tests need, then runs them all: format, lints, docs, tests, doc tests, dependencies,
# benches. On a fresh machine nothing else is needed than the Rust toolchain and, for what is missing, apt as root.
set -euo pipefail
cd "$(dirname "$0")"
started_docker=""
trap '[ -z "$started_docker" ] || kill "$started_docker" 2>/dev/null || true' EXIT

say() { printf '\n== %s\n' "$*"; }
have() { command -v "$1" >/dev/null 2>&1; }

# --- programs that the tests compare with or drive -------------------------------------------------------------------
packages=()
need() { have "$1" || packages+=("$2"); }
need curl curl; need ssh-keygen openssh-client; need zsh zsh; need bash bash; need dash dash; need busybox busybox-static
need tmux tmux; need vim vim; need less less; need htop htop; need nano nano; need asciinema asciinema
need zip zip; need unzip unzip; need 7z p7zip-full; need python3 python3; need gcc gcc; need sqlite3 sqlite3
need dockerd docker.io; need iptables iptables
if [ "${#packages[@]}" -gt 0 ]; then
  say "installing ${packages[*]}"
  if [ "$(id -u)" != 0 ]; then
    echo "these packages are missing: ${packages[*]}; install them, or run this as root" >&2
    exit 1
  fi
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
fi
for tool in cargo-nextest cargo-deny; do
  if ! have "$tool"; then
    say "installing $tool"
    cargo install --quiet --locked "$tool"
  fi
done

# --- Docker: a real engine, with one image, made of busybox ----------------------------------------------------------
export DOCKER_HOST="${DOCKER_HOST:-unix:///var/run/docker.sock}"
if ! docker version >/dev/null 2>&1; then
  say "starting dockerd"
  dockerd >/tmp/dxflow-dockerd.log 2>&1 &
  started_docker=$!
  for _ in $(seq 300); do
    docker version >/dev/null 2>&1 && break
    kill -0 "$started_docker" 2>/dev/null || break
    sleep 0.2
  done
fi
if ! docker version >/dev/null 2>&1; then
  echo "no Docker engine answers, and the tests of workflows need one:" >&2
  tail -n 20 /tmp/dxflow-dockerd.log >&2 || true
  exit 1
fi
if ! docker image inspect dxflow-test/busybox:latest >/dev/null 2>&1; then
  root=$(mktemp -d)
  mkdir -p "$root"/{bin,etc,tmp,proc,sys,dev,root,var}
  cp "$(command -v busybox)" "$root/bin/busybox"
  (cd "$root/bin" && for applet in $(./busybox --list); do [ -e "$applet" ] || ln -s busybox "$applet"; done)
  echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
  tar -C "$root" -c . | docker import --change 'CMD ["/bin/sh"]' - dxflow-test/busybox:latest >/dev/null
  rm -rf "$root"
fi

# --- the checks ------------------------------------------------------------------------------------------------------
say "format"
cargo fmt --all --check
say "lints"
cargo clippy --quiet --workspace --all-targets --features fault-injection -- -D warnings
cargo clippy --quiet --workspace -- -D warnings
say "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --quiet --workspace --no-deps --document-private-items
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
