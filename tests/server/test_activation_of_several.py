"""Activating several packages at once: one generation, or none."""

import pytest
from support import SQLITE

PATH = "/api/v1/packages/activate"


@pytest.fixture
def activate(client):
    """Return a function that activates packages by their ids, and returns the answer."""
    return lambda ids, query="": client.post(f"{PATH}{query}", json={"ids": ids})


def test_several_packages_are_activated_in_one_generation(
    activate, activated, downloaded, statuses, generations, run_program
):
    activated("app", "1.0.0")
    ids = [downloaded("app", "2.0.0"), downloaded("hello", "2.12.1")]

    answer = activate(ids)

    assert (answer.status_code, answer.json) == (200, {"status": "activated"})
    assert statuses() == {
        "app 1.0.0": "downloaded",
        "app 2.0.0": "activated",
        "hello 2.12.1": "activated",
    }
    assert generations() == [
        (2, ["app 2.0.0", "hello 2.12.1"], ["replace"]),
        (1, ["app 1.0.0"], ["activate"]),
    ]
    assert run_program() == "app 2.0.0"
    assert "Hello" in run_program("hello")


def test_activating_beside_what_is_active_replaces_nothing(
    activate, activated, downloaded, generations
):
    first = activated("app", "1.0.0")

    assert activate([downloaded("hello", "2.12.1"), first]).status_code == 200
    assert activate([first]).status_code == 200

    assert generations() == [
        (2, ["app 1.0.0", "hello 2.12.1"], ["activate"]),
        (1, ["app 1.0.0"], ["activate"]),
    ]


def test_a_package_that_is_not_downloaded_keeps_all_out(
    activate, downloaded, register, statuses, profile
):
    answer = activate([downloaded("app", "1.0.0"), register("hello", "2.12.1")])

    assert (answer.status_code, answer.json["detail"]) == (409, "hello 2.12.1 is not downloaded")
    assert answer.json["type"] == "urn:pkgd:problem:not-downloaded"
    assert statuses() == {"app 1.0.0": "downloaded", "hello 2.12.1": "created"}
    assert not profile.exists()


def test_packages_that_collide_keep_all_out(
    activate, activated, downloaded, statuses, generations, run_program
):
    activated("app", "1.0.0")
    new = [("app", "2.0.0"), ("clash-one", "1.0.0"), ("clash-two", "1.0.0")]
    ids = [downloaded(*one) for one in new]

    answer = activate(ids)

    assert (answer.status_code, answer.json["type"]) == (409, "urn:pkgd:problem:collision")
    for part in ("clash-one 1.0.0", "clash-two 1.0.0", "bin/clash"):
        assert part in answer.json["detail"]
    assert run_program() == "app 1.0.0"
    assert [name for name, status in statuses().items() if status == "activated"] == ["app 1.0.0"]
    assert generations() == [(1, ["app 1.0.0"], ["activate"])]


@SQLITE
def test_a_package_that_no_profile_can_hold_is_named(recipes, activate, downloaded):
    ids = [downloaded("app", "1.0.0"), downloaded(recipes.add("odd", "touch $out"), "1.0.0")]

    answer = activate(ids)

    assert (answer.status_code, answer.json["type"]) == (409, "urn:pkgd:problem:activation-refused")
    assert answer.json["detail"].startswith("odd 1.0.0: ")


def test_two_versions_of_one_name_are_a_422(activate, downloaded, profile):
    answer = activate([downloaded("app", "1.0.0"), downloaded("app", "2.0.0")])

    assert answer.status_code == 422
    (message,) = answer.json["errors"]["ids"]
    assert "not app 1.0.0 and 2.0.0" in message
    assert not profile.exists()


def test_an_unknown_id_is_a_404_and_keeps_all_out(activate, downloaded, profile):
    answer = activate([downloaded("app", "1.0.0"), 99])

    assert (answer.status_code, answer.json["detail"]) == (404, "there is no package 99")
    assert not profile.exists()


@SQLITE
def test_a_dry_run_lists_the_changes_and_makes_none(activate, activated, downloaded, generations):
    first = activated("app", "1.0.0")
    second, other = downloaded("app", "2.0.0"), downloaded("hello", "2.12.1")

    plan = activate([other, second], "?dry_run=true").json

    assert plan.pop("closure_size_change") > 0
    assert plan == {
        "status": "downloaded",
        "added": [
            {"id": other, "name": "hello", "version": "2.12.1"},
            {"id": second, "name": "app", "version": "2.0.0"},
        ],
        "removed": [{"id": first, "name": "app", "version": "1.0.0"}],
        "replaced": [{"name": "app", "old": "1.0.0", "new": "2.0.0"}],
    }
    assert activate([first], "?dry_run=true").json["status"] == "activated"
    assert generations() == [(1, ["app 1.0.0"], ["activate"])]


@SQLITE
def test_a_dry_run_reports_a_collision(activate, downloaded):
    ids = [downloaded("clash-one", "1.0.0"), downloaded("clash-two", "1.0.0")]

    assert activate(ids, "?dry_run=true").json["type"] == "urn:pkgd:problem:collision"


@SQLITE
@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([], "Length must be between 1 and 1000."),
        (list(range(1001)), "Length must be between 1 and 1000."),
        ([1, 2, 1], "More than once: 1."),
        ([1, "a", None], "Entry 1: Not a valid integer. Entry 2: Field may not be null."),
        ([-1], "Entry 0: Must be greater than or equal to 0 and less than or equal to 2147483647."),
        (None, "Field may not be null."),
        ("1", "Not a valid list."),
        ({"0": 1}, "Not a valid list."),
    ],
)
def test_ids_that_make_no_sense_are_a_422(activate, ids, message):
    answer = activate(ids)

    assert answer.status_code == 422
    assert " ".join(answer.json["errors"]["ids"]) == message


@SQLITE
def test_a_thousand_ids_are_not_too_many(activate):
    assert activate(list(range(1, 1001))).json["detail"] == "there is no package 1"


@SQLITE
def test_a_token_that_may_only_read_activates_nothing(client, mint, activate):
    client.environ_base["HTTP_AUTHORIZATION"] = f"Token {mint(scope='read')['token']}"

    assert activate([1]).status_code == 403
