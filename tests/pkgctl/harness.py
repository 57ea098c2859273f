"""Support for the tests of pkgctl: a real server, ways to run the command, and a fake server."""

import contextlib
import json
import os
import pty
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from click.testing import CliRunner
from service import ROOT, Service

from pkgctl.cli import cli

COMMAND = [sys.executable, "-m", "pkgctl"]
MAX_SECONDS = 60
TASK_ID = "5f8d1f4e-6c3f-4c5b-9d38-0f6a3c1f9a55"
GATED_LINE = "café [bold]one[/bold]"

# Packages whose builders need a shell. The builder of a gated package waits for its gate, a file.
CATALOG = """
let
  build = pname: version: script: derivation {
    inherit pname version;
    name = "${pname}-${version}";
    type = "derivation";
    system = builtins.currentSystem;
    builder = "/bin/sh";
    args = [ "-c" script ];
    PATH = "/bin:/usr/bin:/usr/local/bin";
  };
  gated = n: {
    name = "gated${toString n}";
    value = build "gated${toString n}" "1.0.0" ''
      printf 'caf\\303\\251 [bold]one[/bold]\\n'
      while [ ! -e @GATES@/${toString n} ]; do sleep 0.05; done
      echo two
      mkdir -p $out/bin && echo > $out/bin/gated${toString n}
    '';
  };
in
builtins.listToAttrs (builtins.genList gated 20) // {
  fails = build "fails" "1.0.0" "echo trying; echo 'no rule to make it' >&2; exit 2";
  quacker = build "quacker" "1.5" "mkdir -p $out/bin; echo > $out/bin/quacker";
  waddler = build "waddler" "2.0k" "mkdir $out";
  library = build "library" "1.0.0" "mkdir -p $out/lib; echo > $out/lib/library";
  goose = build "goose" "2.0rc1" "mkdir $out";
  goose_1_2 = build "goose" "1.2.3" "mkdir $out";
  goose_1_0 = build "goose" "1.0" "mkdir $out";
  gosling = build "gosling" "0.1-beta" "mkdir $out";
  secret = build "secret" "1.0.0" "mkdir $out" // { meta = { unfree = true; available = false; }; };
@MORE@}
"""


@contextlib.contextmanager
def running_service(folder, store_dir):
    """Run a pkgd server with the bundled catalog and the one above."""
    gates = folder / "gates"
    gates.mkdir()
    catalog = folder / "catalog" / "catalog.nix"  # in a folder that the service doesn't change
    catalog.parent.mkdir()
    write_catalog(catalog, gates)
    settings = {
        "DATA_DIR": folder / "data",
        "STORE_DIR": store_dir,
        "CATALOGS": f"{ROOT / 'catalog'} {catalog}",
        "MIN_FREE_BYTES": 1,
        "WEB_PROCESSES": 1,
        "WORKER_THREADS": 4,
        "INDEX_VERIFY": "false",  # tests count tasks
    }
    with Service(settings, measured=False) as service:
        service.catalog, service.gates = catalog, gates
        service.init_db().start()
        service.secret = service.sign_in()
        yield service


def write_catalog(path, gates, more=""):
    """Write the catalog above, with more attributes."""
    path.write_text(CATALOG.replace("@GATES@", str(gates)).replace("@MORE@", more))


class GatedPackage:
    """A package that nobody has built, and whose build waits until `open` is called."""

    def __init__(self, service, number):
        self.name = f"gated{number}"
        self.spec = f"{self.name}@1.0.0"
        self._service = service
        self._gate = service.gates / str(number)

    def open(self):
        """Let the build go on."""
        self._gate.touch()

    def task_id(self):
        """Return the id of the package's latest task, if there is one."""
        packages = self._service.get(f"packages?name={self.name}")
        return packages and packages[0]["task"] and packages[0]["task"]["id"]

    def has_begun(self):
        """Tell whether the builder has written its first line."""
        task_id = self.task_id()
        return task_id and GATED_LINE.encode() in self._service.task_log(task_id)


# --- the command ---


class CommandRunner:
    """Runs pkgctl with an environment of its own, in this process or in a new one."""

    def __init__(self, folder, url=None, token=None):
        self.servers_path = folder / "pkgctl" / "servers.json"
        self.environ = {"PKGCTL_URL": url, "PKGCTL_TOKEN": token, "XDG_CONFIG_HOME": str(folder)}
        self.environ |= {"NO_PROXY": "127.0.0.1", "TERM": "xterm", "COLUMNS": "100"}
        self.environ["PKGCTL_PROFILE"] = None

    def __call__(self, *arguments, **more):
        """Run the command in this process, as in a pipe; fail if it raises anything."""
        argv = [str(argument) for argument in arguments]
        done = CliRunner().invoke(cli, argv, env=self.environ, prog_name="pkgctl", **more)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done

    def rows(self, *arguments):
        """Run a command that prints a list or a record; return its lines as lists of cells."""
        done = self(*arguments)
        assert done.exit_code == 0, done.stderr
        return [line.split("\t") for line in done.stdout.splitlines()]

    def json(self, *arguments):
        """Run a command with --json; return the document that it prints."""
        done = self(*arguments, "--json")
        assert done.exit_code == 0, done.stderr
        return json.loads(done.stdout)

    def start(self, *arguments, **streams):
        """Start the command in a new process, with pipes unless `streams` says otherwise."""
        environ = {**os.environ, **self.environ}
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        return subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            cwd=ROOT,
            env={name: value for name, value in environ.items() if value is not None},
            **{**pipes, **streams},
        )

    def run(self, *arguments):
        """Run the command in a new process; return its exit code, output and errors."""
        return finish(self.start(*arguments))

    def terminal(self, *arguments, **streams):
        """Start the command in a new process on a terminal."""
        return Terminal(self, arguments, streams)


def finish(process):
    """Wait until a process has ended; return its exit code, output and errors."""
    output, errors = process.communicate(timeout=MAX_SECONDS)
    return process.returncode, (output or b"").decode(), (errors or b"").decode()


class Terminal:
    """A terminal with a command running on it; `shown` is all that the command has written."""

    def __init__(self, runner, arguments, streams):
        self._ours, theirs = pty.openpty()
        streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs, **streams}
        self.process = runner.start(*arguments, **streams)
        os.close(theirs)
        self.shown = ""

    def until(self, text):
        """Read until the command has written a text; fail if it ends without that."""
        self._read(lambda: text in self.shown)
        assert text in self.shown, self.shown

    def type(self, text):
        """Type a line."""
        os.write(self._ours, f"{text}\n".encode())

    def close(self):
        """Read until the command has ended; return its exit code."""
        self._read(lambda: False)
        os.close(self._ours)
        return self.process.wait(MAX_SECONDS)

    def _read(self, is_enough):
        deadline = time.monotonic() + MAX_SECONDS
        with contextlib.suppress(OSError):  # reading fails once no process has the terminal open
            while not is_enough():
                left = max(0, deadline - time.monotonic())
                assert select.select([self._ours], [], [], left)[0], self.shown
                self.shown += os.read(self._ours, 65536).decode(errors="replace")


# --- the fake server ---


@dataclass
class FakeAnswer:
    """An answer of the fake server; `is_pkgd` adds the headers that pkgd always sends."""

    body: object = None
    status: int = 200
    headers: dict = None
    is_pkgd: bool = True


PACKAGE = FakeAnswer({"id": 1, "name": "hello", "version": "1.0.0"})
SCHEDULED = FakeAnswer({"status": "created", "task_id": TASK_ID})


def problem(status, detail):
    """Return a refusal as pkgd sends one."""
    headers = {"Content-Type": "application/problem+json"}
    return FakeAnswer({"status": status, "detail": detail}, status, headers)


def log_answer(data):
    """Return a piece of a task's log."""
    return FakeAnswer(data, headers={"X-Next-Offset": "9"})


def task_document(status="running", **fields):
    """Return a task as the API shows it."""
    defaults = {
        "id": TASK_ID,
        "package_id": 1,
        "status": status,
        "attempt": 1,
        "waiting": None,
        "progress": {"done": 0, "expected": 0, "phase": None},
        "error": None,
    }
    return defaults | fields


def task_answer(status="running", **fields):
    """Return the answer that shows a task."""
    return FakeAnswer(task_document(status, **fields))


class FakeServer:
    """A server that answers by a function of method and path, and records the requests.

    For None it closes the connection without an answer. `requests` has the method, path and
    Authorization header of each request, `bodies` what came with it.
    """

    def __init__(self, answer: Callable):
        self.requests, self.bodies = [], []
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def handle_one_request(self):
                self.raw_requestline = self.rfile.readline(65537)
                if not self.parse_request():
                    return  # no HTTP, such as the first bytes of TLS
                fake.requests.append((self.command, self.path, self.headers.get("Authorization")))
                fake.bodies.append(self.rfile.read(int(self.headers.get("Content-Length", 0))))
                self.close_connection = True
                if (given := answer(self.command, self.path)) is not None:
                    send(self, given)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=[0.01])

    def count(self, part):
        """Return how many requests had this part in their path."""
        return sum(part in path for _, path, _ in self.requests)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def send(handler, answer):
    """Send an answer."""
    body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
    headers = {"Content-Length": str(len(body)), **(answer.headers or {})}
    if answer.is_pkgd:
        headers = {"X-Request-ID": "1", "Content-Type": "application/json", **headers}
    handler.send_response(answer.status)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)
