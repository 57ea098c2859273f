"""The scripts that a person types: what they say, and what they leave."""

import os
import shlex
import shutil
import subprocess
import sys

import pytest
from service import ROOT, Service
from support import until

import nix

PROCESSES = 2
FLASK = ".venv/bin/flask --app app create-token"


@pytest.fixture
def started(tmp_path):
    """Return a function that runs script/server with these settings until it serves."""
    with Service({"DATA_DIR": tmp_path / "my data"}) as service:

        def started(**settings):
            service.settings |= {"WEB_PROCESSES": PROCESSES, "WORKER_THREADS": 1} | settings
            with service.log.open("ab") as log:
                argv = [ROOT / "script" / "server"]
                service.server = subprocess.Popen(
                    argv, env=service.environ(HOME=tmp_path), stdout=log, stderr=log
                )
            service.processes.append(service.server)
            # Each process has a holder once its pool runs: gunicorn may lose a signal before.
            holders = service.data_dir / "holders"
            until(lambda: len(list(holders.glob("[!.]*"))) == PROCESSES, explain=service.said)
            return service

        yield started


@pytest.mark.parametrize(
    ("bind", "told"),
    [
        ("::1", ["serving on http://[::1]:PORT;", "curl -X POST http://[::1]:PORT/api/v1/tokens"]),
        (
            "0.0.0.0",
            ["serving on http://0.0.0.0:PORT;", "POST http://127.0.0.1:PORT/api/v1/tokens"],
        ),
        (
            "localhost",
            [
                ".venv/bin/pkgctl login http://localhost:PORT\n",
                f'export PATH={shlex.quote(str(ROOT / ".venv" / "bin"))}:"$PATH"\n',
            ],
        ),
        (
            "unix:SOCKET",
            ["serving on the socket SOCKET;", "--unix-socket SOCKET -X POST http://localhost/api/"],
        ),
    ],
)
def test_the_server_tells_where_it_serves_once_it_does(started, tmp_path, bind, told):
    server = started(BIND=bind.replace("SOCKET", f"{tmp_path}/socket"))

    names = {"PORT": str(server.port), "SOCKET": f"{tmp_path}/socket"}
    for name, value in names.items():
        told = [text.replace(name, value) for text in told]
    assert [text for text in told if text not in server.said()] == []
    said = server.said()
    assert said.index("Listening at") < said.index("server: serving on")
    assert server.stop() == 0


def test_the_server_names_the_settings_that_the_next_command_needs(started, tmp_path):
    key = "for-tests-only-and-long-enough-yes"
    server = started(APP_ENV="production", SECRET_KEY=key, BIND="127.0.0.1")

    data_dir = shlex.quote(str(server.data_dir))
    settings = f'APP_ENV=production DATA_DIR={data_dir} SECRET_KEY="$SECRET_KEY"'
    assert f"server: make a token here: {settings} {FLASK}\n" in server.said()
    assert "curl" not in server.said()
    assert key not in server.said()
    assert server.stop() == 0


def script(name, *arguments, **environ):
    """Run a script to its end."""
    argv = [ROOT / "script" / name, *arguments]
    environ = {**os.environ, **{name: str(value) for name, value in environ.items()}}
    return subprocess.run(argv, env=environ, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("name", ["server", "demo", "faults"])
def test_a_script_shows_its_help_and_does_nothing(name):
    done = script(name, "--help")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"script/{name}: ")


def test_an_argument_that_a_script_does_not_know_is_refused():
    done = script("server", "--port", "80")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "server: no argument is known but --help: --port 80\n"


def test_a_bad_setting_ends_the_server_in_one_line(tmp_path):
    done = script("server", PORT="80000", DATA_DIR=tmp_path)

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "pkgd: PORT is '80000', but must be a whole number from 1 to 65535\n"


def probe(folder, **settings):
    """Try whether a store can be built in, as if it were the machine's own; return why not."""
    code = "from script import store; print(store.fault())"
    argv = [sys.executable, "-c", code]
    environ = {**nix.private_store(folder, **settings).environ, "PYTHONPATH": str(ROOT)}
    return subprocess.check_output(argv, env=environ, cwd=ROOT, text=True).strip()


@pytest.mark.usefixtures("long_paths")
def test_trying_whether_a_store_can_be_used_leaves_nothing_in_it(tmp_path):
    assert probe(tmp_path) == ""

    assert [path.name for path in (tmp_path / "store").iterdir() if "probe" in path.name] == []


@pytest.mark.usefixtures("long_paths")
def test_a_probe_that_is_in_use_for_a_moment_is_deleted_after_it(tmp_path, monkeypatch):
    programs, once = tmp_path / "bin", tmp_path / "once"
    programs.mkdir()
    real = shutil.which("nix-store")
    fails = f"[[ $1 == --delete && ! -e {once} ]] && {{ touch {once}; exit 1; }}"
    (programs / "nix-store").write_text(f'#!/bin/bash\n{fails}\nexec {real} "$@"\n')
    (programs / "nix-store").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")

    assert probe(tmp_path / "own") == ""

    assert once.exists()
    assert [one.name for one in (tmp_path / "own/store").iterdir() if "probe" in one.name] == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs users to build as")
def test_the_reason_why_a_store_cannot_be_used_is_nixs_own(tmp_path):
    group = "the group 'none' specified in 'build-users-group' does not exist"

    assert probe(tmp_path, build_users_group="none") == group
