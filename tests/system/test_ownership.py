"""What a server has is not taken from it: its address, its metrics, its tasks."""

import os
import re
import signal
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

import figures
import psutil
import pytest
from service import BIN, ROOT, Service
from support import EITHER, SQLITE, until

import metrics_folder

IN_USE = "pkgd: can't listen on {}: another program uses it (BIND and PORT say where to listen)"


@pytest.fixture
def single(service):
    """A service of one process that only serves, not started yet."""
    service.settings |= {"WORKER_THREADS": 0, "WEB_PROCESSES": 1}
    return service


def refusals(service):
    """Start a server that has to end; return the lines in which the log says why."""
    first = service.server
    service.start(ready=False)
    second, service.server = service.server, first
    assert second.wait(15) == 1
    return [line for line in service.said().splitlines() if line.startswith("pkgd: ")]


def registrations(service):
    """Return how many packages the server's metrics say that it has registered."""
    text = service.session.get(f"{service.url}/metrics").text
    count = r'pkgd_request_seconds_count{code="201",method="POST",route="/api/v1/packages"} (.*)'
    found = re.search(count, text)
    return float(found[1]) if found else 0


def metrics_of(pid):
    """Return the folder that a server has locked for its metrics."""
    opened = [Path(file.path) for file in psutil.Process(pid).open_files()]
    (lock,) = [path for path in opened if path.name == metrics_folder.LOCK]
    return lock.parent


@EITHER
def test_a_second_start_on_a_taken_port_costs_the_first_nothing(service, recipes, database_url):
    service.start().sign_in()
    task_id = service.schedule(recipes.add_watched("slow", recipes.gate("go")), "1.0.0")
    until(lambda: recipes.is_building("slow"))

    said = [refusals(service)[-1] for _ in range(figures.ROUNDS)]
    assert set(said) == {IN_USE.format(f"127.0.0.1:{service.port}")}

    recipes.open("go")
    assert service.ended(task_id)["attempt"] == 1
    assert registrations(service) == 1
    figures.keep(
        "a second start on a taken port, with the same DATA_DIR",
        database_url,
        figures.rounds(),
        "refused in one line; the first one's task, metrics and socket untouched",
    )


@SQLITE
def test_a_unix_socket_is_not_taken_from_its_server(single, tmp_path):
    path = tmp_path / "socket"
    single.settings["BIND"] = f"unix:{path}"
    single.start(ready=False)
    until(path.exists)

    assert refusals(single) == [IN_USE.format(f"unix:{path}")]

    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


@SQLITE
@pytest.mark.parametrize(
    ("bind", "reason"),
    [
        ("192.0.2.1", "Cannot assign requested address"),
        ("no.such.name.invalid", "Name or service not known"),
        ("unix:{data}/app.db", "File exists"),
    ],
)
def test_an_address_that_cannot_be_listened_on_is_told_in_one_line(single, bind, reason):
    single.settings["BIND"] = bind.format(data=single.data_dir)

    (said,) = refusals(single)

    assert re.fullmatch(f"pkgd: can't listen on .*: {reason}", said)


def answers(path):
    """Tell whether a server on a Unix socket is alive."""
    with socket.socket(socket.AF_UNIX) as client, suppress(OSError):
        client.settimeout(10)
        client.connect(str(path))
        client.sendall(b"GET /livez HTTP/1.0\r\n\r\n")
        return b" 200 " in client.recv(64)
    return False


@SQLITE
def test_a_socket_that_a_killed_server_left_is_used_again(single, tmp_path):
    path = tmp_path / "socket"
    single.settings["BIND"] = f"unix:{path}"
    single.start(ready=False)
    until(path.exists)
    single.kill()

    single.start(ready=False)
    until(lambda: answers(path), explain=single.said)

    assert single.stop() == 0


@SQLITE
def test_two_servers_of_one_data_dir_keep_their_own_metrics(single):
    single.start().sign_in()
    single.register("one", "1.0.0")
    with Service(single.settings | {"WEB_PROCESSES": 1}) as other:
        other.session.headers.update(single.session.headers)
        other.log = single.data_dir.parent / "other.log"
        other.start()
        for version in ("1.0.0", "2.0.0"):
            other.register("other", version)

        assert (registrations(single), registrations(other)) == (1, 2)
        assert other.stop() == 0
        assert registrations(single) == 1


@SQLITE
def test_a_reload_keeps_the_metrics(single):
    single.start().sign_in()
    single.register()
    (before,) = single.web_processes()

    single.server.send_signal(signal.SIGHUP)
    until(lambda: before not in single.web_processes() and single.is_ready())

    assert registrations(single) == 1


@SQLITE
def test_an_upgrade_of_gunicorn_leaves_the_new_server_its_metrics(single):
    single.start().sign_in()
    single.server.send_signal(signal.SIGUSR2)
    until(lambda: single.said().count("Booting worker") == 2, explain=single.said)
    new = next(each for each in single.web_processes() if each.children())
    assert single.stop() == 0

    single.register()

    assert registrations(single) == 1
    folder = metrics_of(new.pid)
    new.terminate()
    until(lambda: single.left() == [])
    assert not folder.exists()


@SQLITE
def test_a_start_removes_the_metrics_of_a_server_that_was_killed(single):
    single.start()
    left = metrics_of(single.server.pid)
    single.kill()

    single.start()

    assert not left.exists()


PROCESSES, COMMANDS = ["gunicorn", "run-worker"], ["reconcile", "gc"]


@EITHER
def test_whoever_comes_with_another_store_dir_is_refused(service, flask, tmp_path, database_url):
    service.start().sign_in()
    package_id = service.register()
    service.ended(service.post(f"package/{package_id}/download")["task_id"])
    service.post(f"package/{package_id}/activate")
    generation = (service.data_dir / "profile").readlink()
    assert service.stop() == 0

    for _ in range(figures.ROUNDS):
        for name in PROCESSES:
            assert refusal_of(service, name, STORE_DIR=tmp_path / "another").count("\n") == 1
        for name in COMMANDS:
            refused = flask(name, STORE_DIR=tmp_path / "another")
            assert (refused.exit_code, refused.output.count("\n")) == (os.EX_CONFIG, 1), (
                refused.output
            )
            assert " belongs to the store " in refused.output

    service.start()
    assert service.get(f"package/{package_id}")["status"] == "activated"
    assert (service.data_dir / "profile").readlink() == generation
    assert (service.data_dir / "profile" / "bin" / "hello").exists()
    figures.keep(
        "gunicorn, `reconcile`, `gc` and `run-worker` with another STORE_DIR",
        database_url,
        figures.rounds(f"{figures.ROUNDS * len(PROCESSES + COMMANDS)} commands"),
        "all refused in one line; 0 packages lost",
    )


def refusal_of(service, name, **settings):
    """Start gunicorn or a worker, which the data folder refuses; return what it says of that."""
    argv = [BIN / "gunicorn", "--config", ROOT / "gunicorn.conf.py", "app:create_app()"]
    if name != "gunicorn":
        argv = [BIN / "flask", "--app", "app", name]
    environ, folder = service.environ(**settings), service.folder()
    done = subprocess.run(argv, env=environ, cwd=folder, capture_output=True, text=True)
    assert done.returncode == os.EX_CONFIG, done.stderr
    said = [line for line in done.stderr.splitlines() if "gunicorn.error" not in line]
    assert " belongs to the store " in said[0], done.stderr
    return "\n".join((*said, ""))
