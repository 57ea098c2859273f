"""What the service is deployed by: the unit, the proxies, the container, Nix, the page on it."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from proxy import HOST, Nginx, TlsCaddy, dial, program
from support import until

from app import create_app
from config import SETTINGS
from nix.store import call
from pkgctl.cli import cli
from pkgctl.follower import CHECK_SECONDS
from pkgctl.nix_client import CALL_SECONDS, FETCH_SECONDS
from worker import STOP_SECONDS

ROOT = Path(__file__).parent.parent.parent
DEPLOY = ROOT / "deploy"
UNIT = DEPLOY / "pkgd.service"
SOCKET = DEPLOY / "pkgd.socket"
SYNC = DEPLOY / "pkgd-sync.service"
TIMER = DEPLOY / "pkgd-sync.timer"
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
EXPOSURE = 3.0
GRACEFUL_SECONDS = 30  # gunicorn.conf.py
RELEASE = "flask --app app init-db"
WEB = "gunicorn 'app:create_app()'"

# as much of nixpkgs and of NixOS as the files use, with packages for which a string will do
STUBS = """
  lib = {
    fakeHash = "";
    escapeShellArgs = toString;
    makeLibraryPath = toString;
    mapAttrs = builtins.mapAttrs;
    mapAttrsToList = f: set: map (name: f name set.${name}) (builtins.attrNames set);
    mkEnableOption = text: { };
    mkIf = condition: value: if condition then value else { };
    mkOption = option: option;
    optionals = condition: list: if condition then list else [ ];
    types = {
      attrsOf = x: x; listOf = x: x; nullOr = x: x; oneOf = x: x;
      str = 1; int = 1; path = 1; package = 1;
    };
  };
  names = [
    "cacert" "caddy" "curl" "git" "nginx" "nix" "openssl" "postgresql" "shellcheck" "util-linux"
  ];
  pkgs = builtins.listToAttrs (map (name: { inherit name; value = "/${name}"; }) names) // {
    inherit lib;
    mkShell = shell: shell;
    path = "/nixpkgs";
    python3 = "/python3";
    runCommand = name: set: script: "/${name}";
    stdenv.cc.cc.lib = "/lib";
    stdenvNoCC.mkDerivation = set: "/${set.name}";
    writeShellScriptBin = name: script: { inherit name script; };
  };
  service = {
    enable = true;
    secretKeyFile = "/etc/pkgd/secret_key";
    listenStream = "127.0.0.1:8000";
    settings = { TRUSTED_PROXIES = 1; };
    python = pkgs.python3;
    wheelsHash = "";
  };
  sync = {
    enable = true;
    url = "https://pkgd.example.org";
    profile = "web";
    tokenFile = "/etc/pkgd/sync_token";
    check = null;
    extraOptions = [ "--json" ];
    package = "/pkgctl";
  };
  config = { services.pkgd = service; services.pkgd-sync = sync; nix.package = "/nix"; };
  machine = (import @SYNC@ { inherit config lib pkgs; }).config.systemd;
"""


def settings_of(text, section="[Service]"):
    """Return a unit's settings in a section, each with the list of its values."""
    found = {}
    for line in text.partition(section)[2].partition("[Install]")[0].splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def evaluate(store, expression):
    """Return what a Nix expression about the stubs comes to."""
    expression = f"let {STUBS.replace('@SYNC@', str(DEPLOY / 'sync.nix'))} in {expression}"
    done = call(store, ["nix-instantiate", "--eval", "--strict", "--json", "--expr", expression])
    assert done.code == 0, done.stderr.decode()
    return json.loads(done.stdout)


# --- The unit ---


@pytest.fixture
def unit(tmp_path):
    """The unit in a file that names the programs of this machine, with its socket beside it."""
    copy = tmp_path / "pkgd.service"
    bin_ = Path(sys.executable).parent
    copy.write_text(UNIT.read_text().replace("/opt/pkgd/.venv/bin", str(bin_)))
    shutil.copy(SOCKET, tmp_path)
    return copy


def test_systemd_has_nothing_to_say_about_the_units(unit):
    argv = [program("systemd-analyze"), "verify", "--man=no", unit, unit.with_suffix(".socket")]
    done = subprocess.run(argv, capture_output=True, text=True)

    said = [line for line in done.stderr.splitlines() if unit.stem in line]
    assert (done.returncode, done.stdout, said) == (0, "", [])


def test_a_configuration_that_can_not_be_used_is_not_tried_again():
    settings = settings_of(UNIT.read_text())

    assert settings["RestartPreventExitStatus"] == [str(os.EX_CONFIG)]
    assert settings["ExecStartPre"] == [f"-/opt/pkgd/.venv/bin/{RELEASE}"]


def test_the_module_listens_where_the_socket_does(store):
    path = DEPLOY / "module.nix"
    socket = f"(import {path} {{ inherit config lib pkgs; }}).config.systemd.sockets.pkgd"

    theirs = evaluate(store, f"{socket}.socketConfig")

    ours = settings_of(SOCKET.read_text(), "[Socket]")
    assert {name: [str(value)] for name, value in theirs.items()} == ours


def test_the_unit_is_hardened(unit):
    argv = [program("systemd-analyze"), "security", "--offline=true", "--no-pager", unit]
    done = subprocess.run(argv, capture_output=True, text=True)

    exposure = re.search(r"exposure level for pkgd.service: ([\d.]+)", done.stdout)
    assert exposure, done.stderr
    assert float(exposure[1]) <= EXPOSURE


def test_the_unit_waits_longer_than_the_service_takes_to_stop():
    (seconds,) = settings_of(UNIT.read_text())["TimeoutStopSec"]

    assert int(seconds) > max(GRACEFUL_SECONDS, STOP_SECONDS)


# --- The units of a machine that follows a profile ---


@pytest.fixture
def sync_unit(tmp_path):
    """The unit in a file that names this machine's pkgctl, with its timer beside it."""
    copy = tmp_path / SYNC.name
    bin_ = Path(sys.executable).parent
    copy.write_text(SYNC.read_text().replace("/opt/pkgctl/bin", str(bin_)))
    shutil.copy(TIMER, tmp_path)
    return copy


def test_systemd_has_nothing_to_say_about_the_units_of_a_machine(sync_unit):
    argv = [
        program("systemd-analyze"),
        "verify",
        "--man=no",
        sync_unit,
        sync_unit.parent / TIMER.name,
    ]
    done = subprocess.run(argv, capture_output=True, text=True)

    said = [line for line in done.stderr.splitlines() if sync_unit.stem in line]
    assert (done.returncode, done.stdout, said) == (0, "", [])


def test_the_unit_of_a_machine_is_hardened(sync_unit):
    argv = [program("systemd-analyze"), "security", "--offline=true", "--no-pager", sync_unit]
    done = subprocess.run(argv, capture_output=True, text=True)

    exposure = re.search(r"exposure level for pkgd-sync.service: ([\d.]+)", done.stdout)
    assert exposure, done.stderr
    assert float(exposure[1]) <= EXPOSURE


def test_the_unit_of_a_machine_runs_a_command_that_there_is():
    (start,) = settings_of(SYNC.read_text())["ExecStart"]
    words = start.replace("$SYNC_OPTIONS", "--status").replace("${SYNC_PROFILE}", "web").split()

    assert words[0] == "/opt/pkgctl/bin/pkgctl"
    assert CliRunner().invoke(cli, words[1:]).exit_code == 0


def test_the_unit_of_a_machine_waits_longer_than_a_sync_takes():
    (minutes,) = settings_of(SYNC.read_text())["TimeoutStartSec"]

    assert int(minutes.removesuffix("min")) * 60 > FETCH_SECONDS + 4 * CALL_SECONDS + CHECK_SECONDS


def test_the_module_of_a_machine_has_what_its_units_have(store):
    theirs = evaluate(store, "machine.services.pkgd-sync.serviceConfig")
    timer = evaluate(store, "machine.timers.pkgd-sync.timerConfig")

    ours = settings_of(SYNC.read_text())
    own = {"Environment", "EnvironmentFile", "ExecStart"}
    assert theirs.keys() - own == ours.keys() - own
    for name in ours.keys() - own:
        assert as_words(theirs[name]) == " ".join(ours[name]), name
    assert theirs["ExecStart"] == "/pkgctl/bin/pkgctl sync --once --json web"
    assert {name: [value] for name, value in timer.items()} == settings_of(
        TIMER.read_text(), "[Timer]"
    )


# --- Commands that several files say ---


def test_every_file_starts_the_service_in_the_same_way():
    procfile = (ROOT / "Procfile").read_text().replace('"', "'")
    dockerfile, compose = (
        (ROOT / name).read_text() for name in ("Dockerfile", "compose.production.yaml")
    )

    assert procfile == f"web: {RELEASE} && exec {WEB}\n"
    assert f"{RELEASE} && exec deploy/serve" in dockerfile
    assert f"\n{WEB} &\n" in (DEPLOY / "serve").read_text()
    assert f"command: {RELEASE}\n" in compose
    assert f"command: {WEB}\n" in compose
    (start,) = settings_of(UNIT.read_text())["ExecStart"]
    assert start.replace('"', "'") == f"/opt/pkgd/.venv/bin/{WEB}"


def test_every_setting_reaches_the_services_of_compose():
    services = yaml.safe_load((ROOT / "compose.production.yaml").read_text())["services"]

    fixed = {"APP_ENV", "BIND", "DATABASE_URL", "DATA_DIR", "TRUSTED_PROXIES"}
    for name in ("init-db", "web", "worker"):
        assert services[name]["env_file"] == [{"path": ".env", "required": False}]
        assert services[name]["environment"].keys() - {"WORKER_THREADS"} == fixed


def test_the_image_leaves_out_nothing_that_the_service_imports():
    left_out = (ROOT / ".dockerignore").read_text().split()

    kept = [
        *ROOT.glob("*.py"),
        *(path.parent for path in ROOT.glob("*/__init__.py")),
        *(ROOT / name for name in ("catalog", "deploy", "migrations", "pages")),
    ]
    assert not {path.name for path in kept} & set(left_out)
    assert "requirements-run.txt" not in left_out


def test_the_container_runs_what_it_is_told_to_for_whom_it_is_told_to():
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]
    argv = [*(nobody if os.geteuid() == 0 else []), "sh", "-s", "echo", "two words"]

    with (DEPLOY / "entrypoint").open() as script:
        assert subprocess.check_output(argv, stdin=script, text=True) == "two words\n"


@pytest.mark.parametrize(
    ("given", "env"),
    [
        ({}, "development"),
        ({"SECRET_KEY": "x"}, "production"),
        ({"SECRET_KEY_FILE": "/key"}, "production"),
        ({"SECRET_KEY": "x", "APP_ENV": "development"}, "development"),
        ({"APP_ENV": "production"}, "production"),
    ],
)
def test_a_container_is_for_development_unless_it_gets_a_key(given, env):
    argv = ["sh", "-s", "sh", "-c", "echo ${APP_ENV:-development}"]
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]
    argv = [*(nobody if os.geteuid() == 0 else []), *argv]

    with (DEPLOY / "entrypoint").open() as script:
        environ = {"PATH": os.environ["PATH"], **given}
        assert subprocess.check_output(argv, stdin=script, text=True, env=environ) == f"{env}\n"


def test_compose_starts_development_with_a_reload_unless_told_otherwise():
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]

    assert services.keys() == {"dev", "dev-worker"}
    assert {one["environment"]["APP_ENV"] for one in services.values()} == {"development"}
    assert not any("profiles" in one for one in services.values())
    assert all(".:/src:ro" in one["volumes"] for one in services.values())
    assert {one["working_dir"] for one in services.values()} == {"/src"}
    assert " flask --app app run --reload " in services["dev"]["command"]


@pytest.fixture
def container(tmp_path):
    """Return a function that starts deploy/serve with scripts for programs, which note events."""
    events = tmp_path / "events"
    started = []

    def container(**scripts):
        for name, script in scripts.items():
            path = tmp_path / name
            path.write_text(
                f"#!/bin/bash\ntrap 'echo {name} stops >>{events}; exit 0' TERM\n{script}"
            )
            path.chmod(0o755)
        environ = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
        started.append(subprocess.Popen([DEPLOY / "serve"], env=environ, cwd=ROOT))
        started[-1].events = lambda: events.read_text().splitlines() if events.exists() else []
        return started[-1]

    yield container
    for process in started:
        process.kill()
        process.wait()


RUN = "echo {name} runs >>{folder}/events; while :; do sleep 0.05; done\n"


def test_a_stop_of_the_container_ends_gunicorn_and_then_nginx(container, tmp_path):
    scripts = {name: RUN.format(name=name, folder=tmp_path) for name in ("gunicorn", "nginx")}
    server = container(**scripts)
    until(lambda: len(server.events()) == 2)

    server.terminate()

    assert server.wait(20) == 0
    assert server.events()[2:] == ["gunicorn stops", "nginx stops"]


def test_the_container_ends_when_nginx_does(container, tmp_path):
    run = RUN.format(name="gunicorn", folder=tmp_path)
    wait = f"until grep -q gunicorn {tmp_path}/events; do sleep 0.05; done; exit 1\n"
    server = container(gunicorn=run, nginx=wait)

    assert server.wait(20) == 0
    assert server.events() == ["gunicorn runs", "gunicorn stops"]


def test_the_container_ends_with_the_status_of_gunicorn(container, tmp_path):
    server = container(gunicorn="exit 3\n", nginx=RUN.format(name="nginx", folder=tmp_path))

    assert server.wait(20) == 3


@pytest.mark.parametrize(("env", "said"), [("development", 1), ("production", 0)])
def test_the_container_says_in_development_who_may_make_the_first_token(
    container, tmp_path, monkeypatch, env, said
):
    monkeypatch.setenv("APP_ENV", env)
    monkeypatch.setenv("HOSTNAME", "0c0ffee")
    server = container(
        gunicorn=f'echo "$PKGD_BANNER" >>{tmp_path}/events\n',
        nginx=RUN.format(name="nginx", folder=tmp_path),
    )

    assert server.wait(20) == 0
    line = "server: docker exec -u pkgd 0c0ffee flask create-token"
    assert server.events().count(line) == said


# --- Nix ---


def test_the_module_has_what_the_unit_has(store):
    path = DEPLOY / "module.nix"
    theirs = evaluate(
        store,
        f"(import {path} {{ inherit config lib pkgs; }}).config.systemd.services.pkgd"
        ".serviceConfig",
    )

    ours = settings_of(UNIT.read_text())
    own = {"Environment", "ExecStart", "ExecStartPre", "LoadCredential", "WorkingDirectory"}
    assert theirs.keys() - own == ours.keys() - own
    for name in ours.keys() - own:
        assert as_words(theirs[name]) == " ".join(ours[name]), name


def as_words(value):
    """Return a value as a unit has it, several of one name with spaces between."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " ".join(value) if isinstance(value, list) else str(value)


def test_the_module_starts_the_service_with_its_settings(store):
    path = DEPLOY / "module.nix"
    service = evaluate(
        store,
        f"let s = (import {path} {{ inherit config lib pkgs; }}).config.systemd.services.pkgd;"
        " in { inherit (s) environment; start = s.serviceConfig.ExecStart; }",
    )

    assert service["start"] == "/pkgd-environment/bin/gunicorn app:create_app()"
    assert service["environment"]["TRUSTED_PROXIES"] == "1"
    assert service["environment"]["APP_ENV"] == "production"


def test_the_shell_sets_up_what_the_tests_need(store):
    shell = evaluate(
        store,
        f"let s = import {ROOT}/shell.nix {{ inherit pkgs; }}; in {{ inherit (s) shellHook; }}",
    )

    assert shell["shellHook"].split()[:2] == ["script/bootstrap", "--dev"]


# --- The proxies ---


class Backend(BaseHTTPRequestHandler):
    """Answers with what it was asked; a log in two parts, the second when `more` is set."""

    protocol_version = "HTTP/1.1"
    more = threading.Event()

    def do_GET(self):
        """Say the path, and for whom it is asked."""
        self.send_response(200)
        if "/log" in self.path:
            self.send_header("Connection", "close")
            self.send_header("X-Accel-Buffering", "no")  # as pkgd does for a log that is followed
            self.end_headers()
            self.wfile.write(b"first ")
            self.wfile.write(b"last" if self.more.wait(20) else b"late")
            self.close_connection = True
            return
        said = f"{self.path} {self.headers['Host']} {self.headers['X-Forwarded-For']}".encode()
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_):
        """Say nothing of it."""


@pytest.fixture
def backend():
    """The port of a service to stand behind a proxy."""
    Backend.more.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Backend) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        Backend.more.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def nginx(tmp_path, backend):
    """nginx in front of the backend; it isn't started yet."""
    return Nginx(tmp_path, backend)


@pytest.fixture
def proxied(nginx):
    """A function that asks for a path of a host by nginx, and returns the answer to read."""
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=nginx.tls)
    )

    def proxied(host, path, **headers):
        url = f"https://127.0.0.1:{nginx.port}{path}"
        request = urllib.request.Request(url, headers={"Host": host, **headers})
        return opener.open(request, timeout=20)

    with nginx:
        yield proxied


def test_nginx_takes_its_configuration(nginx):
    done = subprocess.run([*nginx.argv, "-t"], capture_output=True, text=True)

    assert (done.returncode, "syntax is ok" in done.stderr) == (0, True), done.stderr
    # nginx 1.25 has a new way to say it, which the nginx of Debian 12 does not know.
    old_way = 'the "listen ... http2" directive is deprecated'
    assert [
        line for line in done.stderr.splitlines() if "[warn]" in line and old_way not in line
    ] == []


@pytest.mark.parametrize(
    ("host", "path", "asked"),
    [
        (HOST, "/api/v1/packages?limit=1", "/api/v1/packages?limit=1"),
        (HOST, "/v1/packages", "/v1/packages"),
        (f"api.{HOST}", "/v1/packages?limit=1", "/api/v1/packages?limit=1"),
        (f"api.{HOST}", "/api/v1/packages", "/api/v1/packages"),
    ],
)
def test_nginx_serves_the_api_by_a_shorter_path_on_a_host_of_its_own(proxied, host, path, asked):
    with proxied(host, path) as answer:
        assert answer.read().decode() == f"{asked} {host} 127.0.0.1"


def test_nginx_passes_on_no_address_that_a_client_made_up(proxied):
    with proxied(HOST, "/hello", **{"X-Forwarded-For": "192.0.2.1"}) as answer:
        assert answer.read().decode() == f"/hello {HOST} 127.0.0.1"
        assert answer.headers["Strict-Transport-Security"] == "max-age=31536000"


def redirect(port):
    """Return the head of the answer to a POST over plain http."""
    with dial(port) as connection:
        connection.sendall(f"POST /hello?x=1 HTTP/1.0\r\nHost: {HOST}\r\n\r\n".encode())
        return b"".join(iter(lambda: connection.recv(1000), b"")).decode()


def test_nginx_has_clients_repeat_a_request_over_https(nginx):
    with nginx:
        answer = redirect(nginx.plain_port)

    assert answer.startswith("HTTP/1.1 308 ")
    assert f"Location: https://{HOST}/hello?x=1\r\n" in answer


def test_caddy_has_clients_repeat_a_request_over_https(tmp_path):
    with TlsCaddy(tmp_path, 8000) as caddy:
        answer = redirect(caddy.plain_port)

    assert answer.startswith("HTTP/1.0 308 ")
    assert re.search(rf"^Location: https://{HOST}(:\d+)?/hello\?x=1\r$", answer, re.MULTILINE)


def test_nginx_passes_a_log_on_as_it_comes(proxied):
    with proxied(f"api.{HOST}", "/v1/task/1/log?follow=true") as answer:
        assert answer.read(6) == b"first "
        Backend.more.set()
        assert answer.read() == b"last"


def test_caddy_takes_its_configuration(tmp_path):
    argv = [
        program("caddy"),
        "validate",
        "--adapter",
        "caddyfile",
        "--config",
        DEPLOY / "Caddyfile",
    ]

    done = subprocess.run(argv, capture_output=True, text=True, env={"HOME": str(tmp_path)})

    assert done.returncode == 0, done.stderr
    assert '"level":"warn"' not in done.stderr


# --- The page ---


@pytest.mark.parametrize("block", re.findall(r"```sh\n(.*?)```", OPERATIONS, re.DOTALL))
def test_what_the_page_says_to_type_is_a_command(block):
    done = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True)

    assert (done.returncode, done.stderr) == (0, "")


def test_the_page_names_commands_and_settings_that_there_are(tmp_path):
    app = create_app({"DATA_DIR": tmp_path})

    commands = set(re.findall(r"\bflask ([a-z][a-z-]+)", OPERATIONS)) - {"function"}
    assert commands <= set(app.cli.commands)
    names = set(re.findall(r"^([A-Z_]+)=", OPERATIONS, re.MULTILINE))
    assert names - {"PATH", "END"} <= set(SETTINGS)


@pytest.mark.parametrize("page", ["docs/operations.md", "docs/design.md", "SECURITY.md"])
def test_a_link_leads_somewhere(page):
    file = ROOT / page
    for target in re.findall(r"\]\(([^)\s]+)\)", file.read_text()):
        path, _, anchor = target.partition("#")
        there = (file.parent / path) if path else file
        assert "://" in target or there.exists(), target
        headings = re.findall(r"^#+ (.*)$", there.read_text(), re.MULTILINE) if anchor else []
        assert not anchor or anchor in {each.lower().replace(" ", "-") for each in headings}, target
