"""Stores: the environment that Nix's programs get, and the messages of those that fail."""

import os
from pathlib import Path

import pytest

import nix
from nix.process import Completed
from nix.store import PROGRAMS, text


def failed(stderr):
    """Return a program that failed with this message."""
    return Completed(1, b"", stderr.encode())


def test_the_machines_store_keeps_the_machines_settings(tmp_path, monkeypatch):
    monkeypatch.setenv("NIX_REMOTE", "daemon")

    store = nix.machine_store(tmp_path / "home")

    assert store.environ["NIX_REMOTE"] == "daemon"
    assert store.environ["PATH"] == os.environ["PATH"]
    assert store.environ["HOME"] == str(tmp_path / "home")
    assert (tmp_path / "home").is_dir()


@pytest.mark.parametrize(("is_there", "remote"), [(True, None), (False, "local")])
def test_a_machines_store_that_is_yet_to_be_made_is_made_where_it_belongs(
    tmp_path, monkeypatch, is_there, remote
):
    state = tmp_path / "nix" / "var" / "nix"
    monkeypatch.setenv("NIX_STATE_DIR", str(state))
    if is_there:
        state.mkdir(parents=True)

    assert nix.machine_store(tmp_path / "home").environ.get("NIX_REMOTE") == remote


@pytest.mark.parametrize("name", ["SECRET_KEY", "SECRET_KEY_FALLBACKS", "DATABASE_URL"])
def test_nix_does_not_get_the_secrets_of_the_service(tmp_path, monkeypatch, name):
    monkeypatch.setenv(name, "secret")

    assert name not in nix.machine_store(tmp_path).environ
    assert name not in nix.private_store(tmp_path).environ


@pytest.mark.parametrize("name", ["NIX_REMOTE", "NIX_PATH", "NIX_PROFILES", "NIX_USER_CONF_FILES"])
def test_a_private_store_ignores_variables_that_point_elsewhere(tmp_path, monkeypatch, name):
    monkeypatch.setenv(name, "elsewhere")

    assert name not in nix.private_store(tmp_path).environ


def test_a_private_store_takes_settings_of_nix(tmp_path):
    config = nix.private_store(tmp_path, max_jobs="4", sandbox="true").environ["NIX_CONFIG"]

    assert {"max-jobs = 4", "sandbox = true", "substitute = false"} <= set(config.splitlines())


def test_a_private_store_may_be_reached_by_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")

    store = nix.private_store(tmp_path / "link")

    assert store.environ["NIX_STORE_DIR"] == str(tmp_path / "real" / "store")


def test_the_folder_of_a_store_exists_before_nix_creates_the_store(tmp_path):
    store = nix.private_store(tmp_path / "new")

    assert store.folder == tmp_path / "new"
    (tmp_path / "new" / "store").mkdir()
    assert store.folder == store.directory == tmp_path / "new" / "store"


def test_the_machines_store_is_in_nixs_default_place(tmp_path):
    store = nix.machine_store(tmp_path)

    assert store.directory == Path("/nix/store")
    assert str(store.folder) in {"/nix/store", "/nix", "/"}


def test_the_version_is_that_of_nix(store):
    assert int(nix.version(store).split(".")[0]) >= 2


@pytest.mark.parametrize("missing", ["setpriv", *PROGRAMS])
def test_the_check_names_the_program_that_is_missing(tmp_path, missing):
    for program in {"setpriv", *PROGRAMS} - {missing}:
        (tmp_path / program).symlink_to("/bin/true")
    store = nix.Store({"PATH": str(tmp_path)})

    with pytest.raises(nix.NixMissing, match=f"^{missing} is not on PATH$") as caught:
        nix.check(store)

    assert "nix-bin" in caught.value.hint
    (tmp_path / missing).symlink_to("/bin/true")
    nix.check(store)


def test_a_channel_is_where_nixs_search_path_has_it(store, tmp_path):
    with_pins = nix.Store({**store.environ, "NIX_PATH": f"pins={tmp_path}"})

    assert nix.find_channel(with_pins, "pins") == tmp_path
    assert nix.find_channel(with_pins, "other") is None


def test_a_channel_is_not_missing_because_nix_fails(store, replace_program):
    broken = replace_program(store, "nix-instantiate", "echo 'error: out of memory' >&2; exit 1")

    with pytest.raises(nix.NixUnavailable, match="out of memory"):
        nix.find_channel(broken, "nixpkgs")


OLD = """warning: dull
error: \x1b[35;1mit\x1b[0m broke

       at line 3
(use '--show-trace' to show detailed location information)
"""
NEW = """error:
       … while evaluating attribute 'found'
         at /nix/resolve.nix:178:27:

       (stack trace truncated; use '--show-trace' to show the full, detailed trace)

       error: it broke

       at line 3
"""


@pytest.mark.parametrize("stderr", [OLD, NEW], ids=["Nix 2.8", "Nix 2.26"])
def test_an_error_message_has_no_trace(stderr):
    with pytest.raises(nix.NixError, match=r"^it broke\n\nat line 3$") as caught:
        text(failed(stderr))

    assert type(caught.value) is nix.NixError


def test_a_failed_program_raises_the_error_that_its_caller_names():
    with pytest.raises(nix.BuildFailed, match=r"^it broke$"):
        text(failed("error: it broke\n"), nix.BuildFailed)


def test_a_program_that_fails_on_a_full_disk_raises_disk_full():
    with pytest.raises(nix.DiskFull):
        text(failed("error: write: No space left on device"), nix.BuildFailed)
