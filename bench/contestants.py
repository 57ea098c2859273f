"""Those who serve: each a process, or several, on a port of its own."""

import os
import subprocess
import sys
import time
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path

import psutil
import requests
from service import ROOT, Service, free_port

HERE = Path(__file__).resolve().parent
BIN = Path(sys.executable).parent
MIB = 1024 * 1024
PROCESSES = 2
THREADS = 4
START_SECONDS = 60


class QuietService(Service):
    """A service that, when it is over, does not print its log as it does for tests."""

    def __exit__(self, *_):
        with redirect_stdout(None):
            super().__exit__()


def pkgd(folder, **settings):
    """Return the service, not started yet, on a new folder."""
    return QuietService(
        {
            "DATA_DIR": folder / "data",
            "STORE_DIR": folder / "nix",
            "SECRET_KEY": "for-the-benchmark-only-and-long-enough",
            "WEB_PROCESSES": PROCESSES,
            "WEB_THREADS": THREADS,
            "MIN_FREE_BYTES": 0,
            **settings,
        }
    )


@contextmanager
def bare():
    """Serve the bare Flask route; yield its URL and its process."""
    argv = [BIN / "gunicorn", "--config", HERE / "bare.conf.py", "bare:app"]
    with _serving(argv, WEB_PROCESSES=PROCESSES, WEB_THREADS=THREADS) as started:
        yield started


@contextmanager
def peer(db_path, secret_key):
    """Serve the FastAPI peer; yield its URL and its process."""
    port = free_port()
    argv = [BIN / "uvicorn", "--workers", str(PROCESSES), "--port", str(port)]
    settings = {"DB_PATH": db_path, "SECRET_KEY": secret_key}
    with _serving([*argv, "peer:app"], port=port, **settings) as started:
        yield started


@contextmanager
def _serving(argv, port=None, **settings):
    port = port or free_port()
    settings |= {"PORT": port, "PYTHONPATH": ROOT}
    environ = {name: str(value) for name, value in settings.items()}
    process = subprocess.Popen(
        argv, env={**os.environ, **environ}, cwd=HERE, stdout=subprocess.DEVNULL, stderr=None
    )
    url = f"http://127.0.0.1:{port}"
    try:
        _await(f"{url}/hello", process)
        yield url, process
    finally:
        process.terminate()
        process.wait(START_SECONDS)


def _await(url, process):
    deadline = time.monotonic() + START_SECONDS
    while True:
        with suppress(requests.ConnectionError):
            if requests.get(url, timeout=5).ok:
                return
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"{url} does not answer")
        time.sleep(0.01)


def pss_mib(process):
    """Return the memory of a process and all below it, what is shared counted once, in MiB."""
    top = psutil.Process(process.pid)
    return sum(one.memory_full_info().pss for one in [top, *top.children(recursive=True)]) / MIB
