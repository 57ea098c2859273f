"""A process that has no file descriptors left refuses what needs one, and goes on."""

import resource
import socket
from contextlib import contextmanager

import figures
import psutil
from support import SQLITE, until


@contextmanager
def exhausted(process):
    """Let a process open nothing more: the descriptors that it has stay open."""
    limits = process.rlimit(psutil.RLIMIT_NOFILE)
    process.rlimit(psutil.RLIMIT_NOFILE, (3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    yield
    process.rlimit(psutil.RLIMIT_NOFILE, limits)


@SQLITE
def test_a_process_without_descriptors_answers_503_and_goes_on(service, database_url):
    service.settings |= {"WEB_PROCESSES": 1, "WORKER_THREADS": 1}
    service.start().sign_in()
    service.ended(service.schedule())
    service.session.headers["Connection"] = "keep-alive"  # a new connection would have to wait
    service.get("packages")
    processes = service.web_processes()

    with exhausted(processes[0]), socket.create_connection(("127.0.0.1", service.port)) as waiting:
        waiting.sendall(b"GET /livez HTTP/1.0\r\n\r\n")
        until(lambda: "no connection is accepted" in service.said())
        assert service.request("POST", "package/1/activate").status_code == 503
        until(lambda: "will retry" in service.said())  # the worker thread
    with socket.create_connection(("127.0.0.1", service.port)) as after:
        after.sendall(b"GET /livez HTTP/1.0\r\n\r\n")
        assert b" 200 " in after.recv(100)

    assert service.post("package/1/activate") == {"status": "activated"}
    assert service.ended(service.schedule("hello", "2.10.0"))["status"] == "succeeded"
    assert service.web_processes() == processes
    assert service.stop() == 0
    figures.keep(
        "a process that can open no more files or connections (RLIMIT_NOFILE)",
        database_url,
        "once",
        "new connections waited, requests got 503; no process lost, all as before afterwards",
    )
