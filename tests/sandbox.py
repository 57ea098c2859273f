"""A store whose builders work in a sandbox, on machines that let Nix have one."""

import pytest

import nix

TRIAL = """derivation {
  name = "trial";
  system = "builtin";
  builder = "builtin:buildenv";
  derivations = [ ];
  manifest = builtins.toFile "manifest" "";
}"""


def sandboxed_store(folder):
    """Return a private store with the sandbox on; skip the test where that can't be."""
    store = nix.private_store(folder, sandbox="true", sandbox_fallback="false")
    done = nix.call(store, ["nix-build", "--no-out-link", "--expr", TRIAL])
    if done.code:
        pytest.skip(done.stderr.decode().splitlines()[-1])
    return store
