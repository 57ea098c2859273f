"""Events: each change has one, in the same transaction; they are numbered as they are committed."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import event, select, update
from support import POSTGRESQL, SQLITE, bearing, until

import event_log
import leases
import maintenance
import registration
import services
import task_queue
from event_log import EventType
from machines import events as machine_events
from machines.models import Machine
from models import Package, Task, db, soon
from task_ends import TaskError
from worker import Pool

PACKAGE = {"kind": "package", "id": 1, "name": "hello"}
ADMIN = {"kind": "token", "id": 1, "name": None}
HELLO = {"id": 1, "name": "hello", "version": "2.12.1"}


@pytest.fixture
def events(client):
    """Return a function that returns the events, oldest first, but for the first token's."""

    def events(**query):
        answer = client.get("/api/v1/events", query_string={"after": 1, **query})
        assert answer.status_code == 200, answer.json
        return answer.json

    return events


@pytest.fixture
def told(events):
    """Return a function that returns type and subject's name of each event."""
    return lambda **query: [(one["type"], one["subject"]["name"]) for one in events(**query)]


@pytest.fixture
def robot(app, mint):
    """A client with a token named `robot`."""
    return bearing(app, mint(name="robot", scope="operate")["token"])


@pytest.fixture
def claimed(app, client):
    """Return a function that queues and claims a download; the test is in the app context."""
    with app.app_context():

        def claimed(version):
            package = registration.register("hello", version)
            task_queue.add(package.id)
            return task_queue.claim("holder", 30)

        yield claimed


# --- What is told ---


def test_a_package_is_told_with_who_registered_it_and_who_removed_it(register, robot, events):
    package_id = register()
    robot.delete(f"/api/v1/package/{package_id}", headers={"X-Request-ID": "r-1"})

    _, first, last = events()

    assert (first["type"], first["by"], first["subject"]) == (
        *("package.registered", ADMIN),
        PACKAGE,
    )
    assert last | {"seq": 0, "at": ""} == {
        "seq": 0,
        "at": "",
        "type": "package.removed",
        "by": {"kind": "token", "id": 2, "name": "robot"},
        "from": "127.0.0.1",
        "subject": PACKAGE,
        "data": {"version": "2.12.1"},
        "request_id": "r-1",
    }


def test_a_download_is_told_when_it_is_queued_and_when_it_has_succeeded(
    client, register, pool, events
):
    package_id = register()
    path = f"/api/v1/package/{package_id}/download"
    answer = client.post(path, headers={"X-Request-ID": "r-1"})
    assert pool.run_one()

    queued, succeeded = events(type="task.*")

    data = {"kind": "download", "package": HELLO, "profile": None, "catalog": None, "error": None}
    assert queued["data"] == {**data, "attempt": 0}
    assert succeeded["data"] == {**data, "attempt": 1}
    subject = {"kind": "task", "id": answer.json["task_id"], "name": "hello 2.12.1"}
    for one in (queued, succeeded):
        assert (one["subject"], one["by"], one["from"]) == (subject, ADMIN, "127.0.0.1")
        assert one["request_id"] == "r-1"


def test_a_failure_is_told_with_its_message_cut(claimed, events):
    claimed("1.0.0").fail(TaskError("build_failed", "x" * 601, "read the log"))

    [failed] = events(type="task.failed")

    error = {"code": "build_failed", "message": "x" * 600, "hint": "read the log"}
    assert failed["data"]["error"] == error
    assert failed["by"] == {"kind": "service", "id": None, "name": None}


def test_a_task_of_lost_workers_is_told_once_it_has_failed(claimed, events):
    lease = claimed("1.0.0")
    for _ in range(leases.MAX_ATTEMPTS):
        db.session.execute(update(Task).values(lease_until=soon(-1)))
        db.session.commit()
        leases.reap()
        task_queue.claim("holder", 30)

    ends = [(one["type"], one["subject"]["id"]) for one in events(type="task.*")]
    assert ends == [("task.queued", str(lease.task_id)), ("task.failed", str(lease.task_id))]


def test_who_cancelled_a_task_is_told(client, schedule, robot, events):
    queued = schedule()
    robot.post(f"/api/v1/task/{queued}/cancel")

    [cancelled] = events(type="task.cancelled")

    assert (cancelled["subject"]["id"], cancelled["by"]["name"]) == (queued, "robot")
    assert events(type="task.queued")[0]["by"] == ADMIN


def test_who_cancelled_a_running_task_first_is_told(client, schedule, robot, events, app):
    running = schedule()
    with app.app_context():
        lease = task_queue.claim("holder", 30)
        for one in (robot, client):
            assert one.post(f"/api/v1/task/{running}/cancel").status_code == 202
        lease.cancel()

    [cancelled] = events(type="task.cancelled")

    assert (cancelled["subject"]["id"], cancelled["by"]["name"]) == (running, "robot")


def test_an_apply_is_told_as_of_who_asked_for_it(put, robot, work, events, client):
    body = {"packages": [{"name": "hello", "version": "2.12.1"}]}
    robot.put("/api/v1/profile/team", json=body, headers={"X-Request-ID": "r-1"})
    work()

    [changed] = events(type="profile.changed")

    profile = client.get("/api/v1/profile/team").json
    assert (changed["subject"]["kind"], changed["subject"]["name"]) == ("profile", "team")
    assert (changed["by"]["name"], changed["request_id"]) == ("robot", "r-1")
    assert changed["data"] == {
        "generation": 1,
        "store_path": profile["store_path"],
        "reason": "apply",
        "added": [HELLO],
        "removed": [],
    }


@SQLITE
def test_an_apply_that_a_newer_one_replaces_is_told_as_cancelled_by_who_gave_that(
    put, robot, events
):
    put("hello 2.12.1")
    robot.put("/api/v1/profile/team", json={"packages": []})

    [cancelled] = events(type="task.cancelled")

    assert (cancelled["by"]["name"], cancelled["data"]["profile"]) == ("robot", "team")
    assert cancelled["data"]["error"]["code"] == "superseded"


def test_many_packages_are_told_by_one_statement(app, put, told):
    said = []
    with app.app_context():
        event.listen(db.engine, "before_cursor_execute", lambda *args: said.append(args[2]))

    put("a1 1.0.0", "a2 1.0.0", "a3 1.0.0")

    assert told() == [
        *(("package.registered", f"a{n}") for n in (1, 2, 3)),
        *(("task.queued", f"a{n} 1.0.0") for n in (1, 2, 3)),
        ("task.queued", "team"),
    ]
    assert sum(one.startswith("INSERT INTO events") for one in said) == 1


@SQLITE
def test_a_replaced_version_is_told_as_removed(activated, events):
    activated("app", "1.0.0")
    activated("app", "2.0.0")

    changed = events(type="profile.changed")[1]["data"]

    assert (changed["reason"], changed["generation"]) == ("replace", 2)
    assert [one["version"] for one in changed["added"]] == ["2.0.0"]
    assert [one["version"] for one in changed["removed"]] == ["1.0.0"]


@SQLITE
def test_a_switch_by_somebody_else_is_told_as_found_by_the_service(activated, profile, app, events):
    activated("app", "1.0.0")
    activated("app", "2.0.0")
    profile.unlink()
    os.symlink(f"{profile.name}-1-link", profile)

    with app.app_context():
        maintenance.reconcile()
        maintenance.reconcile()

    [found] = [one for one in events() if one["data"].get("reason") == "found"]
    assert (found["by"]["kind"], found["data"]["generation"]) == ("service", 1)
    assert [one["version"] for one in found["data"]["added"]] == ["1.0.0"]


def test_a_deleted_profile_is_told_with_what_it_held_and_its_machines(
    client, applied, report, told, events
):
    applied("hello 2.12.1")
    report(profile="team")
    seq = events()[-1]["seq"]

    assert client.delete("/api/v1/profile/team").status_code == 200

    gone = [("machine.removed", "web-1"), ("profile.removed", "team")]
    assert told(after=seq) == [("profile.changed", "team"), *gone]
    data = {"generation": None, "store_path": None, "reason": "delete", "added": []}
    assert events(after=seq)[0]["data"] == {**data, "removed": [HELLO]}


def test_a_rollout_is_told_each_time_that_its_share_changes(client, events):
    for percent in (100, 10, 10, 50, 100):
        client.put("/api/v1/profile/default/rollout", json={"percent": percent})

    shares = [one["data"]["percent"] for one in events(type="profile.rollout")]
    assert shares == [10, 50, 100]


def test_tokens_are_told_without_their_secrets(client, mint, events):
    token = mint(name="ci", scope="read", expires_in=60)
    client.delete("/api/v1/tokens/all")

    minted, revoked = events()

    subject = {"kind": "token", "id": token["id"], "name": "ci"}
    assert (minted["subject"], revoked["subject"]) == (subject, subject)
    assert minted["data"] == {"scope": "read", "expires_at": token["expires_at"]}
    assert (revoked["type"], revoked["data"]) == ("token.revoked", {"scope": "read"})
    assert not any(token["token"] in str(one) for one in (minted, revoked))


def test_the_first_token_is_told_as_made_on_the_host(events):
    [minted] = events(after=0)

    by = {"kind": "host", "id": None, "name": None}
    assert (minted["type"], minted["by"], minted["from"]) == ("token.minted", by, "127.0.0.1")


@SQLITE
def test_a_command_is_told_with_its_user(app, monkeypatch, events):
    monkeypatch.setenv("SUDO_USER", "alice")
    app.test_cli_runner().invoke(args=["create-token", "--name", "backup"])

    [minted] = events()

    assert (minted["by"]["kind"], minted["by"]["name"]) == ("host", "alice")
    assert (minted["from"], minted["request_id"]) == (os.uname().nodename[:64], None)


@SQLITE
def test_a_user_without_a_name_is_told_by_number(app, monkeypatch, events):
    monkeypatch.delenv("SUDO_USER", raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000)
    app.test_cli_runner().invoke(args=["create-token"])

    assert events()[0]["by"]["name"] == "4000000"


# --- Machines ---


def test_a_failure_of_a_machine_is_told_once_until_it_is_another(report, told, generation):
    for more in ({"error": "no"}, {"error": "no"}, {"error": "other"}, {"generation": 2}):
        report(state="failed", **{"error": "other", **more})
    report()
    report(state="failed", error="other", generation=2)

    assert told() == 4 * [("machine.failed", "web-1")]


def test_a_machine_that_falls_silent_is_told_once_until_it_is_heard_of(app, report, events):
    def fall_silent():
        db.session.execute(update(Machine).values(seen_at=soon(-601)))
        db.session.commit()
        return [machine_events.tell_silence() for _ in range(2)]

    with app.app_context():
        report(error="why")
        assert machine_events.tell_silence() == 0
        assert fall_silent() == [1, 0]
        report(store_path="/nix/store/aaa-profile")
        assert fall_silent() == [1, 0]

    first, _ = events(type="machine.silent")
    assert (first["by"]["kind"], first["subject"]["name"]) == ("service", "web-1")
    path = "/nix/store/aaa-profile"
    data = {"profile": "default", "generation": 1, "store_path": path, "error": "why"}
    assert first["data"] == data


@SQLITE
def test_a_pool_tells_of_silence_only_after_it_could_have_heard(make_app, client, report, told):
    report()
    app = make_app(MACHINE_SILENT_SECONDS=1, WORKER_THREADS=1)
    with app.app_context():
        db.session.execute(update(Machine).values(seen_at=soon(-601)))
        db.session.commit()
    pool = services.get(Pool, app)

    pool.maintain_once()

    assert told() == []
    pool.start()
    until(lambda: told() == [("machine.silent", "web-1")])


# --- One transaction ---


def test_a_change_that_is_rolled_back_has_no_event(app, client, told):
    with app.app_context():
        registration.add([("hello", "2.12.1")])
        db.session.rollback()
        registration.register("app", "1.0.0")

    assert told() == [("package.registered", "app")]


def test_a_refused_change_has_no_event(client, register, told):
    register()
    client.delete("/api/v1/token/1")
    client.post("/api/v1/packages", json={"name": "hello", "version": "2.12.1"})
    client.delete("/api/v1/package/7")
    client.post("/api/v1/task/00000000-0000-7000-8000-000000000000/cancel")

    assert told() == [("package.registered", "hello")]


@SQLITE
def test_a_change_whose_event_can_not_be_written_is_not_made(app, client):
    with app.app_context():
        db.session.execute(db.text("DROP TABLE events"))
        db.session.commit()

    answer = client.post("/api/v1/packages", json={"name": "hello", "version": "2.12.1"})

    assert answer.status_code == 503
    assert client.get("/api/v1/packages").json == []


@POSTGRESQL
def test_events_are_numbered_in_the_order_of_commits(app, race, told, client):
    seen = []

    def first():
        registration.add([("first", "1.0.0")])
        event.listen(db.session, "before_commit", lambda _: seen.append(read()), once=True)
        db.session.commit()

    def read():
        with ThreadPoolExecutor(1) as threads:
            return threads.submit(told).result()

    race(first, lambda: registration.register("second", "1.0.0"))

    both = [("package.registered", "first"), ("package.registered", "second")]
    assert (seen, told()) == ([[]], both)


# --- Lists ---


@pytest.fixture
def five(app, client):
    """Five events, numbered from 2 on."""
    with app.app_context():
        for kind in (*(3 * [EventType.TASK_QUEUED]), EventType.TASK_FAILED, EventType.TOKEN_MINTED):
            db.session.execute(select(Package.id))
            event_log.add(kind, event_log.subject("task", None, None))
            db.session.commit()


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", [1, 2, 3, 4, 5, 6]),
        ("?after=4", [5, 6]),
        ("?newest_first=true&limit=2", [6, 5]),
        ("?newest_first=true&after=3", [2, 1]),
        ("?type=task.*", [2, 3, 4, 5]),
        ("?type=task.failed&type=token.*", [1, 5, 6]),
        ("?type=webhook.added", []),
        (f"?after={2**53 - 1}", []),
    ],
)
def test_events_are_listed_by_number_and_type(client, five, query, expected):
    assert [one["seq"] for one in client.get(f"/api/v1/events{query}").json] == expected


@SQLITE
def test_pages_follow_each_other_with_all_types(client, five):
    first = client.get("/api/v1/events?type=task.failed&type=token.*&limit=2")

    second = client.get(first.headers["Link"].partition(">")[0].removeprefix("<"))

    assert [one["seq"] for one in (*first.json, *second.json)] == [1, 5, 6]
    assert "Link" not in second.headers


@SQLITE
@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("type=task", "type"),
        ("type=*", "type"),
        ("type=task.queued&type=x.*", "type"),
        ("after=-1", "after"),
        (f"after={2**53}", "after"),
        ("limit=1001", "limit"),
        ("wait=31", "wait"),
        ("wait=nan", "wait"),
        ("wait=1&newest_first=true", "wait"),
        ("since=1", "since"),
    ],
)
def test_a_wrong_query_is_refused(client, query, field):
    answer = client.get(f"/api/v1/events?{query}")

    assert (answer.status_code, [*answer.json["errors"]]) == (422, [field])


@SQLITE
@pytest.mark.parametrize("scope", ["operate", "read", "sync"])
def test_events_are_for_admins(app, mint, scope):
    answer = bearing(app, mint(scope=scope)["token"]).get("/api/v1/events")

    assert answer.status_code == 403


def test_a_wait_ends_with_the_next_event_of_its_type(app, client, register, events):
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(events, wait=30, type="token.*")
        register()
        client.post("/api/v1/tokens", json={"name": "ci"})
        [minted] = waiting.result()

    assert minted["subject"]["name"] == "ci"


@SQLITE
def test_a_wait_without_an_event_ends_empty(events):
    assert events(wait=0.01) == []


@SQLITE
def test_one_wait_too_many_is_told_to_come_again(make_app, client):
    app = make_app(MAX_FOLLOWERS=0)

    answer = bearing(app, client.secret).get("/api/v1/events?after=1&wait=30")

    assert (answer.json, answer.headers["Retry-After"]) == ([], "1")
