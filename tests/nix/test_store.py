"""Stores: the environment that Nix's programs get, and what they say when they fail."""

import os

import pytest

import nix
from nix import DiskFull, NixError, NixMissing
from nix.process import Completed
from nix.store import text


def failed(stderr):
    """Return a program that failed with these words."""
    return Completed(1, b"", stderr.encode())


def test_the_machines_own_store_is_found_as_the_machine_has_it(tmp_path, monkeypatch):
    monkeypatch.setenv("NIX_REMOTE", "daemon")

    store = nix.machine_store(tmp_path / "home")

    assert store.environ["NIX_REMOTE"] == "daemon"
    assert store.environ["PATH"] == os.environ["PATH"]
    assert store.environ["HOME"] == str(tmp_path / "home")
    assert (tmp_path / "home").is_dir()


@pytest.mark.parametrize("name", ["SECRET_KEY", "SECRET_KEY_FALLBACKS", "DATABASE_URL"])
def test_nix_does_not_get_to_see_the_services_secrets(tmp_path, monkeypatch, name):
    monkeypatch.setenv(name, "hush")

    assert name not in nix.machine_store(tmp_path).environ
    assert name not in nix.private_store(tmp_path).environ


@pytest.mark.parametrize("name", ["NIX_REMOTE", "NIX_PATH", "NIX_PROFILES", "NIX_USER_CONF_FILES"])
def test_a_private_store_is_not_led_astray(tmp_path, monkeypatch, name):
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


def test_the_folder_of_a_store_is_there_before_nix_makes_it(tmp_path):
    store = nix.private_store(tmp_path / "new")

    assert store.folder == tmp_path / "new"
    (tmp_path / "new" / "store").mkdir()
    assert store.folder == tmp_path / "new" / "store"


def test_the_machines_store_is_where_nix_has_it_by_default(tmp_path):
    assert str(nix.machine_store(tmp_path).folder) in {"/nix/store", "/nix", "/"}


def test_nix_tells_its_version(store):
    assert int(nix.version(store).split(".")[0]) >= 2


def test_what_is_needed_is_there(store):
    nix.check(store)


def test_what_is_missing_is_told(tmp_path):
    store = nix.Store({"PATH": str(tmp_path)})

    with pytest.raises(NixMissing, match="is not on PATH") as caught:
        nix.check(store)
    with pytest.raises(NixMissing):
        nix.version(store)

    assert "nix-bin" in caught.value.hint


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
def test_an_error_is_told_without_what_leads_to_it(stderr):
    with pytest.raises(NixError, match=r"^it broke\n\nat line 3$"):
        text(failed(stderr))


@pytest.mark.parametrize(
    "words", ["write: No space left on device", "database or disk is full", "Disk quota exceeded"]
)
def test_a_full_disk_is_told_as_such(words):
    with pytest.raises(DiskFull):
        text(failed(f"error: {words}"))
