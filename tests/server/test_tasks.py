"""The routes of tasks: looking up, waiting, cancelling, reading and following logs."""

import socket
import time
import uuid
from threading import Timer

import pytest
from support import SQLITE

import services
from models import Task, db
from tasks import FollowerSlots

UNKNOWN = uuid.UUID(int=0)
IDS = [f"0193abcd-0000-7000-8000-{n:012}" for n in range(6)]
TOO_LATE = uuid.UUID("ffffffff-ffff-7000-8000-000000000000")  # made after the year 9999


def test_a_queued_task_has_all_fields(client, schedule):
    task_id = schedule()

    task = client.get(f"/api/v1/task/{task_id}").json

    assert task.pop("created_at").endswith("Z")
    assert len(task.pop("request_id")) == 36
    assert task == {
        "id": task_id,
        "kind": "download",
        "package_id": 1,
        "catalog": None,
        "profile": None,
        "status": "queued",
        "attempt": 0,
        "waiting": None,
        "progress": {"done": 0, "expected": 0, "phase": None},
        "error": None,
        "started_at": None,
        "finished_at": None,
    }


def test_a_finished_task_has_its_times_and_no_phase(client, schedule, pool):
    task_id = schedule()
    pool.run_one()

    task = client.get(f"/api/v1/task/{task_id}").json

    assert (task["status"], task["attempt"], task["error"]) == ("succeeded", 1, None)
    assert task["created_at"] <= task["started_at"] <= task["finished_at"]
    assert task["progress"]["phase"] is None


def test_tasks_are_listed_newest_first_a_page_at_a_time(client, schedule):
    ids = [schedule(version=f"{n}.0.0") for n in range(3)]

    first = client.get("/api/v1/tasks?limit=2")
    second = client.get(first.headers["Link"].partition(">")[0].removeprefix("<"))

    assert [task["id"] for task in first.json + second.json] == ids[::-1]
    assert first.headers["X-Total-Count"] == "3"
    assert "Link" not in second.headers


def test_tasks_are_filtered_by_status_and_package(client, schedule, pool):
    schedule("nosuch", "1.0.0")
    pool.run_one()
    waiting = schedule()

    assert [task["id"] for task in client.get("/api/v1/tasks?status=queued").json] == [waiting]
    assert [task["status"] for task in client.get("/api/v1/tasks?package_id=1").json] == ["failed"]


@pytest.mark.parametrize(
    "query", ["after=x", f"after={UNKNOWN}", f"after={TOO_LATE}", "status=lost", "package_id=-1"]
)
def test_an_invalid_query_is_refused(client, query):
    answer = client.get(f"/api/v1/tasks?{query}")

    assert answer.status_code == 422
    assert list(answer.json["errors"]) == [query.partition("=")[0]]


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("GET", "/log"), ("POST", "/cancel")])
def test_an_unknown_task_is_not_found(client, method, path):
    answer = client.open(f"/api/v1/task/{UNKNOWN}{path}", method=method)

    assert (answer.status_code, answer.json["detail"]) == (404, f"there is no task {UNKNOWN}")


@pytest.fixture
def tasks_of(app, register):
    """Return a function that adds tasks with these ids to the database."""

    def tasks_of(*ids):
        with app.app_context():
            for number, one in enumerate(ids):
                package_id = register(version=f"{number}.0.0")
                db.session.add(Task(id=uuid.UUID(one), package_id=package_id))
            db.session.commit()

    return tasks_of


@pytest.mark.parametrize(
    "first", ["0193abcd-0000-7000-8000-0000", "0193ABCD00", "0193abcd-0", "0193"]
)
@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("GET", "/log"), ("POST", "/cancel")])
def test_the_first_digits_of_an_id_stand_for_it(client, tasks_of, first, method, path):
    tasks_of(IDS[0], "0192ffff-ffff-7fff-bfff-ffffffffffff", "01940000-0000-7000-8000-000000000000")

    answer = client.open(f"/api/v1/task/{first}{path}", method=method)

    assert answer.status_code == (202 if path == "/cancel" else 200)
    assert path == "/log" or answer.json["id"] == IDS[0]


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("GET", "/log"), ("POST", "/cancel")])
def test_digits_that_several_ids_begin_with_are_answered_with_some_of_them(
    client, tasks_of, method, path
):
    tasks_of(*IDS)

    answer = client.open(f"/api/v1/task/0193-abcd{path}", method=method)

    assert answer.status_code == 409
    assert answer.json["type"] == "urn:pkgd:problem:ambiguous-task"
    assert answer.json["near"] == IDS[:5]
    assert answer.json["detail"].endswith(f"0193-abcd: {', '.join(IDS[:5])} and others")
    assert {task["status"] for task in client.get("/api/v1/tasks").json} == {"queued"}


@pytest.mark.parametrize(
    "first", ["019", "0193abce", "0193-abcx", "%25%25%25%25", "0" * 33, "----"]
)
def test_digits_that_no_id_begins_with_are_not_found(client, tasks_of, first):
    tasks_of(IDS[0])

    assert client.get(f"/api/v1/task/{first}").json["type"] == "urn:pkgd:problem:no-such-task"


@pytest.mark.parametrize("seconds", ["31", "-1", "soon", "nan"])
def test_a_wait_must_be_between_0_and_30_seconds(client, schedule, seconds):
    answer = client.get(f"/api/v1/task/{schedule()}?wait={seconds}")

    assert (answer.status_code, list(answer.json["errors"])) == (422, ["wait"])


def test_a_wait_ends_with_the_task(client, schedule, pool):
    task_id = schedule()
    pool.start()

    answer = client.get(f"/api/v1/task/{task_id}?wait=30")

    assert answer.json["status"] == "succeeded"


def test_a_wait_ends_after_the_given_seconds(client, schedule):
    started = time.monotonic()
    answer = client.get(f"/api/v1/task/{schedule()}?wait=0.2")

    assert 0.2 <= time.monotonic() - started < 20
    assert answer.json["status"] == "queued"


def test_a_wait_ends_when_the_service_stops(client, schedule, pool):
    task_id = schedule()
    Timer(0.2, pool.stopping.set).start()

    started = time.monotonic()
    answer = client.get(f"/api/v1/task/{task_id}?wait=30")

    assert time.monotonic() - started < 20
    assert answer.json["status"] == "queued"


@SQLITE
@pytest.mark.parametrize("unread", [b"", b"x"])
def test_a_wait_ends_when_its_client_has_disconnected(client, schedule, unread):
    task_id = schedule()
    here, there = socket.socketpair()
    here.sendall(unread)  # a close with unread data resets the connection
    Timer(0.2, there.close).start()

    started = time.monotonic()
    with here:
        client.get(f"/api/v1/task/{task_id}?wait=30", environ_overrides={"gunicorn.socket": here})

    assert time.monotonic() - started < 20


def test_beyond_max_followers_a_wait_is_answered_at_once(app, client, schedule):
    task_id = schedule()
    for _ in range(app.config["MAX_FOLLOWERS"]):
        services.get(FollowerSlots, app).acquire()

    answer = client.get(f"/api/v1/task/{task_id}?wait=30")

    assert (answer.status_code, answer.headers["Retry-After"]) == (200, "1")


def test_a_queued_task_is_cancelled_at_once(client, schedule, pool):
    task_id = schedule()

    answer = client.post(f"/api/v1/task/{task_id}/cancel")

    assert answer.status_code == 202
    assert answer.json["status"] == "cancelled"
    assert answer.json["finished_at"] is not None
    assert not pool.run_one()


def test_a_task_that_has_ended_can_not_be_cancelled(client, schedule, pool):
    task_id = schedule()
    pool.run_one()

    answer = client.post(f"/api/v1/task/{task_id}/cancel")

    assert answer.status_code == 409
    assert answer.json["type"] == "urn:pkgd:problem:task-ended"
    assert client.get(f"/api/v1/task/{task_id}").json["status"] == "succeeded"


def test_a_log_can_be_read_from_any_offset(client, schedule, pool):
    url = f"/api/v1/task/{schedule()}/log"
    pool.run_one()

    whole = client.get(url)

    assert whole.content_type == "text/plain; charset=utf-8"
    assert whole.data.startswith(b"pkgd: attempt 1: resolving hello 2.12.1\n")
    assert int(whole.headers["X-Next-Offset"]) == len(whole.data)
    for offset in (0, 1, 7, len(whole.data) - 1, len(whole.data), 10**9):
        assert client.get(f"{url}?offset={offset}").data == whole.data[offset:]


def test_a_task_that_has_not_run_has_an_empty_log(client, schedule):
    answer = client.get(f"/api/v1/task/{schedule()}/log")

    assert (answer.status_code, answer.data) == (200, b"")
    assert answer.headers["X-Next-Offset"] == "0"


def test_following_a_finished_log_ends_at_once(client, schedule, pool):
    url = f"/api/v1/task/{schedule()}/log"
    pool.run_one()

    assert client.get(f"{url}?follow=true&offset=6").data == client.get(url).data[6:]


def test_a_log_is_followed_while_it_is_written(client, schedule, pool):
    url = f"/api/v1/task/{schedule()}/log"
    pool.start()

    followed = client.get(f"{url}?follow=true").data

    assert followed == client.get(url).data
    assert b"downloaded" in followed


def test_beyond_max_followers_following_is_a_503(app, client, schedule):
    url = f"/api/v1/task/{schedule()}/log?follow=true"
    for _ in range(app.config["MAX_FOLLOWERS"]):
        services.get(FollowerSlots, app).acquire()

    refused = client.get(url)

    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
    assert refused.json["type"] == "urn:pkgd:problem:too-many-followers"


def test_a_follower_that_has_ended_frees_its_slot(app, client, schedule, pool):
    url = f"/api/v1/task/{schedule()}/log?follow=true"
    pool.run_one()

    for _ in range(app.config["MAX_FOLLOWERS"] + 1):
        assert client.get(url, buffered=True).status_code == 200


@pytest.mark.parametrize("query", ["offset=-1", "attempt=0", "follow=maybe", "tail=5"])
def test_an_invalid_query_for_a_log_is_refused(client, schedule, query):
    answer = client.get(f"/api/v1/task/{schedule()}/log?{query}")

    assert (answer.status_code, list(answer.json["errors"])) == (422, [query.partition("=")[0]])


def test_a_log_is_followed_for_a_limited_time(client, schedule, monkeypatch):
    monkeypatch.setattr("tasks.FOLLOW_SECONDS", 0.2)
    task_id = schedule()

    followed = client.get(f"/api/v1/task/{task_id}/log?follow=true")

    assert (followed.status_code, followed.data) == (200, b"")
    assert client.get(f"/api/v1/task/{task_id}").json["status"] == "queued"


@SQLITE
@pytest.mark.parametrize("pipelined", [b"", b"GET /hello HTTP/1.1"])
def test_a_wait_goes_on_while_its_client_is_connected(client, schedule, pipelined):
    task_id = schedule()
    here, there = socket.socketpair()
    there.sendall(pipelined)

    started = time.monotonic()
    with here, there:
        client.get(f"/api/v1/task/{task_id}?wait=0.3", environ_overrides={"gunicorn.socket": here})

    assert time.monotonic() - started >= 0.3


def test_a_wait_that_has_ended_frees_its_slot(app, client, schedule):
    task_id = schedule()

    for _ in range(app.config["MAX_FOLLOWERS"] + 1):
        answer = client.get(f"/api/v1/task/{task_id}?wait=0.01")
        assert "Retry-After" not in answer.headers


def test_the_total_and_the_link_heed_the_filter(client, schedule):
    schedule(version="1.0.0")
    schedule(version="2.0.0")

    answer = client.get("/api/v1/tasks?package_id=1&limit=1")

    assert [task["package_id"] for task in answer.json] == [1]
    assert answer.headers["X-Total-Count"] == "1"
    assert "Link" not in answer.headers


def test_the_next_page_is_there_though_the_task_before_it_was_deleted(client, schedule):
    names = [("hello", "2.12.1"), ("hello", "2.10.0"), ("parrot", "1.0.0")]
    oldest, _, newest = [schedule(*name) for name in names]
    first = client.get("/api/v1/tasks?limit=2")
    url = first.headers["Link"].split(">")[0].lstrip("<")

    for task in first.json:
        client.post(f"/api/v1/task/{task['id']}/cancel")
        assert client.delete(f"/api/v1/package/{task['package_id']}").status_code == 200

    assert first.json[0]["id"] == newest
    assert [task["id"] for task in client.get(url).json] == [oldest]


def test_a_list_goes_on_after_a_task_by_its_id(client, schedule):
    older, newer = schedule(), schedule(version="2.10.0")

    page = client.get(f"/api/v1/tasks?after={newer}").json

    assert [task["id"] for task in page] == [older]


def test_a_list_goes_on_after_the_id_of_a_task_that_was_deleted(client, schedule):
    names = [("hello", "2.12.1"), ("hello", "2.10.0"), ("parrot", "1.0.0")]
    ids = [schedule(*name) for name in names]
    deleted = client.get(f"/api/v1/task/{ids[1]}").json
    client.post(f"/api/v1/task/{deleted['id']}/cancel")
    assert client.delete(f"/api/v1/package/{deleted['package_id']}").status_code == 200

    page = client.get(f"/api/v1/tasks?after={deleted['id']}")

    assert (page.status_code, [task["id"] for task in page.json]) == (200, ids[:1])


def test_nothing_is_listed_after_the_id_of_the_only_task_which_was_deleted(client, schedule):
    task_id = schedule()
    client.post(f"/api/v1/task/{task_id}/cancel")
    client.delete("/api/v1/package/1")

    assert client.get(f"/api/v1/tasks?after={task_id}").json == []
