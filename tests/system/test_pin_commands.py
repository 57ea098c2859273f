"""`flask catalog` as processes: killed at any moment, and on a terminal."""

import os
import pty
import signal
import subprocess

import pytest
from service import BIN
from support import EITHER, SQLITE, remove_store, until
from tarballs import catalog, tarball

import nix


@pytest.fixture
def own(settings, service, tmp_path):
    """A service with a store of its own; its packages are never built."""
    service.settings["STORE_DIR"] = settings["STORE_DIR"] = tmp_path / "store"
    yield service
    service.kill()
    remove_store(tmp_path / "store")


@pytest.fixture
def url(tmp_path):
    """The URL of a tarball with a catalog."""
    return tarball(tmp_path / "pin.tar.gz", default_nix=catalog(app="1.0.0"))


def pinned(service):
    """Return what is in the service's store, without hashes, and among the roots of its pins."""
    store = nix.private_store(service.settings["STORE_DIR"])
    paths = sorted(path.name[33:] for path in store.directory.glob("*-*"))
    roots = sorted(path.name for path in (service.data_dir / "pins").glob("[!.]*"))
    return paths, roots


def stopping_at(tmp_path, program):
    """Return a PATH on which a program waits for ever, and the file that it then makes."""
    folder, reached = tmp_path / "programs", tmp_path / "reached"
    folder.mkdir()
    (folder / program).write_text(f"#!/bin/sh\ntouch {reached}\nexec sleep 600\n")
    (folder / program).chmod(0o755)
    return f"{folder}:{os.environ['PATH']}", reached


@EITHER
@pytest.mark.parametrize("program", ["nix-prefetch-url", "nix-store", "nix-instantiate"])
def test_what_a_killed_add_has_left_is_collected_and_it_can_be_repeated(
    own, flask, url, tmp_path, program
):
    path, reached = stopping_at(tmp_path, program)
    adding = own.start_command("catalog", "add", "old", url, PATH=path)
    until(reached.exists, 60, explain=own.said)

    adding.send_signal(signal.SIGKILL)
    adding.wait()

    until(lambda: own.left() == [])
    assert "old" not in flask("catalog", "list").output
    assert flask("gc").exit_code == 0
    assert pinned(own) == ([], [])
    added = flask("catalog", "add", "old", url)
    assert (added.exit_code, pinned(own)) == (0, (["old"], ["old"])), added.output


@EITHER
def test_a_killed_update_leaves_the_pin_as_it_was(own, flask, url, tmp_path):
    newer = tarball(tmp_path / "newer.tar.gz", default_nix=catalog(app="2.0.0"))
    flask("catalog", "add", "old", url)
    before = flask("catalog", "list").output
    path, reached = stopping_at(tmp_path, "nix-instantiate")
    updating = own.start_command("catalog", "update", "old", newer, PATH=path)
    until(reached.exists, 60, explain=own.said)

    updating.send_signal(signal.SIGKILL)
    updating.wait()

    until(lambda: own.left() == [])
    assert flask("gc").exit_code == 0
    assert flask("reconcile").output == "all as it should be\n"
    assert (flask("catalog", "list").output, pinned(own)) == (before, (["old"], ["old"]))


@SQLITE
def test_an_interrupted_add_leaves_nothing(own, url, tmp_path):
    path, reached = stopping_at(tmp_path, "nix-instantiate")
    adding = own.start_command("catalog", "add", "old", url, PATH=path)
    until(reached.exists, 60, explain=own.said)

    adding.send_signal(signal.SIGINT)

    assert adding.wait(30) == 1
    assert pinned(own) == ([], [])


def add_at_a_terminal(own, url):
    """Add a catalog; return the exit code, the output, and what the terminal shows of errors."""
    reading, writing = pty.openpty()
    argv = [BIN / "flask", "--app", "app", "catalog", "add", "old", url]
    done = subprocess.run(
        argv, env=own.environ(), cwd=own.folder(), stdout=subprocess.PIPE, stderr=writing
    )
    shown = os.read(reading, 100_000).decode()
    os.close(reading)
    os.close(writing)
    return done.returncode, done.stdout, shown


@SQLITE
def test_an_error_at_a_terminal_has_a_line_of_its_own(own, web):
    exit_code, _, shown = add_at_a_terminal(own, f"{web.url}/404/pin.tar.gz")

    assert exit_code == 1
    assert "\r\x1b[KError: " in shown


@SQLITE
def test_a_terminal_shows_how_far_a_download_is(own, web, url, tmp_path):
    web.content = (tmp_path / "pin.tar.gz").read_bytes().ljust(2_500_000, b"\0")

    exit_code, output, shown = add_at_a_terminal(own, f"{web.url}/200/pin.tar.gz")

    assert exit_code == 0, shown
    assert "2.5 of 2.5 MB, unpacking …" in shown
    assert shown.endswith("\r\x1b[K")
    assert b"attributes: 1\n" in output
