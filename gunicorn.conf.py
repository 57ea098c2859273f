"""How gunicorn serves pkgd; a bad configuration ends the start before a port opens.

A proxy in front (deploy/nginx.conf) buffers requests and answers: gunicorn gives each connection a
thread while it reads and writes, so a slow client would hold one.
"""

import errno
import gc
import ipaddress
import logging
import os
import signal
import socket
import struct
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from flask import Flask
from gunicorn.glogging import Logger
from gunicorn.workers.gthread import ThreadWorker
from werkzeug.test import create_environ

import errors
import health
import log_config
import metrics_folder
import services
from catalogs.state import Catalogs
from config import PRODUCTION, STALL_SECONDS, ConfigError, listen_address, load, refuse_start
from worker import Pool

log = logging.getLogger("pkgd.server")

# Until the fork: collections meanwhile free little, and take 0.07 s of a start.
gc.disable()

ACCEPT_SECONDS = 0.5  # how long to wait for descriptors
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
# Set where a parent, gunicorn before an upgrade (USR2) or systemd, hands its sockets over.
INHERITED_SOCKETS = {"GUNICORN_FD", "LISTEN_FDS"}
IN_USE = {errno.EADDRINUSE, errno.EAGAIN}

try:
    settings = load()
except ConfigError as error:
    refuse_start(error)

production = settings["APP_ENV"] == PRODUCTION
metrics_folder.announce()


class QuietLogger(Logger):  # type: ignore[misc] # gunicorn ships no types
    """gunicorn's log, with less in it."""

    def access(self, *_: Any) -> None:
        """Log nothing: the service logs requests itself.

        With a logging configuration, gunicorn formats each access line even if no handler takes
        it: 16 µs of CPU per request.
        """

    def exception(self, msg: object, *args: Any, **kwargs: Any) -> None:
        """Log an exception with its traceback, but a client that stalled in one line."""
        if isinstance(sys.exception(), (BlockingIOError, TimeoutError)):
            self.info("closed a connection: a client stalled for %d s", STALL_SECONDS)
        else:
            super().exception(msg, *args, **kwargs)


class PatientWorker(ThreadWorker):  # type: ignore[misc] # gunicorn ships no types
    """gunicorn's worker, which goes on when the process has no file descriptor for a connection."""

    def accept(self, listener: Any) -> None:
        """Accept a connection; where there is no descriptor for it, let it wait for one.

        gunicorn's own would end the process, with all that it is doing.
        """
        try:
            super().accept(listener)
        except OSError as error:
            if error.errno not in errors.HOST_LIMITS:
                raise
            self.log.warning("no connection is accepted: %s", error.strerror)
            time.sleep(ACCEPT_SECONDS)


bind = listen_address(settings)
worker_class = PatientWorker
logger_class = QuietLogger
workers = settings["WEB_PROCESSES"]
threads = settings["WEB_THREADS"]
preload_app = True
# Not reuse_port: on a reload, a process that ends keeps its own listening socket for 2 s, and the
# connections that the kernel gives it in that time are reset.
graceful_timeout = 30
timeout = 60
keepalive = 15
limit_request_line = 4094
limit_request_fields = 50
limit_request_field_size = 4096
# None: a client's own SCRIPT_NAME, which Caddy passes on, would be a 500.
forwarder_headers = ""
control_socket_disable = True
logconfig_dict = log_config.config(production=production)


def on_starting(server: Any) -> None:
    """End the start before a port opens if the service could not work.

    Else do the first upkeep, and whatever else the processes then need not do each by itself.
    """
    if INHERITED_SOCKETS.isdisjoint(os.environ):
        check_address(bind)
    app = server.app.wsgi()
    health.check_start(app)
    services.get(Pool, app).begin()
    greet(app)


def greet(app: Flask) -> None:
    """Have a request answered that nobody sent, and that is neither counted nor logged.

    What Flask makes at the first one is then in memory that the processes share: 0.7 MiB less.
    """
    with app.request_context(create_environ("/hello")):
        app.preprocess_request()
        app.dispatch_request()


def check_address(address: str) -> None:
    """Raise SystemExit, with one line, where another server or anything else prevents listening.

    gunicorn itself tries for five seconds, and takes a Unix socket from the server that has it.
    """
    try:
        if address.startswith("unix:"):
            try_unix_socket(address.removeprefix("unix:"))
        else:
            try_port(settings["BIND"], settings["PORT"])
    except OSError as error:
        used = "another program uses it (BIND and PORT say where to listen)"
        how = used if error.errno in IN_USE else error.strerror or error
        raise SystemExit(f"pkgd: can't listen on {address}: {how}") from None


def try_port(host: str, port: int) -> None:
    """Raise OSError if the port can't be listened on."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))


def try_unix_socket(path: str) -> None:
    """Raise OSError if a server has the socket, or the path is that of something else."""
    with (
        suppress(FileNotFoundError, ConnectionRefusedError),  # a killed server leaves its socket
        socket.socket(socket.AF_UNIX) as probe,
    ):
        probe.setblocking(False)
        probe.connect(path)
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    if os.path.exists(path) and not Path(path).is_socket():
        raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))


def when_ready(server: Any) -> None:
    """Create the folder of metrics; warn if other machines can connect without a proxy."""
    metrics_folder.create()
    for line in os.environ.pop("PKGD_BANNER", "").splitlines():
        print(line, flush=True)  # what script/server has to say, now that it is true
    exposed = [listener for listener in server.LISTENERS if not is_local(listener.getsockname())]
    if exposed and settings["TRUSTED_PROXIES"] == 0:
        log.warning(
            "%s is open to other machines without a proxy in front (TRUSTED_PROXIES=0): "
            "slow clients can keep everybody from being served",
            exposed[0],
        )


def is_local(name: Any) -> bool:
    """Tell whether only this machine reaches a socket, by its name: a Unix socket's is a path."""
    return isinstance(name, str) or ipaddress.ip_address(name[0]).is_loopback


def pre_fork(_server: object, _worker: object) -> None:
    """Move all loaded objects out of the garbage collector's reach: their memory stays shared.

    A collection before that would take 0.1 s of the start, and free no memory to speak of. The
    processes that are forked collect garbage as usual.
    """
    gc.freeze()
    gc.enable()


def post_fork(_server: object, worker: Any) -> None:
    """Limit how long a client may stall, and let signals end a process that has not booted yet.

    Linux copies the two time-outs from a listening TCP socket to the connections it accepts. They
    are set here, and not only at the start, because a reload may open other sockets.
    """
    for number in ENDING:
        signal.signal(number, signal.SIG_DFL)

    limit = struct.pack("ll", STALL_SECONDS, 0)
    for listener in worker.sockets:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)


def post_worker_init(worker: Any) -> None:
    """Start the worker pool, and a look at the catalogs: threads don't survive a fork."""
    pool = services.get(Pool, worker.wsgi)
    end_serving: dict[int, Any] = {number: signal.getsignal(number) for number in ENDING}

    def end(number: int, frame: FrameType | None) -> None:
        # A terminal's Ctrl-C comes twice, from the kernel and from gunicorn's master. The second
        # signal must not wait in `set` for the first, nor end worker_exit by its SystemExit.
        ignore_signals()
        # Before gunicorn waits: requests that follow a build end only when the pool is stopping.
        pool.stopping.set()
        if number == signal.SIGTERM:
            signal.signal(signal.SIGQUIT, end)  # it may still be hurried
        end_serving[number](number, frame)

    for number in ENDING:
        signal.signal(number, end)
    pool.start(catalogs_apart=True)
    services.get(Catalogs, worker.wsgi).look()


def ignore_signals() -> None:
    """Let no signal but SIGKILL disturb the end of a process, which puts its tasks back."""
    for number in ENDING:
        # Not SIG_IGN, which programs of Nix that are started now would inherit.
        signal.signal(number, lambda _number, _frame: None)


def on_exit(_server: object) -> None:
    """Remove the metrics from memory."""
    metrics_folder.remove()


def worker_exit(_server: object, worker: Any) -> None:
    """Put running tasks back in the queue and end their builds."""
    if worker.pid == os.getpid():  # the master calls this, too, for a worker that is gone
        ignore_signals()
        services.get(Pool, worker.wsgi).stop()
