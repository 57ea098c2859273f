"""Applies: a profile comes to hold exactly a set of packages, in one generation or not at all."""

import pytest

HELLO, OLD_HELLO = {"name": "hello", "version": "2.12.1"}, {"name": "hello", "version": "2.10.0"}
APP, TOOL = {"name": "app", "version": "1.0.0"}, {"name": "parrot", "version": "1.0.0"}


@pytest.fixture
def work(pool):
    """Return a function that works off the queue; it returns how many tasks there were."""

    def work():
        count = 0
        while pool.run_one():
            count += 1
        return count

    return work


@pytest.fixture
def put(client):
    """Return a function that applies a set of packages to a profile, and returns the answer."""

    def put(*packages, profile="team", **more):
        return client.put(f"/api/v1/profile/{profile}", json={"packages": packages}, **more)

    return put


@pytest.fixture
def show(client):
    """Return a function that returns what a profile holds, as names with versions."""

    def show(profile="team"):
        packages = client.get(f"/api/v1/profile/{profile}").json["packages"]
        return [f"{one['name']} {one['version']}" for one in packages]

    return show


def test_a_set_is_downloaded_and_applied_in_one_generation(put, show, work, client, get_task):
    answer = put(HELLO, TOOL)

    assert answer.status_code == 202
    assert get_task(answer.json["task_id"])["waiting"]
    assert work() == 3
    task = get_task(answer.json["task_id"])
    assert (task["kind"], task["profile"], task["status"]) == ("apply", "team", "succeeded")
    assert show() == ["hello 2.12.1", "parrot 1.0.0"]
    generations = client.get("/api/v1/generations?profile=team").json
    assert [one["changes"][0]["reason"] for one in generations] == ["apply"]


def test_what_a_profile_holds_already_needs_no_task(put, work):
    put(HELLO)
    work()

    again = put(HELLO)

    assert (again.status_code, again.json) == (200, {"task_id": None})


def test_a_package_is_activated_while_some_profile_holds_it(put, work, client):
    put(HELLO, profile="one")
    work()
    put(HELLO, profile="two")
    work()
    assert client.get("/api/v1/package/1").json["profiles"] == ["one", "two"]

    put(profile="one")
    work()
    assert client.get("/api/v1/package/1").json["status"] == "activated"
    put(profile="two")
    work()

    assert client.get("/api/v1/package/1").json["status"] == "downloaded"
