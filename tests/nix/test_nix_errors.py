"""Errors: their codes and hints, and how they are told apart."""

import gc

import pytest

import nix
from nix.errors import error_from

CODES = {
    "build_failed",
    "disk_full",
    "evaluation_failed",
    "fetch_failed",
    "files_collide",
    "hash_mismatch",
    "name_unknown",
    "nix_too_old",
    "nix_unavailable",
    "profile_refused",
    "profile_replaced",
    "publish_failed",
    "refused",
    "timed_out",
    "version_unavailable",
}


@pytest.fixture(autouse=True)
def _forgotten():
    """Let the error classes that a test defines go with it: codes() finds all that exist."""
    yield
    gc.collect()


def test_every_code_has_a_meaning_of_one_sentence():
    meanings = nix.codes()

    assert set(meanings) == CODES
    assert meanings["name_unknown"] == "No catalog has a package of this name."
    assert all(meaning.endswith(".") for meaning in meanings.values())


def test_a_new_code_takes_one_class():
    class NewError(nix.DiskFull):
        """The disk of the binary cache is full.

        Only the first line is the meaning.
        """

        code = "cache_full"

    assert nix.codes()["cache_full"] == "The disk of the binary cache is full."


def test_a_class_without_a_code_of_its_own_does_not_change_a_meaning():
    class Special(nix.DiskFull):
        """The disk of another machine is full."""

    assert Special.code == "disk_full"
    assert nix.codes()["disk_full"] == nix.DiskFull.__doc__


@pytest.mark.parametrize("kind", [nix.NixError, nix.NixMissing])
def test_an_error_that_ends_no_task_has_a_hint_but_no_code(kind):
    assert kind.code == ""
    assert kind.hint


@pytest.mark.parametrize(
    "message", ["write: No space left on device", "database or disk is full", "Disk quota exceeded"]
)
def test_a_message_about_a_full_disk_becomes_disk_full(message):
    assert type(error_from(message, nix.BuildFailed)) is nix.DiskFull


def test_the_end_of_a_long_message_is_kept():
    error = error_from("x" * 10_000 + "\nthe reason\n", nix.BuildFailed)

    assert type(error) is nix.BuildFailed
    assert len(str(error)) == 4000
    assert str(error).endswith("x\nthe reason")


@pytest.mark.parametrize(
    ("message", "hint"),
    [
        ("cannot connect to socket at '/s': Connection refused", "daemon"),
        ("cannot open connection to remote store 'daemon': error: x", "daemon"),
        ("Nix daemon disconnected unexpectedly (maybe it crashed?)", "daemon"),
        ("the build users group 'nixbld' has no members", "users"),
        ("opening lock file '/nix/var/nix/db/big-lock': Permission denied", "write"),
        ("creating directory '/nix/store/x': Read-only file system", "write"),
        ("executing SQLite statement 'x': attempt to write a readonly database (in '/d')", "write"),
        ("executing SQLite statement 'x': file is not a database (in '/d')", "--verify"),
        ("out of memory", "memory"),
        ("unable to fork: Cannot allocate memory", "memory"),
    ],
)
def test_a_fault_of_the_host_is_told_apart_and_its_hint_names_the_cause(message, hint):
    error = error_from(message, nix.EvaluationFailed)

    assert type(error) is nix.NixUnavailable
    assert hint in error.hint


@pytest.mark.parametrize(
    "message",
    [
        "builder for '/nix/store/x.drv' failed: cannot connect to socket",
        "undefined variable 'out of memory'",
        "opening file '/etc/shadow': Permission denied",
    ],
)
def test_an_error_that_only_mentions_a_fault_of_the_host_is_none(message):
    assert type(error_from(message, nix.EvaluationFailed)) is nix.EvaluationFailed


def test_a_fault_that_is_not_known_has_a_general_hint():
    assert "kernel" in nix.NixUnavailable("something else").hint
