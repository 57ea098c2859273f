"""Every example of curl and pkgctl in the README, as printed, on a server with nothing in it."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from service import ROOT, Service
from support import BUNDLED

import nix

PORT = 8000
README = (ROOT / "README.md").read_text()
TOOLS = ("curl", "pkgctl")
BLOCK = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
# what is done where there is no server yet, or to one
OTHER = re.compile(r"(\S*script/|\.venv/|pip|git|cd|sudo|docker|systemctl|flask)\b")
# a person looks how far a download is before going on; the blocks of curl do so themselves
SETTLED = """
import sqlite3, time
live = "SELECT 1 FROM tasks WHERE status IN ('queued', 'running')"
while sqlite3.connect("data/app.db").execute(live).fetchone():
    time.sleep(0.1)
"""


def commands(block):
    """Return the commands of a block, each in one line."""
    lines = block.replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


def uses(tool, command):
    """Tell whether a command is an example of a tool."""
    return re.match(rf"(\w+=\$\()?{tool}\b", command) is not None


def blocks(tool):
    """Return the blocks that show a tool."""
    return [
        block
        for block in BLOCK.findall(README)
        if any(uses(tool, command) for command in commands(block))
    ]


def examples(tool):
    """Return the commands to run, in order, of the blocks that show a tool."""
    shown = [command for block in blocks(tool) for command in commands(block)]
    return [command for command in shown if not OTHER.match(command)]


def is_free(port):
    """Tell whether nobody listens on a port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.fixture
def service(tmp_path, store_dir):
    """A server as the README has it: its folder is `data`, its port 8000, unless that is taken."""
    settings = {"STORE_DIR": store_dir, "CATALOGS": BUNDLED, "MIN_FREE_BYTES": 1}
    settings |= {"CACHE": f"file://{tmp_path}/cache", "CACHE_KEY_FILE": tmp_path / "cache_key"}
    nix.make_key(nix.private_store(store_dir), "readme-1", settings["CACHE_KEY_FILE"])
    with Service({"DATA_DIR": tmp_path / "data", **settings}, measured=False) as service:
        if is_free(PORT):
            service.port = service.settings["PORT"] = PORT
            service.url = f"http://127.0.0.1:{PORT}"
        service.init_db()
        yield service.start()


@pytest.fixture
def environ(tmp_path, store):
    """What a person has set up: both tools on PATH; curl tells by its exit code what failed.

    The Nix of that machine has the store of the server's, and profiles of its own.
    """
    (tmp_path / ".curlrc").write_text("fail-with-body\n")
    command = tmp_path / "pkgctl"
    command.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m pkgctl "$@"\n')
    command.chmod(0o755)
    path = f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    own = {name: value for name, value in store.environ.items() if name.startswith("NIX_")}
    yield {**own, "HOME": str(tmp_path), "PATH": path, "LANG": "C.UTF-8"}
    profiles = Path(own["NIX_STATE_DIR"]) / "profiles"
    for link in profiles.glob("pkgd-default*link"):  # it would keep packages of other tests alive
        link.unlink()


@pytest.fixture
def run(service, environ, tmp_path):
    """A function that runs a script where the server's folder `data` is; it must succeed."""

    def run(script):
        done = subprocess.run(
            ["bash", "-euxo", "pipefail", "-c", script.replace(f":{PORT}", f":{service.port}")],
            **{"cwd": tmp_path, "env": environ, "stdin": subprocess.DEVNULL, "text": True},
            **{"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "timeout": 300},
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    return run


def test_the_blocks_of_curl_can_be_pasted_whole(run):
    said = run("\n".join(blocks("curl")))

    assert "\nHello, world! This is hello 2.12.1.\n" in said
    assert "pkgd_" in said  # the robot's token


def test_the_examples_of_pkgctl_work_as_printed(run, tmp_path):
    (tmp_path / "settled.py").write_text(SETTLED)

    said = run("\nsettled\n".join(["settled() { python3 settled.py; }", *examples("pkgctl")]))

    assert "/pkgd-default is now generation " in said


@pytest.mark.parametrize("tool", TOOLS)
def test_no_example_is_left_out(tool):
    shown = [line for line in README.splitlines() if uses(tool, line)]

    assert shown
    assert len(shown) == sum(uses(tool, command) for command in examples(tool))
