"""How gunicorn serves pkgd; a bad configuration ends the start before a port opens."""

import gc
import os
import shutil
import signal
from pathlib import Path
from types import FrameType
from typing import Any

import health
import log_config
import services
from config import PRODUCTION, ConfigError, load
from worker import Pool

try:
    settings = load()
except ConfigError as error:
    raise SystemExit(f"pkgd: {error}") from None

production = settings["APP_ENV"] == PRODUCTION
# in memory: to write to a file that is mapped from a full disk would end the process
metrics_dir = Path("/dev/shm") / f"pkgd-{os.getuid()}-{settings['PORT']}"  # noqa: S108 # it's ours
SHARED = "PROMETHEUS_MULTIPROC_DIR"
if SHARED not in os.environ:  # it is there when gunicorn reads this again, for a reload
    shutil.rmtree(metrics_dir, ignore_errors=True)
    metrics_dir.mkdir(mode=0o700)
    os.environ[SHARED] = str(metrics_dir)  # before anything imports prometheus_client

bind = f"{settings['BIND']}:{settings['PORT']}"
worker_class = "reception.PatientWorker"
logger_class = "reception.QuietLogger"
workers = settings["WEB_PROCESSES"]
threads = settings["WEB_THREADS"]
preload_app = True
graceful_timeout = 30
timeout = 60
keepalive = 15
limit_request_line = 4094
limit_request_fields = 50
limit_request_field_size = 4096
control_socket_disable = True
logconfig_dict = log_config.config(production=production)


def on_starting(server: Any) -> None:
    """End the start, before a port opens, where it could not go well."""
    health.check_start(server.app.wsgi())


def pre_fork(_server: object, _worker: object) -> None:
    """Have the garbage collector pass over what is loaded by now: it stays, and stays shared."""
    gc.collect()
    gc.freeze()


def post_fork(_server: object, _worker: object) -> None:
    """Have a signal to stop end the process from its first moment, not get lost until it boots."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def post_worker_init(worker: Any) -> None:
    """Start the worker pool: after the fork, since threads don't survive one."""
    pool = services.get(Pool, worker.wsgi)
    pool.start()
    end_serving: Any = signal.getsignal(signal.SIGTERM)

    def end(number: int, frame: FrameType | None) -> None:
        # at once, not when the last request has been answered: some of them follow a build
        pool.stopping.set()
        end_serving(number, frame)

    signal.signal(signal.SIGTERM, end)


def on_exit(_server: object) -> None:
    """Leave nothing in memory."""
    shutil.rmtree(metrics_dir, ignore_errors=True)


def worker_exit(_server: object, worker: Any) -> None:
    """Put running tasks back in the queue and end their builds."""
    services.get(Pool, worker.wsgi).stop()
