"""Downloads of what the verified index of a pin knows: no evaluation finds it anew."""

import os
import shutil
from pathlib import Path

import pytest
from support import SQLITE
from tarballs import catalog

import nix

pytestmark = SQLITE

COMPARED = "status", "catalog", "attr", "spelled", "drv_path", "store_path", "closure_size"


@pytest.fixture
def place(own_store, settings, tmp_path):
    """Where a catalog is in the store, with the package `duck`."""
    (tmp_path / "ducks.nix").write_text(catalog(duck="2.1.0"))
    argv = ["nix-store", "--add", str(tmp_path / "ducks.nix")]
    added = nix.run(argv, environ=own_store.environ, seconds=60).stdout.decode().strip()
    nix.add_root(own_store, added, tmp_path / "pin")
    settings |= {"CATALOGS": added, "INDEX_BYTES": 2**30, "INDEX_VERIFY": "true"}
    return added


@pytest.fixture
def calls(place, replace_program, tmp_path):
    """Return a function that returns what Nix was asked for since the call before."""
    record = tmp_path / "calls"
    for name in ("nix-instantiate", "nix-build"):
        replace_program(name, f'echo "{name} $*" >>{record}; exec $real "$@"')

    def calls():
        said = record.read_text() if record.exists() else ""
        record.unlink(missing_ok=True)
        return [line.split()[0] for line in said.splitlines() if " --version" not in line]

    return calls


@pytest.fixture
def before(calls, app, pool, client, run_task):
    """The package as its first download left it, forgotten since; its catalog was verified."""
    for _ in range(2):
        pool._index_at = 0.0
        pool.maintain_once()
        assert pool.run_one()
    calls()
    task = run_task("duck", "2.1.0")
    assert calls() == ["nix-instantiate", "nix-build"]
    package = client.get(f"/api/v1/package/{task['package_id']}").json
    client.delete(f"/api/v1/package/{package['id']}")
    return package


@pytest.fixture
def again(before, client, run_task, calls):
    """Return a function that downloads the package again; it returns it, its log, and the calls."""

    def again():
        task = run_task("duck", "2.1.0")
        package = client.get(f"/api/v1/package/{task['package_id']}").json
        assert [package[key] for key in COMPARED] == [before[key] for key in COMPARED]
        return package, client.get(f"/api/v1/task/{task['id']}/log").text, calls()

    return again


def test_what_is_in_the_store_is_found_and_rooted_without_an_evaluation(again, before, app):
    package, log, called = again()

    assert called == []
    assert log.splitlines()[:2] == [
        "pkgd: attempt 1: duck 2.1.0 is known from a verified index",
        f"pkgd: found as duck in {package['catalog']}: {before['drv_path']}",
    ]
    root = app.config["DATA_DIR"] / "roots" / f"{package['id']}-0"
    assert os.readlink(root) == before["store_path"]


def test_what_is_not_in_the_store_is_built_without_an_evaluation(again, before, own_store):
    nix.run(["nix-store", "--delete", before["store_path"]], environ=own_store.environ, seconds=60)
    assert not Path(before["store_path"]).exists()

    _, _, called = again()

    assert called == ["nix-build"]


def test_a_derivation_that_was_collected_is_evaluated_again(again, own_store):
    nix.collect_garbage(own_store)

    _, log, called = again()

    assert called == ["nix-instantiate", "nix-build"]
    assert log.startswith("pkgd: attempt 1: resolving duck 2.1.0\n")


def test_a_derivation_of_which_only_the_file_is_there_is_evaluated_again(again, before, own_store):
    drv_path = Path(before["drv_path"])
    text = drv_path.read_text()
    nix.collect_garbage(own_store)
    drv_path.write_text(text)

    _, _, called = again()

    assert called == ["nix-build", "nix-instantiate", "nix-build"]


def test_after_a_change_of_nix_a_version_is_evaluated_again(again, app):
    note = app.config["DATA_DIR"] / "evaluator"
    note.write_text("another Nix")

    _, _, called = again()

    assert called == ["nix-instantiate"]
    assert note.read_text() != "another Nix"


def test_what_evaluates_is_another_after_a_change_of_nix_or_of_its_settings(own_store, tmp_path):
    shutil.copy(shutil.which("nix-instantiate"), tmp_path)
    path = f"{tmp_path}:{own_store.environ['PATH']}"
    changes = {}, {"PATH": path}, {"NIX_PATH": "/a"}, {"NIX_CONF_DIR": str(tmp_path)}
    (tmp_path / "nix.conf").write_text("system = x")

    told = [nix.evaluator(nix.Store({**own_store.environ, **change})) for change in changes]

    assert len(set(told)) == len(changes)
    assert nix.evaluator(own_store) == told[0]
