"""Applies: a profile comes to hold exactly a set of packages, in one generation or not at all."""

import fcntl
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest
from sqlalchemy import select, update
from support import POSTGRESQL, SQLITE, bearing, until

import leases
import nix
import registration
import task_queue
from downloads import Realised
from downloads import downloaded as as_downloaded
from maintenance import reconcile
from models import Package, Task, db, soon
from profiles import activation, applies, plans
from profiles.models import AppliedPackage

HELLO, OLD_HELLO, PARROT, APP = "hello 2.12.1", "hello 2.10.0", "parrot 1.0.0", "app 1.0.0"
PAIRS = [("hello", "2.12.1"), ("parrot", "1.0.0")]


def changes(client, profile="team"):
    """Return the reason of each change of a profile's generations, newest generation first."""
    generations = client.get(f"/api/v1/generations?profile={profile}").json
    return [[change["reason"] for change in one["changes"]] for one in generations]


def accept(*wanted):
    """Accept an apply of these packages without a request, and return its task's id."""
    return applies.accept("team", dict.fromkeys(wanted), lambda _: False, by=None, request_id=None)


# --- One apply ---


def test_a_set_is_downloaded_and_applied_in_one_generation(put, held, work, client, get_task):
    answer = put(HELLO, PARROT)

    assert answer.status_code == 202
    assert get_task(answer.json["task_id"])["waiting"] == task_queue.WAITING_FOR_PACKAGES
    assert work() == 3
    task = get_task(answer.json["task_id"])
    assert (task["kind"], task["profile"], task["status"]) == ("apply", "team", "succeeded")
    assert held() == [HELLO, PARROT]
    assert changes(client) == [["apply"]]


@SQLITE
def test_what_a_profile_holds_already_needs_no_task(put, applied, etag):
    applied(HELLO)
    before = etag()

    again = put(HELLO)

    assert (again.status_code, again.json) == (200, {"task_id": None})
    assert etag() == before


@SQLITE
def test_an_apply_takes_what_is_not_in_the_set_out_of_the_profile(applied, held, client):
    applied(HELLO, APP)
    task = applied(OLD_HELLO)

    assert (task["status"], held()) == ("succeeded", [OLD_HELLO])
    assert changes(client) == [["apply"], ["apply"]]


@SQLITE
def test_a_profile_can_be_made_to_hold_nothing(applied, held, client):
    applied(HELLO)

    assert applied()["status"] == "succeeded"

    assert held() == []
    assert client.get("/api/v1/profile/team").json["generation"] == 2


def test_a_package_is_activated_while_some_profile_holds_it(applied, client):
    applied(HELLO, profile="one")
    applied(HELLO, profile="two")
    assert client.get("/api/v1/package/1").json["profiles"] == ["one", "two"]

    applied(profile="one")
    assert client.get("/api/v1/package/1").json["status"] == "activated"
    applied(profile="two")

    package = client.get("/api/v1/package/1").json
    assert (package["status"], package["profiles"]) == ("downloaded", [])


@SQLITE
def test_the_log_of_an_apply_says_what_it_did(applied, read_log):
    task = applied(HELLO)

    assert read_log(task["id"]).splitlines() == [
        "pkgd: attempt 1: applying a set to the profile team",
        "pkgd: generation 1 of 1 packages is active",
    ]


# --- What goes in ---


@SQLITE
@pytest.mark.parametrize(
    ("packages", "field"),
    [
        ([{"name": "hello", "version": "2.10"}], "packages"),
        ([{"name": "hello", "version": v} for v in ("2.10.0", "2.12.1")], "packages"),
        ([{"name": "hello"}], "packages"),
        ("hello", "packages"),
        (None, "packages"),
    ],
)
@pytest.mark.parametrize("query", ["", "?dry_run=true"])
def test_a_set_that_no_profile_can_hold_is_refused(client, packages, field, query):
    answer = client.put(f"/api/v1/profile/team{query}", json={"packages": packages})

    assert (answer.status_code, [*answer.json["errors"]]) == (422, [field])
    assert client.get("/api/v1/profile/team").status_code == 404
    assert client.get("/api/v1/packages").json == []


@SQLITE
def test_a_package_that_is_named_twice_counts_once(applied, held):
    applied(HELLO, HELLO)

    assert held() == [HELLO]


# --- Plans ---


@SQLITE
def test_a_dry_run_is_the_plan_and_changes_nothing(put, applied, downloaded, held, client):
    applied(OLD_HELLO, APP)
    downloaded("tool-1", "1.0.0")

    plan = put(HELLO, "tool-1 1.0.0", query="?dry_run=true")

    hello = {"id": None, "name": "hello", "version": "2.12.1"}
    assert plan.status_code == 200
    assert plan.json["added"] == [hello, {"id": 3, "name": "tool-1", "version": "1.0.0"}]
    assert {one["name"] for one in plan.json["removed"]} == {"hello", "app"}
    assert plan.json["replaced"] == [{"name": "hello", "old": "2.10.0", "new": "2.12.1"}]
    assert plan.json["to_download"] == [hello]
    assert plan.json["closure_size_change"] < 0
    assert (plan.json["task_id"], held()) == (None, [APP, OLD_HELLO])


@SQLITE
def test_a_dry_run_makes_no_profile(put, client):
    plan = put(HELLO, query="?dry_run=true")

    assert [one["name"] for one in plan.json["added"]] == ["hello"]
    assert client.get("/api/v1/profile/team").status_code == 404


@SQLITE
def test_a_collision_is_told_by_the_dry_run_and_by_the_task(put, downloaded, applied, client):
    clashing = ["clash-one 1.0.0", "clash-two 1.0.0"]
    for package in clashing:
        downloaded(*package.split())

    plan = put(*clashing, query="?dry_run=true")
    task = applied(*clashing)

    assert (plan.status_code, plan.json["type"]) == (409, "urn:pkgd:problem:collision")
    assert (task["status"], task["error"]["code"]) == ("failed", "files_collide")
    for said in (plan.json["detail"], task["error"]["message"]):
        assert all(part in said for part in [*clashing, "bin/clash"])
    assert client.get("/api/v1/profile/team").json["generation"] is None


@SQLITE
def test_a_package_of_a_single_file_is_refused_by_the_dry_run_and_by_the_task(
    recipes, put, downloaded, applied
):
    downloaded(recipes.add("file"), "1.0.0")

    plan = put("file 1.0.0", query="?dry_run=true")
    task = applied("file 1.0.0")

    assert plan.json["type"] == "urn:pkgd:problem:activation-refused"
    assert task["error"]["code"] == "profile_refused"
    assert "is a single file" in task["error"]["message"]


# --- Failures ---


@SQLITE
def test_one_of_ten_packages_fails_and_the_corrected_set_takes_the_missing_one_alone(
    applied, put, work, held, statuses
):
    applied(APP)
    nine = [f"tool-{n} 1.0.0" for n in range(1, 10)]

    task = applied(*nine, "fails 1.0.0")

    assert (task["status"], task["error"]["code"]) == ("failed", "download_failed")
    assert task["error"]["message"].startswith(
        "1 of 10 packages could not be had:\nfails 1.0.0: build_failed: "
    )
    assert held() == [APP]
    assert [statuses()[one] for one in (*nine, "fails 1.0.0")] == ["downloaded"] * 9 + ["created"]
    put(*nine, PARROT)
    assert work() == 2
    assert held() == [APP, *nine, PARROT][1:]


@SQLITE
def test_the_failure_names_each_package_with_its_reason(put, work, client, get_task):
    task_id = put("fails 1.0.0", "unfree-by-rule 1.0.0", "parrot 9.9.9", HELLO).json["task_id"]
    (hello,) = client.get("/api/v1/packages?name=hello").json
    client.post(f"/api/v1/task/{hello['task']['id']}/cancel")
    work()

    said = get_task(task_id)["error"]["message"].splitlines()

    assert said[0] == "4 of 4 packages could not be had:"
    reasons = {line.split(": ")[0]: line.split(": ")[1] for line in said[1:]}
    assert reasons == {
        "fails 1.0.0": "build_failed",
        "unfree-by-rule 1.0.0": "refused",
        "parrot 9.9.9": "version_unavailable",
        "hello 2.12.1": "its download was cancelled",
    }


@SQLITE
def test_a_package_that_the_store_has_lost_is_named(app, put, downloaded, get_task, pool):
    package_id = downloaded()
    task_id = put(HELLO).json["task_id"]
    with app.app_context():
        db.session.get(Package, package_id).set_created()
        db.session.commit()

    assert pool.run_one()

    assert "hello 2.12.1: it is gone from the store" in get_task(task_id)["error"]["message"]


@SQLITE
def test_a_package_in_a_set_that_is_being_applied_can_not_be_forgotten(put, downloaded, client):
    package_id = downloaded()
    task_id = put(HELLO, PARROT).json["task_id"]

    refused = client.delete(f"/api/v1/package/{package_id}")

    assert refused.status_code == 409
    assert refused.json["detail"] == "hello 2.12.1 is in a set that is being applied"
    client.post(f"/api/v1/task/{task_id}/cancel")
    assert client.delete(f"/api/v1/package/{package_id}").status_code == 200


@SQLITE
def test_an_apply_that_fails_the_check_changes_nothing(settings, client, applied, held, app):
    app.config["PROFILE_CHECK"] = "sh -c 'test ! -e $0/bin/app'"
    applied(HELLO)

    task = applied(HELLO, APP)

    assert (task["status"], task["error"]["code"]) == ("failed", "check_failed")
    assert held() == [HELLO]
    assert changes(client) == [["apply"]]


@SQLITE
def test_an_apply_is_tried_again_where_nix_fails_of_itself(
    replace_program, downloaded, put, pool, get_task, monkeypatch
):
    monkeypatch.setattr("attempts.RETRY_SECONDS", (0, 0))
    downloaded()
    task_id = put(HELLO).json["task_id"]
    replace_program("nix-env", "echo 'error: no luck' >&2; exit 1")

    assert [pool.run_one() for _ in range(4)] == [True, True, True, False]

    task = get_task(task_id)
    assert (task["status"], task["error"]["code"]) == ("failed", "nix_unavailable")
    assert "no luck" in task["error"]["message"]


@SQLITE
def test_an_apply_without_nix_waits_in_the_queue(programs, downloaded, put, pool, get_task):
    downloaded()
    task_id = put(HELLO).json["task_id"]
    (programs / "nix-env").unlink()

    pool.run_one()

    assert get_task(task_id)["status"] == "queued"


@SQLITE
def test_something_else_in_the_place_of_the_profile_fails_the_apply(app, applied, downloaded):
    downloaded()
    (app.config["DATA_DIR"] / "profiles" / "team").mkdir(parents=True)

    assert applied(HELLO)["error"]["code"] == "profile_replaced"


# --- Cancelling, stopping, losing the lease ---


@pytest.fixture
def checking(app, put, downloaded, start_step, tmp_path):
    """An apply whose check waits for the file `go`: the task's id, and the thread that runs it."""
    downloaded()
    app.config["PROFILE_CHECK"] = (
        f"sh -c 'touch {tmp_path}/checking; until [ -e {tmp_path}/go ]; do sleep 0.05; done'"
    )
    task_id = put(HELLO).json["task_id"]
    thread = start_step()
    until((tmp_path / "checking").exists)
    return task_id, thread


@SQLITE
def test_a_cancel_during_the_check_is_obeyed_and_the_profile_is_what_it_was(
    checking, client, get_task, held
):
    task_id, thread = checking

    client.post(f"/api/v1/task/{task_id}/cancel")
    thread.join(20)

    assert (get_task(task_id)["status"], held()) == ("cancelled", [])
    assert client.get("/api/v1/generations?profile=team").json == []


@SQLITE
def test_a_stop_during_the_check_puts_the_apply_back(checking, pool, get_task, held):
    task_id, thread = checking

    pool.stopping.set()
    thread.join(20)

    task = get_task(task_id)
    assert (task["status"], task["attempt"], held()) == ("queued", 0, [])


@SQLITE
def test_a_generation_that_is_being_checked_is_not_shown(checking, client, tmp_path, held):
    _, thread = checking

    assert (client.get("/api/v1/profile/team").json["generation"], held()) == (None, [])

    (tmp_path / "go").touch()
    thread.join(20)
    assert (client.get("/api/v1/profile/team").json["generation"], held()) == (1, [HELLO])


def test_an_apply_that_lost_its_lease_during_the_check_leaves_no_record(
    checking, app, tmp_path, get_task, client
):
    task_id, thread = checking
    with app.app_context():
        other = update(Task).where(Task.kind == "apply").values(lease_holder="another")
        db.session.execute(other)
        db.session.commit()

    (tmp_path / "go").touch()
    thread.join(20)

    assert (get_task(task_id)["status"], get_task(task_id)["attempt"]) == ("running", 1)
    assert client.get("/api/v1/generations?profile=team").json == []
    assert not (app.config["DATA_DIR"] / "profiles" / "team").is_symlink()


@SQLITE
@pytest.mark.parametrize(("module", "step"), [(activation, "_follow"), (plans, "build")])
def test_a_cancel_before_the_record_leaves_none(
    downloaded, put, get_task, pool, held, monkeypatch, module, step
):
    downloaded()
    task_id = put(HELLO).json["task_id"]
    real = getattr(module, step)

    def cancel_and_go_on(*arguments):
        task_queue.request_cancel(UUID(task_id))
        return real(*arguments)

    monkeypatch.setattr(module, step, cancel_and_go_on)
    assert pool.run_one()

    assert (get_task(task_id)["status"], held()) == ("cancelled", [])


@SQLITE
def test_an_apply_that_begins_as_the_service_stops_goes_back_to_the_queue(
    downloaded, put, get_task, pool
):
    downloaded()
    task_id = put(HELLO).json["task_id"]
    pool.stopping.set()

    assert pool.run_one()

    assert (get_task(task_id)["status"], get_task(task_id)["attempt"]) == ("queued", 0)


@SQLITE
def test_an_apply_waits_for_its_turn_and_can_be_cancelled_meanwhile(
    app, downloaded, put, start_step, client, get_task, read_log
):
    downloaded()
    task_id = put(HELLO).json["task_id"]
    with (app.config["DATA_DIR"] / "changes.lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        thread = start_step()
        until(lambda: "applying a set" in read_log(task_id))

        client.post(f"/api/v1/task/{task_id}/cancel")
        thread.join(20)

    assert get_task(task_id)["status"] == "cancelled"


# --- Several at once ---


@SQLITE
def test_a_newer_apply_takes_the_place_of_one_that_waits(put, applied, get_task, held):
    first = put(HELLO).json["task_id"]

    second = applied(PARROT)

    task = get_task(first)
    assert (task["status"], task["error"]["code"]) == ("cancelled", "superseded")
    assert (second["status"], held()) == ("succeeded", [PARROT])


@SQLITE
def test_a_newer_apply_takes_the_place_of_one_that_has_begun(
    app, downloaded, put, start_step, work, get_task, read_log, held
):
    downloaded()
    first = put(HELLO).json["task_id"]
    with (app.config["DATA_DIR"] / "changes.lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        thread = start_step()
        until(lambda: "applying a set" in read_log(first))
        put(PARROT)
    thread.join(20)
    work()

    task = get_task(first)
    assert (task["status"], task["error"]["code"]) == ("cancelled", "superseded")
    assert held() == [PARROT]


@SQLITE
def test_the_same_set_is_applied_by_the_same_task(put, get_task):
    first = put(HELLO, PARROT).json["task_id"]

    assert put(PARROT, HELLO).json["task_id"] == first
    assert put(PARROT).json["task_id"] != first
    assert get_task(first)["error"]["code"] == "superseded"


def test_of_twenty_sets_at_once_the_last_one_is_held_and_every_record_is_true(
    app, client, downloaded, put, pool, held, get_task, database_url
):
    for n in range(1, 5):
        downloaded(f"tool-{n}", "1.0.0")

    def apply(number):
        body = {"packages": [{"name": f"tool-{number % 4 + 1}", "version": "1.0.0"}]}
        one = bearing(app, client.secret)
        return one.put("/api/v1/profile/team", json=body).status_code

    with ThreadPoolExecutor(20) as threads:
        worker = threads.submit(lambda: [pool.run_one() for _ in range(3)])
        assert set(threads.map(apply, range(20))) <= {200, 202}
        worker.result()
    while pool.run_one():
        pass

    tasks = client.get("/api/v1/tasks?kind=apply").json
    assert {task["status"] for task in tasks} <= {"succeeded", "cancelled"}
    assert tasks[0]["status"] == "succeeded"
    assert held() == [wanted_by(app, tasks[0]["id"])]
    with app.app_context():
        assert reconcile() == []


def wanted_by(app, task_id):
    """Return the package in the set of an apply that has one, as `NAME VERSION`."""
    with app.app_context():
        mine = select(Package).join(AppliedPackage).join(Task, Task.seq == AppliedPackage.task_seq)
        package = db.session.scalars(mine.where(Task.id == UUID(task_id))).one()
        return f"{package.name} {package.version}"


@POSTGRESQL
def test_of_two_applies_at_once_to_a_new_profile_the_second_takes_the_firsts_place(app, race):
    first, second = race(lambda: accept(PAIRS[0]), lambda: accept(PAIRS[1]))

    with app.app_context():
        rows = db.session.execute(select(Task.id, Task.error_code).where(Task.kind == "apply"))
        assert set(rows) == {(first, "superseded"), (second, None)}


@POSTGRESQL
def test_an_apply_and_the_end_of_a_download_do_not_wait_for_each_other(app, add_packages, race):
    add_packages(1)
    with app.app_context():
        task_queue.add(1)
        lease = task_queue.claim("holder", 30)

    def succeed():
        lease.succeed(as_downloaded(1, Realised(("/nix/store/a",), 1)))
        return True

    done, task_id = race(succeed, lambda: accept(("made-0", "1.0.0")))

    assert done
    with app.app_context():
        assert task_queue.claim("holder", 30) is not None
        assert task_id is not None


@POSTGRESQL
def test_a_package_that_is_forgotten_meanwhile_is_registered_again(app, add_packages, race):
    add_packages(1)

    forgotten, task_id = race(lambda: registration.forget(1), lambda: accept(("made-0", "1.0.0")))

    with app.app_context():
        wanted = select(AppliedPackage.package_id)
        assert (forgotten, db.session.scalars(wanted).all()) == (True, [2])
        assert task_id is not None


@POSTGRESQL
def test_a_package_that_is_wanted_meanwhile_is_not_forgotten(app, add_packages, race):
    add_packages(1)

    def forget():
        return registration.forget(1, ~applies.is_wanted())

    _, forgotten = race(lambda: accept(("made-0", "1.0.0")), forget)

    assert not forgotten


# --- If-Match ---


def test_of_two_operators_the_second_with_the_same_etag_is_refused(put, applied, etag, held):
    applied(HELLO)
    seen = etag()

    first = put(PARROT, headers={"If-Match": seen})
    second = put(APP, headers={"If-Match": seen})

    assert (first.status_code, second.status_code) == (202, 412)
    assert second.json["type"] == "urn:pkgd:problem:profile-changed"
    assert etag() in second.json["detail"]


@SQLITE
def test_if_match_counts_until_the_change(put, applied, etag, downloaded, client, work, get_task):
    applied(HELLO)
    package_id = downloaded("app", "1.0.0")
    task_id = put(PARROT, headers={"If-Match": etag()}).json["task_id"]

    client.post(f"/api/v1/package/{package_id}/activate?profile=team")
    work()

    task = get_task(task_id)
    assert (task["status"], task["error"]["code"]) == ("failed", "profile_changed")


@SQLITE
def test_an_apply_that_was_killed_before_its_record_ends_well_the_second_time(
    app, put, downloaded, etag, pool, held, get_task, store
):
    downloaded()
    put()
    assert pool.run_one()
    task_id = put(HELLO, headers={"If-Match": etag()}).json["task_id"]
    with app.app_context():
        package = db.session.get(Package, 1)
        one = nix.ProfilePackage(package.name, package.version, tuple(package.store_paths))
        plans.build(app.config["DATA_DIR"] / "profiles" / "team", [one])

    assert pool.run_one()

    assert (get_task(task_id)["status"], held()) == ("succeeded", [HELLO])


@SQLITE
def test_a_lost_apply_is_run_again(app, put, downloaded, get_task, pool, held):
    downloaded()
    task_id = put(HELLO).json["task_id"]
    with app.app_context():
        task_queue.claim("gone", 30)
        db.session.execute(update(Task).where(Task.kind == "apply").values(lease_until=soon(-1)))
        db.session.commit()
        assert leases.reap() == 1

    assert pool.run_one()

    task = get_task(task_id)
    assert (task["status"], task["attempt"], held()) == ("succeeded", 2, [HELLO])


# --- Store paths that a set insists on ---

NOT_IT = "/nix/store/b5qvdl8xw7n3q5v1rlkz0fpyq1a3n6hz-hello-2.12.1"


@pytest.fixture
def insist(client):
    """Return a function that applies hello with store paths that it must have."""

    def insist(*paths, query=""):
        hello = {"name": "hello", "version": "2.12.1"}
        body = {"packages": [{**hello, "store_path": path} for path in paths]}
        return client.put(f"/api/v1/profile/team{query}", json=body)

    return insist


def test_a_set_with_the_store_path_that_a_package_gets_is_applied(insist, store_path, work, held):
    answer = insist(store_path)

    assert answer.status_code == 202
    assert insist(store_path).json == answer.json
    assert (work(), held()) == (2, [HELLO])
    assert insist(store_path).json == {"task_id": None}


@pytest.fixture
def store_path(downloaded, client):
    """The store path of hello, which is no longer registered."""
    package_id = downloaded()
    path = client.get(f"/api/v1/package/{package_id}").json["store_path"]
    assert client.delete(f"/api/v1/package/{package_id}").status_code == 200
    return path


def test_a_package_that_gets_another_store_path_fails_the_apply(insist, work, get_task, held):
    task_id = insist(NOT_IT).json["task_id"]

    assert (work(), held()) == (2, [])

    error = get_task(task_id)["error"]
    assert error["code"] == "lock_mismatch"
    assert error["message"].startswith("hello 2.12.1 is ")
    assert error["message"].endswith(f" here, not {NOT_IT}")


@SQLITE
@pytest.mark.parametrize("query", ["", "?dry_run=true"])
def test_a_downloaded_package_of_another_store_path_is_refused_at_once(
    insist, downloaded, client, query
):
    downloaded()

    refused = insist(NOT_IT, query=query)

    assert (refused.status_code, refused.json["type"]) == (409, "urn:pkgd:problem:lock-mismatch")
    assert refused.json["detail"].endswith(f" here, not {NOT_IT}")
    assert client.get("/api/v1/profile/team").status_code == 404


@SQLITE
def test_a_set_that_insists_on_less_is_another_one(insist, put, get_task):
    first = insist(NOT_IT).json["task_id"]

    second = put(HELLO).json["task_id"]

    assert get_task(first)["error"]["code"] == "superseded"
    assert get_task(second)["status"] == "queued"


@SQLITE
def test_two_store_paths_of_one_package_are_refused(insist, client):
    refused = insist(NOT_IT, f"{NOT_IT}-other")

    assert (refused.status_code, [*refused.json["errors"]]) == (422, ["packages"])
    assert client.get("/api/v1/packages").json == []
    assert insist(NOT_IT, NOT_IT).status_code == 202


# --- Switches that come later ---


@pytest.fixture
def switch(client, applied, downloaded):
    """Return a function that switches the profile `team`, of two generations, in some way."""
    applied(HELLO)
    applied(APP)
    applied(HELLO, profile="staging")

    def switch(way):
        url, body = {
            "promote": ("profile/team/promote", {"from": "staging"}),
            "rollback": ("generations/rollback?profile=team", None),
            "switch": ("generation/1/activate?profile=team", None),
        }[way]
        answer = client.post(f"/api/v1/{url}", json=body)
        assert answer.status_code == 200, answer.json

    return switch


def test_later_switches_supersede_the_applies_that_wait(switch, put, work, get_task, held):
    # of those that come twice, the second one finds nothing to change
    for way in ("promote", "promote", "rollback", "switch", "switch"):
        task_id = put(PARROT).json["task_id"]

        switch(way)

        task = get_task(task_id)
        assert (task["status"], task["error"]["code"]) == ("cancelled", "superseded")
        assert task["error"]["message"].startswith("the profile was switched")
    work()
    assert held() == [HELLO]


def test_a_later_switch_supersedes_an_apply_that_runs_and_waits_for_its_turn(
    switch, put, pool, get_task, held, downloaded, monkeypatch
):
    downloaded("parrot", "1.0.0")
    task_id = put(PARROT).json["task_id"]
    real = applies.apply

    def switch_and_go_on(attempt, subject):
        switch("rollback")
        return real(attempt, subject)

    monkeypatch.setattr("worker.apply", switch_and_go_on)
    assert pool.run_one()

    task = get_task(task_id)
    assert (task["status"], task["error"]["code"], held()) == ("cancelled", "superseded", [HELLO])


@SQLITE
def test_a_switch_that_fails_supersedes_nothing(switch, app, put, get_task, client):
    task_id = put(PARROT).json["task_id"]
    app.config["PROFILE_CHECK"] = "false"

    assert client.post("/api/v1/generations/rollback?profile=team").status_code == 409

    assert get_task(task_id)["status"] == "queued"


@SQLITE
def test_an_activation_supersedes_no_apply(switch, put, work, get_task, held, client):
    task_id = put(PARROT).json["task_id"]

    client.post("/api/v1/package/1/activate?profile=team")
    work()

    assert (get_task(task_id)["status"], held()) == ("succeeded", [PARROT])
