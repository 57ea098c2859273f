"""How gunicorn.conf.py has gunicorn listen."""

import gc
import logging
import os
import runpy
import signal
import socket
from types import SimpleNamespace

import pytest
from gunicorn.config import Config
from hostile import status_of
from proxy import ContainerNginx
from service import ROOT, Service
from support import until

WARNING = "is open to other machines without a proxy"


def service_in(folder, store_dir):
    """Return a service that isn't started yet, with one process."""
    settings = {"DATA_DIR": folder / "data", "STORE_DIR": store_dir, "MIN_FREE_BYTES": 1}
    return Service(settings | {"WORKER_THREADS": 0, "WEB_PROCESSES": 1})


@pytest.fixture
def service(tmp_path, store_dir):
    """A service that isn't started yet; the test may change its settings."""
    with service_in(tmp_path, store_dir) as service:
        service.init_db()
        yield service


@pytest.fixture(scope="module")
def usual(tmp_path_factory, store_dir):
    """A running service whose settings say nothing of where it listens."""
    with service_in(tmp_path_factory.mktemp("usual"), store_dir) as service:
        yield service.init_db().start()


def test_a_start_for_this_machine_alone_warns_of_nothing(usual):
    assert WARNING not in usual.said()


def test_a_start_counts_and_logs_no_request_that_nobody_sent(service):
    service.start().sign_in()

    metrics = service.session.get(f"{service.url}/metrics").text

    assert 'route="/readyz"' in metrics
    assert 'route="/hello"' not in metrics
    assert "/hello" not in service.said()


@pytest.mark.parametrize(
    ("bind", "proxies", "warned"),
    [("0.0.0.0", 0, True), ("0.0.0.0", 1, False), ("localhost", 0, False)],
)
def test_a_start_without_a_proxy_warns_where_other_machines_can_connect(
    service, bind, proxies, warned
):
    service.settings |= {"BIND": bind, "TRUSTED_PROXIES": proxies}

    service.start()

    assert service.said().count(WARNING) == (1 if warned else 0)
    assert service.stop() == 0


def test_an_ipv6_address_is_listened_on(service):
    service.settings["BIND"] = "::1"
    service.url = f"http://[::1]:{service.port}"

    service.start()

    assert service.is_ready()
    assert service.stop() == 0


def test_a_unix_socket_is_served_and_local(service, tmp_path):
    path = tmp_path / "socket"
    service.settings["BIND"] = f"unix:{path}"

    service.start(ready=False)
    until(path.exists)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = client.recv(1000)

    assert answer.startswith(b"HTTP/1.1 200")
    assert WARNING not in service.said()
    assert service.stop() == 0


@pytest.mark.parametrize("header", ["PATH_INFO: /livez", "SCRIPT_NAME: /nope"])
def test_a_header_never_stands_in_for_the_path(usual, header):
    request = f"GET /api/v1/packages HTTP/1.1\r\nHost: x\r\n{header}\r\nConnection: close\r\n\r\n"

    assert status_of(usual.port, request.encode()) == 401


@pytest.mark.parametrize(
    ("proxies", "address", "docs"),
    [(1, "127.0.0.1", b"and /docs shows"), (2, "192.0.2.7", b"and /pkgd/docs shows")],
)
def test_the_nginx_of_the_container_passes_on_the_address_of_the_client_and_the_prefix(
    service, tmp_path, proxies, address, docs
):
    path = tmp_path / "socket"
    service.settings |= {"BIND": f"unix:{path}", "TRUSTED_PROXIES": proxies}
    service.settings |= {"APP_ENV": "production", "SECRET_KEY": "k" * 32}

    service.start(ready=False)
    until(path.exists)
    with ContainerNginx(tmp_path, path) as nginx, nginx.connect() as client:
        forwarded = b"X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Prefix: /pkgd\r\n\r\n"
        client.sendall(b"GET /nope HTTP/1.0\r\nHost: x\r\n" + forwarded)
        answer = b"".join(iter(lambda: client.recv(1000), b""))

    assert answer.startswith(b"HTTP/1.1 401")
    assert docs in answer
    assert f'"address": "{address}"' in service.said()
    assert service.stop() == 0


def test_a_catalog_that_fails_is_in_the_log_of_the_start(service, tmp_path):
    service.settings["CATALOGS"] = f"'{tmp_path}/my pins'"

    service.start(ready=False)

    line = f"catalog {tmp_path}/my pins fails: "
    until(lambda: line in service.said(), explain=service.said)
    assert service.stop() == 0


def test_gunicorn_keeps_no_log_of_requests(service):
    service.start().sign_in()

    assert service.get("packages") == []

    assert "GET /api/v1/packages" not in service.said()
    assert service.said().count("POST /api/v1/tokens") == 1


@pytest.fixture
def configuration(monkeypatch, tmp_path):
    """What gunicorn.conf.py defines."""
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "")  # which the configuration changes
    settings = runpy.run_path(str(ROOT / "gunicorn.conf.py"))
    gc.enable()  # which it disables until gunicorn forks
    return settings


@pytest.fixture
def logger(configuration):
    """The logger that gunicorn.conf.py gives to gunicorn."""
    yield configuration["QuietLogger"](Config())
    for name in ("gunicorn.error", "gunicorn.access"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True


@pytest.mark.parametrize(("error", "shown"), [(ValueError(), True), (BlockingIOError(), False)])
def test_only_a_client_that_stalls_is_logged_without_a_traceback(logger, caplog, error, shown):
    try:
        raise error
    except type(error):
        logger.exception("an error")

    assert ("Traceback" in caplog.text) is shown


def test_a_master_whose_worker_is_gone_still_hears_signals(configuration):
    before = signal.getsignal(signal.SIGTERM)

    configuration["worker_exit"](None, SimpleNamespace(pid=os.getppid()))

    assert signal.getsignal(signal.SIGTERM) == before


def test_another_fault_of_a_listening_socket_is_not_waited_for(configuration):
    worker = object.__new__(configuration["PatientWorker"])
    closed = socket.socket()
    closed.close()

    with pytest.raises(OSError, match="Bad file descriptor"):
        worker.accept(closed)
