"""What the queue survives: killed processes, stopped ones, many at once."""

import os
import random
import signal
import time

import figures
import pytest
from service import LIVE, STOP_SECONDS
from support import EITHER, SQLITE, until

LEASE_SECONDS = 3
RETURN_SECONDS = 15
MANY = 400  # packages


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

    assert end_of(running, task_id) == ("succeeded", 2)
    seconds = time.monotonic() - restarted
    assert seconds < RETURN_SECONDS + 5
    assert running.recipes.built_twice_at_once() == []
    ended = f"succeeded {seconds:.1f} s after the restart, attempt 2"
    figures.keep("`kill -9` of everything in a 5 s build, restart", database_url, "once", ended)


@EITHER
def test_kills_of_everything_lose_no_task(running, database_url):
    slowest = max(over_a_kill(running, number) for number in range(figures.ROUNDS))

    assert slowest < RETURN_SECONDS
    assert running.recipes.built_twice_at_once() == []
    figures.keep(
        "`kill -9` of gunicorn and everything under it with 4 tasks running and 2 queued, restart",
        database_url,
        figures.rounds(f"{figures.ROUNDS * 6} tasks"),
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


@EITHER
def test_ctrl_c_at_a_terminal_costs_no_attempt(running, database_url):
    ids = schedule(running, "slow", 4, running.recipes.gate("go"))

    for _ in range(figures.ROUNDS):
        until(lambda: building(running, "slow", 4) == 4)
        os.killpg(running.server.pid, signal.SIGINT)
        assert running.server.wait(STOP_SECONDS) == 0
        assert running.left() == []
        running.start()

    running.recipes.open("go")
    assert [end_of(running, task_id) for task_id in ids] == [("succeeded", 1)] * 4
    figures.keep(
        "Ctrl-C at a terminal (SIGINT to all processes) with 4 tasks running, restart",
        database_url,
        figures.rounds(f"{figures.ROUNDS * 4} tasks"),
        "0 lost, no attempt counted, no process left",
    )


@EITHER
def test_kills_during_an_apply_leave_the_old_set_or_the_new_one(running, database_url):
    folder, moment = running.data_dir / "profiles" / "team" / "share", random.Random(17)

    ends = [over_an_apply(running, number, folder, moment) for number in range(figures.ROUNDS)]

    assert {status for status, _ in ends} == {"succeeded"}
    again = sum(attempt > 1 for _, attempt in ends)
    figures.keep(
        "`kill -9` of everything at a random moment of an apply with 3 downloads, restart",
        database_url,
        figures.rounds(),
        f"the profile held the old set or the new one; each apply ended well, {again} ran twice",
    )


def over_an_apply(service, number, folder, moment):
    """Kill everything during an apply, and start again; return how the apply ended."""
    before = listed(folder)
    after = [f"set-{number}-{n}" for n in range(3)]
    for name in after:
        service.recipes.add(name, f"sleep 0.2; mkdir -p $out/share; touch $out/share/{name}")
    body = {"packages": [{"name": name, "version": "1.0.0"} for name in after]}
    answer = service.request("PUT", "profile/team", json=body)
    assert answer.status_code == 202, answer.text

    time.sleep(moment.uniform(0, 2))  # the moment is what varies
    service.kill()
    assert listed(folder) in (before, after)
    service.start()

    end = end_of(service, answer.json()["task_id"])
    assert listed(folder) == after
    shown = service.get("profile/team")
    assert [package["name"] for package in shown["packages"]] == after
    assert shown["store_path"] == str(folder.parent.resolve())
    return end


def listed(folder):
    """Return the names of the files in a folder, which may not be there."""
    return sorted(os.listdir(folder)) if folder.is_dir() else []


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


@EITHER
def test_a_killed_workers_task_goes_to_a_worker_elsewhere_after_the_lease(
    server_alone, database_url
):
    slowest = max(over_a_lease(server_alone, number) for number in range(figures.ROUNDS))

    assert slowest < LEASE_SECONDS + RETURN_SECONDS
    assert server_alone.recipes.built_twice_at_once() == []
    figures.keep(
        f"one of two workers on different hosts killed (lease {LEASE_SECONDS} s)",
        database_url,
        figures.rounds(),
        f"0 lost, 0 run twice at once; taken over within {slowest:.1f} s",
    )


def over_a_lease(service, number):
    """Kill a worker; return after how many seconds one elsewhere has taken its task."""
    first = worker_elsewhere(service, f"first-{number}")
    name = service.recipes.add_watched(f"slow-{number}", "sleep 1")
    task_id = service.schedule(name, "1.0.0")
    until(lambda: service.recipes.is_building(name))
    second = worker_elsewhere(service, f"second-{number}")

    first.kill()
    killed = time.monotonic()
    until(lambda: len(service.recipes.said(name)) > 1)
    seconds = time.monotonic() - killed

    assert end_of(service, task_id) == ("succeeded", 2)
    second.terminate()
    return seconds


def end_of(service, task_id):
    """Wait until the task has ended; return how it did, and in which attempt."""
    task = service.ended(task_id)
    return task["status"], task["attempt"]


def worker_elsewhere(service, name):
    """Start a worker that has nothing in common with the others but the database, as if far away.

    Its folder is below the service's, so that the service finds what it leaves.
    """
    return service.start_worker(WORKER_THREADS=1, DATA_DIR=service.data_dir / name)


@EITHER
def test_a_stopped_worker_that_wakes_after_its_lease_writes_nothing(server_alone, database_url):
    for number in range(figures.ROUNDS):
        over_a_stop(server_alone, number)

    assert server_alone.said().count("its lease is gone") == figures.ROUNDS
    assert server_alone.recipes.built_twice_at_once() == []
    figures.keep(
        f"a worker stopped (SIGSTOP) past its lease ({LEASE_SECONDS} s), then woken",
        database_url,
        figures.rounds(),
        "another worker did the task; the woken one wrote nothing",
    )


def over_a_stop(service, number):
    """Stop a worker until another has done its task, and wake it up again."""
    first = service.start_worker(WORKER_THREADS=1)
    name = service.recipes.add_watched(f"slow-{number}", "echo said; sleep 1")
    task_id = service.schedule(name, "1.0.0")
    until(lambda: b"said" in service.task_log(task_id))
    first.send_signal(signal.SIGSTOP)
    second = service.start_worker(WORKER_THREADS=1)
    assert end_of(service, task_id) == ("succeeded", 2)
    before = service.task(task_id), service.task_log(task_id, attempt=1)

    first.send_signal(signal.SIGCONT)
    until(lambda: service.said().count("its lease is gone") == number + 1)

    assert (service.task(task_id), service.task_log(task_id, attempt=1)) == before
    for worker in (first, second):
        worker.terminate()
        worker.wait(30)


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


@EITHER
def test_an_indexing_that_is_killed_goes_on_where_it_was(service, database_url, tmp_path):
    catalog = tmp_path / "own" / "default.nix"  # for the folder of a file counts as its state
    catalog.parent.mkdir()
    service.settings |= {"CATALOGS": catalog, "INDEX_BYTES": 2**28, "INDEX_VERIFY": "false"}
    write_catalog(catalog, 0, "1")
    service.start().sign_in()
    until(lambda: service.get("catalogs")[0]["index"] == "current")

    for number in range(figures.ROUNDS):
        over_a_kill_of_an_indexing(service, tmp_path / f"gate-{number}", number)

    figures.keep(
        "`kill -9` of everything halfway through the index of a changed catalog, restart",
        database_url,
        figures.rounds(),
        "each went on where it was and ended; until then the index of before served searches",
    )


def over_a_kill_of_an_indexing(service, gate, number):
    """Change the catalog, and kill everything once all of its index but the last is written."""
    os.mkfifo(gate)  # to read it blocks the evaluation of the last attribute
    write_catalog(service.settings["CATALOGS"], number + 1, f'builtins.readFile "{gate}"')
    assert service.command("catalog", "index").returncode == 0
    task_id = service.get("catalogs")[0]["index_task_id"]
    until(lambda: service.task(task_id)["progress"]["done"] == MANY + 1)

    service.kill()
    gate.unlink()
    gate.write_text("open")
    service.start()
    meanwhile = names(service)
    assert meanwhile == [f"made-{number}"] or service.task(task_id)["status"] not in LIVE

    assert (service.ended(task_id)["status"], service.task(task_id)["attempt"]) == ("succeeded", 2)
    assert f"pkgd: {MANY + 1} attributes are indexed already" in service.task_log(task_id).decode()
    assert names(service) == [f"made-{number + 1}"]


@EITHER
def test_a_verification_that_is_killed_goes_on_where_it_was(service, database_url, tmp_path):
    catalog, gate = tmp_path / "own" / "default.nix", tmp_path / "gate"
    catalog.parent.mkdir()
    os.mkfifo(gate)  # to read it blocks the evaluation of the last derivation
    write_catalog(catalog, 0, f'package "z" // {{ drvPath = builtins.readFile "{gate}"; }}')
    service.settings |= {"CATALOGS": catalog, "INDEX_BYTES": 2**28, "INDEX_VERIFY": "true"}
    service.start().sign_in()
    until(lambda: service.get("catalogs")[0]["verified"] == MANY + 1)

    service.kill()
    gate.unlink()
    gate.write_text("no path")
    service.start()

    until(lambda: service.get("catalogs")[0]["verification"] == "current")
    task = service.task(service.get("catalogs")[0]["verification_task_id"])
    assert (task["attempt"], task["progress"]["done"]) == (2, MANY + 2)
    assert f"{MANY + 1} versions are verified already" in service.task_log(task["id"]).decode()


def names(service):
    """Return the names that a search finds."""
    return [hit["name"] for hit in service.get("catalog?search=made-")]


def write_catalog(path, number, last):
    """Write a catalog of MANY and two, with made-NUMBER, and `last` to evaluate at the end."""
    package = (
        'pname: derivation { inherit pname; version = "1.0"; name = "${pname}-1.0"; system = "x";'
        ' builder = "x"; }'
    )
    many = f'builtins.genList (n: "a${{toString n}}") {MANY}'
    path.write_text(
        f"let package = {package}; in builtins.listToAttrs"
        f" (map (name: {{ inherit name; value = package name; }}) ({many}))"
        f' // {{ made-{number} = package "made-{number}"; z = {last}; }}'
    )
