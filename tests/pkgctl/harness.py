"""What the tests of pkgctl share: a server, ways to run the command, and a server that lies."""

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
PATIENCE = 60
TASK_ID = "5f8d1f4e-6c3f-4c5b-9d38-0f6a3c1f9a55"

# packages whose builders need a shell; a gated one goes on when its file is there
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
  library = build "library" "1.0.0" "mkdir -p $out/lib; echo > $out/lib/library";
}
"""


@contextlib.contextmanager
def served(folder, store_dir):
    """Run a service of its own, with packages that build when they are let to."""
    gates = folder / "gates"
    gates.mkdir()
    catalog = folder / "catalog.nix"
    catalog.write_text(CATALOG.replace("@GATES@", str(gates)))
    settings = {
        "DATA_DIR": folder / "data",
        "STORE_DIR": store_dir,
        "CATALOGS": f"{ROOT / 'catalog'} {catalog}",
        "MIN_FREE_BYTES": 1,
        "WEB_PROCESSES": 1,
        "WORKER_THREADS": 4,
    }
    with Service(settings) as service:
        service.gates = gates
        assert service.command("init-db").returncode == 0
        service.start()
        service.secret = service.sign_in()
        yield service


class Ctl:
    """pkgctl as somebody has it set up, run in this process or in one of its own."""

    def __init__(self, folder, url=None, token=None):
        self.folder = folder
        self.environ = {"PKGCTL_URL": url, "PKGCTL_TOKEN": token, "XDG_CONFIG_HOME": str(folder)}
        self.environ |= {"NO_PROXY": "127.0.0.1", "TERM": "xterm", "COLUMNS": "100"}

    def __call__(self, *arguments, **more):
        """Run it here, as in a pipe; whatever goes wrong is a line and an exit code."""
        argv = [str(argument) for argument in arguments]
        done = CliRunner().invoke(cli, argv, env=self.environ, prog_name="pkgctl", **more)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done

    def start(self, *arguments, **more):
        """Start it in a process of its own, in a pipe unless told otherwise."""
        environ = {**os.environ, **self.environ}
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        return subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            cwd=ROOT,
            env={name: said for name, said in environ.items() if said is not None},
            **{**pipes, **more},
        )

    def run(self, *arguments, **more):
        """Run it in a process of its own to its end; return its exit code, output and errors."""
        process = self.start(*arguments, **more)
        output, errors = process.communicate(timeout=PATIENCE)
        return process.returncode, output.decode(), errors.decode()

    def terminal(self, *arguments, **more):
        """Start it on a terminal."""
        return Terminal(self, arguments, more)


class Terminal:
    """A terminal that shows what the command writes, and in which a person can type."""

    def __init__(self, ctl, arguments, more):
        self._end, theirs = pty.openpty()
        streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs, **more}
        self.process = ctl.start(*arguments, **streams)
        os.close(theirs)
        self.shown = ""

    def until(self, text):
        """Wait until the text has been shown."""
        self._read(lambda: text in self.shown)

    def type(self, text):
        """Type a line."""
        os.write(self._end, f"{text}\n".encode())

    def close(self):
        """Wait until the command has ended; return its exit code."""
        self._read(lambda: False)
        os.close(self._end)
        return self.process.wait(PATIENCE)

    def _read(self, is_enough):
        deadline = time.monotonic() + PATIENCE
        with contextlib.suppress(OSError):  # what reading ends with when nobody writes any more
            while not is_enough():
                left = deadline - time.monotonic()
                assert select.select([self._end], [], [], left)[0], self.shown
                self.shown += os.read(self._end, 65536).decode(errors="replace")


@dataclass
class Answer:
    """What a lying server sends."""

    body: object = None
    status: int = 200
    headers: dict = None
    is_pkgd: bool = True


def task(status="running", **more):
    """Return a task as a server shows it."""
    known = {
        "id": TASK_ID,
        "package_id": 1,
        "status": status,
        "attempt": 1,
        "waiting": None,
        "progress": {"done": 0, "expected": 0, "phase": None},
        "error": None,
    }
    return known | more


def problem(status, detail):
    """Return a refusal as pkgd sends one."""
    kind = {"Content-Type": "application/problem+json"}
    return Answer({"status": status, "detail": detail}, status, kind)


class Liar:
    """A server that answers as it is told, and keeps what it was asked."""

    def __init__(self, answer: Callable):
        self.asked = []
        liar = self

        class Handler(BaseHTTPRequestHandler):
            def handle_one_request(self):
                self.raw_requestline = self.rfile.readline(65537)
                self.parse_request()
                liar.asked.append((self.command, self.path, self.headers.get("Authorization")))
                self.close_connection = True
                if (given := answer(self.command, self.path)) is not None:
                    send(self, given)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=[0.01])

    def was_asked(self, part):
        """Tell whether it was asked for a path with this part."""
        return any(part in path for _, path, _ in self.asked)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def send(handler, answer):
    """Send an answer, as pkgd does or as another server would."""
    body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
    headers = {"Content-Length": str(len(body)), **(answer.headers or {})}
    if answer.is_pkgd:
        headers = {"X-Request-ID": "1", "Content-Type": "application/json", **headers}
    handler.send_response(answer.status)
    for name, said in headers.items():
        handler.send_header(name, said)
    handler.end_headers()
    handler.wfile.write(body)
