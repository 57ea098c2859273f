"""A Nix store whose builders run in a sandbox."""

import pytest

import nix
from nix.store import call

TRIAL = """derivation {
  name = "trial";
  system = "builtin";
  builder = "builtin:buildenv";
  derivations = [ ];
  manifest = builtins.toFile "manifest" "";
}"""


def sandboxed_store(folder):
    """Return a private store with the sandbox on; skip the test where sandboxes do not work."""
    store = nix.private_store(folder, sandbox="true", sandbox_fallback="false")
    done = call(store, ["nix-build", "--no-out-link", "--expr", TRIAL])
    if done.code:
        pytest.skip(done.stderr.decode().splitlines()[-1])
    return store
