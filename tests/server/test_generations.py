"""The generations of the profile: listing, switching, rolling back."""

import pytest
from support import SQLITE, bearing


def test_a_switch_makes_the_profile_what_it_was(client, activated, statuses, run_program):
    activated("app", "1.0.0")
    activated("app", "2.0.0")

    answer = client.post("/api/v1/generation/1/activate")

    assert answer.status_code == 200
    assert (answer.json["number"], answer.json["active"]) == (1, True)
    assert [change["reason"] for change in answer.json["changes"]] == ["switch", "activate"]
    assert run_program() == "app 1.0.0"
    assert statuses() == {"app 1.0.0": "activated", "app 2.0.0": "downloaded"}


@SQLITE
def test_a_change_that_names_another_state_of_the_profile_changes_nothing(client, activated, etag):
    package_id = activated("app", "1.0.0")
    old = {"If-Match": etag("default")}
    activated("app", "2.0.0")
    paths = [f"package/{package_id}/{change}" for change in ("activate", "deactivate")]

    for path in [*paths, "generation/1/activate", "generations/rollback"]:
        answer = client.post(f"/api/v1/{path}", headers=old)
        assert (answer.status_code, answer.json["type"]) == (
            412,
            "urn:pkgd:problem:profile-changed",
        )
    new = {"If-Match": etag("default")}

    assert client.get("/api/v1/profile/default").json["generation"] == 2
    assert client.post("/api/v1/generations/rollback", headers=new).json["number"] == 1


@SQLITE
def test_a_switch_to_the_active_generation_changes_nothing(client, activated, generations):
    activated()

    assert client.post("/api/v1/generation/1/activate").status_code == 200

    assert generations() == [(1, ["app 1.0.0"], ["activate"])]


def test_a_rollback_goes_to_the_generation_active_before_not_to_the_number_below(
    client, activated, run_program
):
    activated("app", "1.0.0")
    activated("app", "2.0.0")
    client.post("/api/v1/generation/1/activate")

    answer = client.post("/api/v1/generations/rollback")

    assert (answer.status_code, answer.json["number"]) == (200, 2)
    assert run_program() == "app 2.0.0"
    assert answer.json["changes"][0]["reason"] == "rollback"


def test_a_change_has_the_name_or_the_number_of_its_token(app, client, activated):
    activated()
    robot = client.post("/api/v1/tokens", json={"name": "robot", "scope": "operate"}).json
    bearing(app, robot["token"]).post("/api/v1/package/1/deactivate")

    newest, first = client.get("/api/v1/generations").json

    assert (newest["changes"][0]["by"], first["changes"][0]["by"]) == ("robot", "token 1")
    assert newest["changes"][0]["at"] >= first["changes"][0]["at"]
    assert first["packages"][0]["store_path"].endswith("-app-1.0.0")


@pytest.mark.parametrize("path", ["generation/7/activate", "generations/rollback"])
def test_a_generation_that_does_not_exist_is_not_found(client, activated, path):
    activated()

    answer = client.post(f"/api/v1/{path}")

    assert answer.status_code == 404
    assert answer.json["type"] == "urn:pkgd:problem:no-such-generation"


def test_generations_are_listed_newest_first_a_page_at_a_time(client, activated):
    for n in range(3):
        activated(f"tool-{n}", "1.0.0")

    first = client.get("/api/v1/generations?limit=2")
    second = client.get(first.headers["Link"].partition(">")[0].removeprefix("<"))

    assert [one["number"] for one in first.json + second.json] == [3, 2, 1]


def test_a_switch_registers_and_roots_a_forgotten_package_again(
    app, client, activated, statuses, run_program
):
    activated("app", "1.0.0")
    activated("app", "2.0.0")
    client.delete("/api/v1/package/1")

    assert client.post("/api/v1/generation/1/activate").status_code == 200

    assert run_program() == "app 1.0.0"
    assert statuses() == {"app 1.0.0": "activated", "app 2.0.0": "downloaded"}
    assert (app.config["DATA_DIR"] / "roots" / "3-0").is_symlink()
    assert client.get("/api/v1/package/3").json["closure_size"] > 0
