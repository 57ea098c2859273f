# shellcheck shell=bash
# Functions of all scripts. Sourcing it changes to the repository's folder.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit

say() {
  printf '%s: %s\n' "${0##*/}" "$*"
}

fail() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 1
}

# Succeed if this user can build in the machine's own Nix store, by trying it. The time makes each
# run a new derivation, and the builder is part of Nix, so that no shell is needed in the sandbox.
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
