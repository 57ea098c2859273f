"""The service as an operator runs it: `flask` commands, gunicorn and workers as processes.

Every process that a Service starts has the service's folder in its environment, and so do Nix and
the builders that it runs. By that, `left` finds these processes and no others.
"""

import os
import random
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import requests
from support import MEASURED, until

import metrics_folder
from app import create_app
from models import db

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
LIVE = ("queued", "running")
START_SECONDS = 30
STOP_SECONDS = 30

given_ports = set()


class Service:
    """A service with its own DATA_DIR; leaving its `with` block ends all of its processes."""

    def __init__(self, settings, *, measured=True):
        """Prepare a service; `settings` are by the names of the environment variables.

        Its processes measure their coverage if `measured`: a start then takes half as long again.
        """
        self.measured = measured
        self.data_dir = Path(settings["DATA_DIR"])
        self.port = free_port()
        self.settings = {"APP_ENV": "development", **settings, "PORT": self.port}
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = self.data_dir.parent / f"{self.data_dir.name}.log"
        self.server = None
        self.processes = []
        self.session = requests.Session()
        # A new connection for each request, so that requests reach all of the server's processes.
        self.session.headers["Connection"] = "close"
        self.session.trust_env = False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.session.close()
        self.kill()
        metrics_folder.remove_dead()  # a killed gunicorn leaves its own
        print(self.said())  # pytest shows it when the test fails

    def init_db(self):
        """Run `flask init-db` in this process, which saves a second; return the service."""
        self.folder()
        init_db(self.settings)
        return self

    # --- processes ---

    def environ(self, **more):
        """Return the environment of the service's processes."""
        settings = {name: str(value) for name, value in (self.settings | more).items()}
        path = f"{MEASURED}{os.pathsep}{ROOT}"
        inherited = os.environ if self.measured else unmeasured()
        return {**inherited, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **settings}

    def command(self, *arguments, **more):
        """Run a `flask` command to its end; return its exit code and output."""
        argv = [BIN / "flask", "--app", "app", *arguments]
        return subprocess.run(
            argv, env=self.environ(**more), cwd=self.folder(), capture_output=True, text=True
        )

    def start_command(self, *arguments, **more):
        """Start a `flask` command; return its process."""
        return self._spawn([BIN / "flask", "--app", "app", *arguments], **more)

    def start(self, *, ready=True):
        """Start gunicorn, and wait until it is ready unless `ready` is false."""
        argv = [BIN / "gunicorn", "--config", ROOT / "gunicorn.conf.py", "app:create_app()"]
        self.server = self._spawn(argv)
        if ready:
            self.await_ready()
        return self

    def start_worker(self, **more):
        """Start `flask run-worker`, with other settings where given; return its process."""
        return self.start_command("run-worker", **more)

    def await_ready(self, seconds=START_SECONDS):
        """Wait until one of the server's processes answers that the service is ready."""

        def is_ready():
            assert self.server.poll() is None, f"gunicorn ended:\n{self.said()}"
            return self.is_ready()

        until(is_ready, seconds, explain=self.said)

    def is_ready(self):
        """Ask the service whether it is ready."""
        with suppress(requests.ConnectionError):
            return self.session.get(f"{self.url}/readyz", timeout=10).status_code == 200
        return False

    def stop(self, number=signal.SIGTERM):
        """Stop the server by a signal, as an operator does; return its exit code."""
        self.server.send_signal(number)
        return self.server.wait(STOP_SECONDS)

    def kill(self):
        """Kill (SIGKILL) every process of the service, of its Nix and of its builders."""
        for _ in range(100):
            left = self.left()
            if not left:
                break
            for process in left:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(left, timeout=1)
        for process in self.processes:
            process.wait(STOP_SECONDS)
        assert self.left() == []

    def left(self):
        """Return the running processes of the service, of its Nix and of its builders."""
        ours = os.fsencode(self.data_dir)
        found = []
        for entry in Path("/proc").glob("[0-9]*/environ"):
            # The environment of a zombie is empty or can not be read.
            with suppress(OSError, psutil.NoSuchProcess):
                if ours in entry.read_bytes():
                    found.append(psutil.Process(int(entry.parent.name)))
        return found

    def web_processes(self):
        """Return gunicorn's worker processes."""
        return psutil.Process(self.server.pid).children()

    def said(self):
        """Return what all the processes have written to their output."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def folder(self):
        """Return the working directory of the processes: one without a `.env` file."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        return self.data_dir.parent

    def _spawn(self, argv, descriptors=(), **more):
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                argv,
                env=self.environ(**more),
                cwd=self.folder(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=descriptors,
            )
        self.processes.append(process)
        return process

    # --- requests ---

    def request(self, method, path, **more):
        """Send a request, with the token of `sign_in`, and return the answer."""
        return self.session.request(method, f"{self.url}/api/v1/{path}", **{"timeout": 60, **more})

    def get(self, path, **more):
        """Send a GET that must succeed, and return its JSON."""
        return told(self.request("GET", path, **more))

    def post(self, path, **more):
        """Send a POST that must succeed, and return its JSON."""
        return told(self.request("POST", path, **more))

    def sign_in(self):
        """Mint the first token, send it with all further requests, and return it."""
        secret = self.post("tokens")["token"]
        self.session.headers["Authorization"] = f"Token {secret}"
        return secret

    def register(self, name="hello", version="2.12.1"):
        """Register a package and return its id."""
        return self.post("packages", json={"name": name, "version": version})["id"]

    def schedule(self, name="hello", version="2.12.1"):
        """Register a package, schedule its download, and return the task's id."""
        return self.post(f"package/{self.register(name, version)}/download")["task_id"]

    def task(self, task_id):
        """Return the task as it is now."""
        return self.get(f"task/{task_id}")

    def ended(self, task_id, seconds=60):
        """Wait until the task has ended, and return it."""
        return until(lambda: self._ended(task_id), seconds, explain=lambda: self.said()[-5000:])

    def task_log(self, task_id, **query):
        """Return the bytes of the task's log that the query selects."""
        answer = self.request("GET", f"task/{task_id}/log", params=query)
        assert answer.status_code == 200, answer.text
        return answer.content

    def _ended(self, task_id):
        task = self.get(f"task/{task_id}?wait=1")
        return task if task["status"] not in LIVE else None


def unmeasured():
    """Return the environment without what has each Python measure its coverage: it takes time."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}


def init_db(settings):
    """Run `flask init-db` with these settings, without a process."""
    app = create_app(settings)
    app.test_cli_runner().invoke(args=["init-db"], catch_exceptions=False)
    with app.app_context():
        db.engine.dispose()


def told(answer):
    """Return the JSON of an answer that must be a success."""
    assert answer.ok, f"{answer.status_code}: {answer.text}"
    return answer.json()


def free_port():
    """Return a free port below the range that the kernel gives to outgoing connections.

    No port is returned twice: nginx listens on two.
    """
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe:
            if port not in given_ports and probe.connect_ex(("127.0.0.1", port)):
                given_ports.add(port)
                return port
