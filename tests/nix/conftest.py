"""Fixtures of the tests of nix: catalogs, store paths, and programs that misbehave."""

import shutil

import pytest

import nix
from nix.store import call, text

# Packages in catalogs that are evaluated, but never built.
PACKAGE = """
let package = pname: version: more: derivation ({
  inherit pname version;
  name = "${pname}-${version}";
  system = "builtin";
  builder = "builtin:none";
} // more); in
"""


@pytest.fixture
def catalog(tmp_path):
    """Return a function that writes a catalog, which may use `package`, and returns its path."""

    def catalog(packages, name="catalog"):
        path = tmp_path / f"{name}.nix"
        path.write_text(PACKAGE + packages)
        return str(path)

    return catalog


@pytest.fixture
def replace_program(tmp_path):
    """Return a function that returns a store with a script for one of its programs ($real)."""

    def replace_program(store, name, script):
        folder = tmp_path / "fake"
        folder.mkdir()
        (folder / name).write_text(f"#!/bin/sh\nreal={shutil.which(name)}\n{script}\n")
        (folder / name).chmod(0o755)
        return nix.Store({**store.environ, "PATH": f"{folder}:{store.environ['PATH']}"})

    return replace_program


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A store for the tests of one module, in which everything may be collected."""
    return nix.private_store(tmp_path_factory.mktemp("own"))


@pytest.fixture
def missing_path(own):
    """A store path that the module's own store does not have."""
    return f"{own.directory}/{'0' * 32}-missing"


@pytest.fixture
def root_of(tmp_path):
    """Return a function that returns where the GC root of a package is."""
    return lambda package: tmp_path / f"root-{package.name}-{package.version}"


@pytest.fixture
def package(own, root_of, tmp_path):
    """Return a function that puts files into the store as a package, with a GC root."""

    def package(name, *files, version="1.0.0", content=None):
        folder = tmp_path / f"{name}-{version}"
        for file in files:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_text(content or str(tmp_path))
        path = text(call(own, ["nix-store", "--add", str(folder)])).strip()
        added = nix.ProfilePackage(name, version, (path,))
        nix.add_root(own, path, root_of(added))
        return added

    return package
