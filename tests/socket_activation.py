"""A service behind a socket that somebody else listens on, as with deploy/pkgd.socket."""

import http.client
import json
import shutil
import socket
import subprocess
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count, cycle

from service import BIN, ROOT, Service

BACKLOG = 4096  # deploy/pkgd.socket
# Hands over the socket as descriptor 3, and says that it is for this process.
HAND_OVER = 'export LISTEN_FDS=1 LISTEN_PID=$$; exec "$@" 3<&{descriptor}'
SENDERS = 300
FIRST_REVISION = 9001
TIMEOUT_SECONDS = 60

MIGRATION = '''"""A change of the schema that the next release brings."""

import sqlalchemy as sa
from alembic import op

revision = "{revision}"
down_revision = "{before}"


def upgrade():
    op.create_table("new_{revision}", sa.Column("id", sa.Integer, primary_key=True))
'''


class ActivatedService(Service):
    """A service whose socket stays open while it restarts, and whose program is in `current`."""

    def __init__(self, settings):
        """Listen; the program is that of this repository until `current` leads elsewhere."""
        super().__init__(settings)
        self.listener = socket.create_server(("127.0.0.1", self.port), backlog=BACKLOG)
        self.current = self.data_dir.parent / "current"
        self.current.symlink_to(ROOT)

    def __exit__(self, *exc):
        super().__exit__(*exc)
        self.listener.close()

    def environ(self, **more):
        """Return the environment, in which the program is that of `current`."""
        return super().environ(**more, PYTHONPATH=self.current.resolve())

    def start(self, *, ready=True):
        """Start gunicorn as pkgd.service does: the schema first, then with the socket."""
        subprocess.run([BIN / "flask", "--app", "app", "init-db"], **self._place())
        hand_over = HAND_OVER.format(descriptor=self.listener.fileno())
        gunicorn = [BIN / "gunicorn", "--config", self.current.resolve() / "gunicorn.conf.py"]
        argv = ["bash", "-c", hand_over, "bash", *gunicorn, "app:create_app()"]
        self.server = self._spawn(argv, [self.listener.fileno()])
        if ready:
            self.await_ready()
        return self

    def restart(self):
        """Do what `systemctl restart pkgd` does."""
        assert self.stop() == 0
        self.start(ready=False)

    def _place(self):
        return {"env": self.environ(), "cwd": self.folder(), "capture_output": True}


def next_release(folder, before, number):
    """Make a folder with a later release, which changes the schema after revision `before`.

    It is the `number`th release from here, counted from 0, and each of them has a revision more.
    """
    folder.mkdir()
    for path in [*ROOT.glob("*.py"), ROOT / "pyproject.toml"]:
        shutil.copy(path, folder)
    packages = [path.parent.name for path in ROOT.glob("*/__init__.py")]
    for name in (*packages, "catalog", "migrations", "pages"):
        shutil.copytree(ROOT / name, folder / name)
    for revision in range(FIRST_REVISION, FIRST_REVISION + number + 1):
        new = folder / "migrations" / "versions" / f"{revision}_new.py"
        new.write_text(MIGRATION.format(revision=revision, before=before))
        before = revision


class Load:
    """Requests at an even pace, each on a connection of its own, and what became of them."""

    def __init__(self, secret, places, per_second):
        """Send to each of the places in turn: (port, TLS context or None)."""
        self.headers = {"Authorization": f"Token {secret}", "Content-Type": "application/json"}
        self.places = cycle(places)
        self.per_second = per_second
        self.answers = Counter()
        self.lost = []
        self.without_retry_after = 0
        self.slowest = 0.0
        self._numbers = count()
        self._lock = threading.Lock()
        self._ended = threading.Event()

    @property
    def sent(self):
        """How many requests were sent."""
        return self.answers.total() + len(self.lost)

    @contextmanager
    def running(self):
        """Send requests as long as the `with` block runs, and wait for all answers."""
        with ThreadPoolExecutor(SENDERS) as senders:
            thread = threading.Thread(target=self._send_all, args=[senders])
            thread.start()
            try:
                yield self
            finally:
                self._ended.set()
                thread.join()

    def _send_all(self, senders):
        began = time.monotonic()
        for number in count():
            pause = began + number / self.per_second - time.monotonic()
            if self._ended.wait(max(0, pause)):
                return
            senders.submit(self._send, number, *next(self.places))

    def _send(self, number, port, tls):
        method, path, body = [
            ("GET", "/api/v1/packages?limit=10", None),
            ("POST", "/api/v1/packages", {"name": "loaded", "version": f"{number}.0.0"}),
            ("GET", "/api/v1/tasks?limit=10", None),
            ("GET", "/livez", None),
        ][number % 4]
        began = time.monotonic()
        try:
            status, retry_after = self._ask(port, tls, method, path, body and json.dumps(body))
        except (OSError, http.client.HTTPException) as error:
            with self._lock:
                self.lost.append(
                    f"{method} {path} after {time.monotonic() - began:.1f} s: {error!r}"
                )
            return
        with self._lock:
            self.answers[status] += 1
            self.slowest = max(self.slowest, time.monotonic() - began)
            self.without_retry_after += status == 503 and retry_after is None

    def _ask(self, port, tls, method, path, body):
        if tls:
            link = http.client.HTTPSConnection(
                "127.0.0.1", port, timeout=TIMEOUT_SECONDS, context=tls
            )
        else:
            link = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
        try:
            link.request(method, path, body, {**self.headers, "Connection": "close"})
            answer = link.getresponse()
            answer.read()
            return answer.status, answer.getheader("Retry-After")
        finally:
            link.close()
