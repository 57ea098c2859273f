"""What a service survives: killed and stopped processes, a database that goes away, a full disk."""

import signal
import time

import figures
import pytest
from conftest import until
from recipes import Recipes
from service import Service

LEASE_SECONDS = 3
RETURN_SECONDS = 15
SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def service(settings, tmp_path):
    """A service that isn't started yet, whose only packages are those that the test makes up."""
    recipes = Recipes(tmp_path)
    with Service(settings | {"CATALOGS": recipes.catalog}) as service:
        service.recipes = recipes
        yield service


@pytest.fixture
def running(service):
    """The service, which runs and knows its administrator."""
    service.start().sign_in()
    return service


@pytest.fixture
def server_alone(service):
    """The service without workers: a test starts them in processes of their own."""
    service.settings |= {"WORKER_THREADS": 0, "WEB_PROCESSES": 1, "LEASE_SECONDS": LEASE_SECONDS}
    service.start().sign_in()
    return service


@SQLITE
def test_a_build_that_was_killed_with_everything_runs_again_at_once(running, database_url):
    task_id = running.schedule(running.recipes.add_watched("slow", "sleep 5"), "1.0.0")
    until(lambda: running.recipes.is_building("slow"))

    running.kill()
    restarted = time.monotonic()
    running.start()
    task = running.ended(task_id)
    seconds = time.monotonic() - restarted

    assert (task["status"], task["attempt"]) == ("succeeded", 2)
    assert seconds < RETURN_SECONDS + 5
    assert running.recipes.built_twice_at_once() == []
    figures.keep(
        "`kill -9` of everything during a 5 s build, restart",
        database_url,
        "once",
        f"succeeded {seconds:.1f} s after the restart, attempt 2",
    )


def test_kills_of_everything_lose_no_task(running, database_url):
    slowest = max(over_a_kill(running, number) for number in range(figures.ROUNDS))

    assert slowest < RETURN_SECONDS
    assert running.recipes.built_twice_at_once() == []
    figures.keep(
        "`kill -9` of gunicorn and everything under it with 4 tasks running and 2 queued, restart",
        database_url,
        f"{figures.ROUNDS} rounds, {figures.ROUNDS * 6} tasks",
        f"0 lost, 0 run twice at once; all 4 ran again {slowest:.1f} s after the restart at most",
    )


def over_a_kill(service, number):
    """Kill everything while tasks run and wait, and start again; return how long that took."""
    ids = schedule(service, f"round-{number}", 6, service.recipes.gate(f"go-{number}"))
    until(lambda: building(service, f"round-{number}", 6) == 4)

    service.kill()
    restarted = time.monotonic()
    service.start()
    until(lambda: building(service, f"round-{number}", 6) == 4)
    seconds = time.monotonic() - restarted

    service.recipes.open(f"go-{number}")
    tasks = [service.ended(task_id) for task_id in ids]
    assert [task["status"] for task in tasks] == ["succeeded"] * 6
    assert [task["attempt"] for task in tasks] == [2, 2, 2, 2, 1, 1]
    return seconds


@SQLITE
def test_a_build_whose_service_alone_was_killed_is_not_run_twice_at_once(running):
    running.recipes.add_watched("slow", running.recipes.gate("go"))
    task_id = running.schedule("slow", "1.0.0")
    until(lambda: running.recipes.is_building("slow"))

    for process in [running.server, *running.web_processes()]:
        process.kill()
    running.server.wait()
    running.start()
    until(lambda: running.recipes.said("slow") == ["start", "start"])
    running.recipes.open("go")

    assert (running.ended(task_id)["status"], running.task(task_id)["attempt"]) == ("succeeded", 2)
    assert running.recipes.built_twice_at_once() == []


@SQLITE
def test_a_killed_process_leaves_its_task_to_the_other_one_at_once(running):
    running.recipes.add_watched("slow", running.recipes.gate("go"))
    task_id = running.schedule("slow", "1.0.0")
    until(lambda: running.recipes.is_building("slow"))

    (busy,) = [process for process in running.web_processes() if process.children()]
    busy.kill()
    until(lambda: running.recipes.said("slow") == ["start", "start"], RETURN_SECONDS)
    running.recipes.open("go")

    assert (running.ended(task_id)["status"], running.task(task_id)["attempt"]) == ("succeeded", 2)
    assert running.recipes.built_twice_at_once() == []


def schedule(service, name, count, script):
    """Ask for so many packages with this script to be downloaded; return the tasks' ids."""
    names = [service.recipes.add_watched(f"{name}-{n}", script) for n in range(count)]
    return [service.schedule(each, "1.0.0") for each in names]


def building(service, name, count):
    """Return how many of these packages are being built at this moment."""
    return sum(service.recipes.is_building(f"{name}-{n}") for n in range(count))


def test_a_killed_workers_task_goes_to_a_worker_elsewhere_after_the_lease(
    server_alone, database_url, tmp_path
):
    taken = []
    for number in range(figures.ROUNDS):
        first = worker_elsewhere(server_alone, tmp_path / f"first-{number}")
        name = server_alone.recipes.add_watched(f"slow-{number}", "sleep 1")
        task_id = server_alone.schedule(name, "1.0.0")
        until(lambda name=name: server_alone.recipes.is_building(name))
        second = worker_elsewhere(server_alone, tmp_path / f"second-{number}")

        first.kill()
        killed = time.monotonic()
        until(lambda name=name: len(server_alone.recipes.said(name)) > 1)
        taken.append(time.monotonic() - killed)
        task = server_alone.ended(task_id)

        assert (task["status"], task["attempt"]) == ("succeeded", 2)
        second.terminate()

    assert max(taken) < LEASE_SECONDS + RETURN_SECONDS
    assert server_alone.recipes.built_twice_at_once() == []
    figures.keep(
        f"one of two workers on different hosts killed (lease {LEASE_SECONDS} s)",
        database_url,
        f"{figures.ROUNDS} rounds",
        f"0 lost, 0 run twice at once; taken over within {max(taken):.1f} s",
    )


def worker_elsewhere(service, folder):
    """Start a worker that has nothing in common with the others but the database, as if far away.

    Its folder is below the service's, so that the service finds what it leaves.
    """
    return service.start_worker(WORKER_THREADS=1, DATA_DIR=service.data_dir / folder.name)


def test_a_stopped_worker_that_wakes_after_its_lease_writes_nothing(server_alone, database_url):
    for number in range(figures.ROUNDS):
        first = server_alone.start_worker(WORKER_THREADS=1)
        name = server_alone.recipes.add_watched(f"slow-{number}", "echo said; sleep 1")
        task_id = server_alone.schedule(name, "1.0.0")
        until(lambda id_=task_id: b"said" in server_alone.task_log(id_))
        first.send_signal(signal.SIGSTOP)
        second = server_alone.start_worker(WORKER_THREADS=1)
        ended = server_alone.ended(task_id), server_alone.task_log(task_id, attempt=1)

        first.send_signal(signal.SIGCONT)
        until(lambda n=number: server_alone.said().count("its lease is gone") == n + 1)

        assert (server_alone.task(task_id), server_alone.task_log(task_id, attempt=1)) == ended
        assert (ended[0]["status"], ended[0]["attempt"]) == ("succeeded", 2)
        for worker in (first, second):
            worker.terminate()
            worker.wait(30)

    assert server_alone.recipes.built_twice_at_once() == []
    figures.keep(
        f"a worker stopped (SIGSTOP) past its lease ({LEASE_SECONDS} s), then woken",
        database_url,
        f"{figures.ROUNDS} rounds",
        "another worker did the task; the woken one wrote nothing",
    )


def test_many_processes_work_off_the_queue_each_task_once(service, database_url):
    processes = 2 if database_url.startswith("sqlite") else 4
    service.settings["WEB_PROCESSES"] = processes
    service.start().sign_in()

    tasks = [service.ended(id_, 300) for id_ in schedule(service, "quick", figures.TASKS, "true")]

    assert {(task["status"], task["attempt"]) for task in tasks} == {("succeeded", 1)}
    for number in range(figures.TASKS):
        assert service.recipes.said(f"quick-{number}") == ["start", "end"]
    figures.keep(
        "tasks worked off by several processes at once",
        database_url,
        f"{processes} processes, {figures.TASKS} tasks",
        "each built once",
    )
