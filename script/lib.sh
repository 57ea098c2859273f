# shellcheck shell=bash
# What the scripts share. Each sources it first, and is then in the repository's folder.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit

say() {
  printf '%s: %s\n' "${0##*/}" "$*"
}

fail() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 1
}

# Whether the machine's own Nix store takes a build from us, shown by a build. The time in it
# makes it a new one each run, and the builder is inside Nix, so it needs no shell in the sandbox.
store_is_writable() {
  timeout 10 nix-build --no-out-link --option substitute false --expr 'derivation {
    name = "pkgd-probe";
    system = builtins.currentSystem;
    builder = "builtin:buildenv";
    derivations = [ ];
    manifest = "/dev/null";
    time = builtins.currentTime;
  }' >/dev/null 2>&1
}
