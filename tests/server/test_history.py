"""The record of the profile stays true, whatever somebody does to the profile by hand."""

import functools
import os

import figures
import pytest
from sqlalchemy import select, text, update
from support import SQLITE, until

import nix
import services
from maintenance import reconcile
from models import db
from profiles.models import Generation
from worker import Pool


@pytest.fixture
def by_hand(app, store, profile, tmp_path):
    """Return a function that makes the profile hold these packages, past the service."""

    def by_hand(*packages):
        return nix.set_profile(store, profile, packages, tmp=tmp_path / "by-hand")

    return by_hand


@pytest.fixture
def as_package(client):
    """Return a function that returns a registered package as Nix's functions take it."""

    def as_package(package_id):
        one = client.get(f"/api/v1/package/{package_id}").json
        return nix.ProfilePackage(one["name"], one["version"], (one["store_path"],))

    return as_package


@pytest.fixture
def run_reconcile(app):
    """Return a function that reconciles, and returns the sentences about the corrections."""

    def run_reconcile():
        with app.app_context():
            return reconcile()

    return run_reconcile


def programs(profile):
    """Return the names of the programs in the profile."""
    return sorted(os.listdir(profile / "bin"))


def switch(client, number):
    """Switch to a generation; return the names of the packages that the answer says it holds."""
    answer = client.post(f"/api/v1/generation/{number}/activate")
    assert answer.status_code == 200, answer.json
    return [package["name"] for package in answer.json["packages"]]


# --- Numbers that are given out again ---


def test_a_number_that_is_given_out_again_is_another_generation(
    client, store, profile, activated, downloaded, generations, database_url
):
    activated("app", "1.0.0")
    ids = [downloaded("app", "2.0.0"), downloaded("hello")]
    holds = [(["app 2.0.0"], ["replace"]), (["app 1.0.0", "hello 2.12.1"], ["activate"])]
    for number in range(figures.ROUNDS + 1):
        client.post(f"/api/v1/package/{ids[number % 2]}/activate")
        assert generations()[0] == (2, *holds[number % 2])
        assert client.post("/api/v1/generations/rollback").json["number"] == 1
        nix.delete_generations(store, profile, [2])
    figures.keep(
        "a generation deleted by `nix-env`, and its number given out again",
        database_url,
        figures.rounds(),
        "0 lists, changes or rollbacks told of the deleted one",
    )


def test_a_generation_that_was_made_anew_by_hand_is_what_its_link_leads_to(
    client, store, profile, activated, downloaded, by_hand, as_package, statuses
):
    activated("app", "1.0.0")
    activated("app", "2.0.0")
    hello = downloaded("hello")
    client.post("/api/v1/generation/1/activate")
    nix.delete_generations(store, profile, [2])
    assert by_hand(as_package(hello)) == 2
    nix.switch_generation(store, profile, 1)

    assert [one["number"] for one in client.get("/api/v1/generations").json] == [1]
    assert switch(client, 2) == ["hello"]

    assert programs(profile) == ["hello"]
    assert {name for name, status in statuses().items() if status == "activated"} == {
        "hello 2.12.1"
    }


@SQLITE
def test_a_profile_that_is_begun_anew_has_none_of_the_former_generations(
    client, profile, activated, downloaded, generations
):
    activated("app", "1.0.0")
    activated("app", "2.0.0")
    for link in profile.parent.glob("profile*"):
        link.unlink()
    hello = downloaded("hello")

    client.post(f"/api/v1/package/{hello}/activate")

    assert generations() == [(1, ["app 2.0.0", "hello 2.12.1"], ["activate"])]
    assert programs(profile) == ["app", "hello"]


@SQLITE
def test_a_deleted_generation_is_not_listed_nor_counted_nor_rolled_back_to(
    client, store, profile, activated, generations
):
    activated("app", "1.0.0")
    activated("app", "2.0.0")

    nix.delete_generations(store, profile, [1])

    assert [number for number, *_ in generations()] == [2]
    assert client.get("/api/v1/generations").headers["X-Total-Count"] == "1"
    assert client.post("/api/v1/generations/rollback").status_code == 404
    assert client.post("/api/v1/generation/1/activate").status_code == 404


@SQLITE
def test_a_generation_that_is_gone_right_after_the_switch_to_it_is_not_found(client, monkeypatch):
    monkeypatch.setattr("profiles.activation.switch", lambda *_, **__: None)

    assert client.post("/api/v1/generation/1/activate").status_code == 404


# --- Changes by somebody else, before one by the service ---


def test_an_activation_keeps_what_somebody_has_put_into_the_profile(
    client, profile, activated, downloaded, by_hand, as_package, statuses, generations
):
    app, hello = activated("app", "1.0.0"), downloaded("hello")
    by_hand(as_package(app), as_package(hello))

    activated("tool-1", "1.0.0")

    assert programs(profile) == ["app", "hello", "tool-1"]
    assert set(statuses().values()) == {"activated"}
    assert [reasons for _, _, reasons in generations()] == [["activate"], ["found"], ["activate"]]


def test_an_activation_that_crashed_before_its_record_is_recorded_when_it_is_tried_again(
    client, profile, downloaded, by_hand, as_package, statuses, activated
):
    hello = downloaded("hello")
    by_hand(as_package(hello))  # what a crash after nix-env leaves

    assert client.post(f"/api/v1/package/{hello}/activate").status_code == 200

    assert statuses() == {"hello 2.12.1": "activated"}
    activated("app", "1.0.0")
    assert programs(profile) == ["app", "hello"]


@SQLITE
def test_an_activation_whose_record_fails_is_undone(app, client, profile, activated, statuses):
    activated("app", "1.0.0")
    hello = activated("hello", "2.12.1")
    client.post("/api/v1/generation/1/activate")
    with app.app_context():
        refusal = "BEGIN SELECT RAISE(ABORT, 'no'); END"
        db.session.execute(text(f"CREATE TRIGGER no BEFORE INSERT ON changes {refusal}"))
        db.session.commit()

    assert client.post(f"/api/v1/package/{hello}/deactivate").status_code == 200
    assert client.post("/api/v1/package/1/deactivate").status_code == 500

    assert profile.readlink().name == "profile-1-link"
    assert list(nix.generations(profile)) == [1, 2]
    assert statuses() == {"app 1.0.0": "activated", "hello 2.12.1": "downloaded"}


@SQLITE
def test_a_status_that_differs_from_the_profile_is_written_by_a_repeated_activation(
    app, client, activated, statuses
):
    hello = activated("hello", "2.12.1")
    with app.app_context():
        db.session.execute(text("UPDATE packages SET status = 'downloaded'"))
        db.session.commit()

    assert client.post(f"/api/v1/package/{hello}/activate").status_code == 200

    assert statuses() == {"hello 2.12.1": "activated"}


# --- Packages with one store path ---


@pytest.fixture
def twins(app, client, activated, register):
    """Two packages of one store path, of which the first one is active; their ids."""
    first = activated("hello", "2.12.1")
    second = register("greeter", "1.0.0")
    copied = "status = 'downloaded', (store_path, store_paths, closure_size) = "
    row = f"(SELECT store_path, store_paths, closure_size FROM packages WHERE id = {first})"
    with app.app_context():
        db.session.execute(text(f"UPDATE packages SET {copied}{row} WHERE id = {second}"))
        db.session.commit()
    return first, second


def test_of_two_packages_with_one_store_path_the_recorded_one_is_active(
    twins, run_reconcile, statuses
):
    assert run_reconcile() == ["greeter 1.0.0 had lost its GC root"]

    assert statuses() == {"hello 2.12.1": "activated", "greeter 1.0.0": "downloaded"}


def test_of_two_packages_with_one_store_path_the_one_that_the_profile_names_is_active(
    client, twins, by_hand, as_package, run_reconcile, statuses, profile
):
    by_hand(as_package(twins[1]))

    run_reconcile()

    assert statuses() == {"hello 2.12.1": "downloaded", "greeter 1.0.0": "activated"}


@SQLITE
def test_a_store_path_under_another_name_is_the_package_that_was_active(
    twins, by_hand, as_package, run_reconcile, statuses
):
    path = as_package(twins[0]).paths
    by_hand(nix.ProfilePackage("other", "1.0.0", path))

    run_reconcile()

    assert statuses() == {"hello 2.12.1": "activated", "greeter 1.0.0": "downloaded"}


# --- A database that is older than the profile ---


def test_a_package_that_only_the_profile_knows_is_registered_again(
    app, client, activated, downloaded, run_reconcile, statuses, profile
):
    activated("app", "1.0.0")
    activated("tool-1", "1.0.0")
    with app.app_context():  # as a backup of before has it
        db.session.execute(text("DELETE FROM packages WHERE name = 'tool-1'"))
        db.session.execute(text("DELETE FROM generations WHERE number = 2"))
        db.session.commit()

    said = run_reconcile()

    assert "tool-1 1.0.0 is registered again: generation 2 holds it" in said
    assert statuses() == {"app 1.0.0": "activated", "tool-1 1.0.0": "activated"}
    (tool,) = client.get("/api/v1/packages?name=tool-1").json
    assert client.post(f"/api/v1/package/{tool['id']}/deactivate").status_code == 200
    assert programs(profile) == ["app"]
    assert run_reconcile() == []


@SQLITE
def test_what_no_package_can_stand_for_is_said(
    client, downloaded, by_hand, as_package, run_reconcile
):
    paths = as_package(downloaded("hello")).paths
    client.delete("/api/v1/package/1")
    by_hand(nix.ProfilePackage("x-2024", "01", paths))

    assert run_reconcile()[0] == (
        "generation 1 was made by somebody else, of 0 packages, and of x-2024-01"
    )


def test_a_generation_of_an_earlier_version_gets_its_store_path(
    app, activated, run_reconcile, generations
):
    activated("app", "1.0.0")
    activated("hello", "2.12.1")
    with app.app_context():
        db.session.execute(update(Generation).values(store_path=None))
        db.session.commit()
    before = generations()
    assert [number for number, *_ in before] == [2, 1]

    assert run_reconcile() == []

    assert generations() == before
    with app.app_context():
        assert None not in set(db.session.scalars(db.select(Generation.store_path)))


def test_a_store_path_that_only_the_profile_has_is_the_packages(
    client, profile, activated, downloaded, by_hand, as_package, run_reconcile
):
    hello, other = activated("hello", "2.12.1"), as_package(downloaded("app", "1.0.0"))
    client.delete("/api/v1/package/2")
    by_hand(nix.ProfilePackage("hello", "2.12.1", other.paths))

    run_reconcile()

    package = client.get(f"/api/v1/package/{hello}").json
    assert (package["status"], package["store_path"]) == ("activated", *other.paths)
    root = client.application.config["DATA_DIR"] / "roots" / f"{hello}-0"
    assert str(root.readlink()) == other.paths[0]


@SQLITE
def test_a_generation_that_can_not_be_read_is_recorded_as_empty(
    replace_program, activated, downloaded, by_hand, as_package, run_reconcile
):
    activated("app", "1.0.0")
    by_hand(as_package(downloaded("hello")))
    odd = "echo 'error: incompatible' >&2; exit 1"
    replace_program("nix-env", f'case "$*" in *--query*) {odd};; *) exec $real "$@";; esac')

    assert run_reconcile()[0] == (
        "generation 2 was made by somebody else, of 0 packages, "
        "and of what can't be read: incompatible"
    )


@SQLITE
def test_a_crash_of_nix_is_no_reason_to_record_a_generation(
    replace_program, activated, downloaded, by_hand, as_package, run_reconcile, generations
):
    activated("app", "1.0.0")
    by_hand(as_package(downloaded("hello")))
    replace_program("nix-env", "kill -SEGV $$")

    with pytest.raises(nix.NixCrashed):
        run_reconcile()

    assert [number for number, *_ in generations()] == [1]


@SQLITE
def test_a_record_of_an_earlier_version_that_is_of_another_generation_is_renewed(
    app, activated, run_reconcile, generations
):
    activated("app", "1.0.0")
    activated("hello", "2.12.1")
    with app.app_context():
        packages = select(Generation.packages).where(Generation.number == 2).scalar_subquery()
        db.session.execute(update(Generation).values(store_path=None, packages=packages))
        db.session.commit()

    assert run_reconcile() == ["generation 1 was made by somebody else, of 1 packages"]

    assert generations()[1] == (1, ["app 1.0.0"], [])


# --- Links that are gone, or lead elsewhere ---


def test_after_the_active_link_is_removed_the_next_activation_makes_a_true_generation(
    client, profile, activated, generations, statuses
):
    activated("app", "1.0.0")
    activated("app", "2.0.0")
    profile.with_name("profile-2-link").unlink()

    activated("hello", "2.12.1")

    assert programs(profile) == ["app", "hello"]
    assert generations()[0] == (2, ["app 2.0.0", "hello 2.12.1"], ["activate"])
    assert statuses()["app 2.0.0"] == "activated"


def test_after_the_active_link_is_removed_reconciliation_says_one_line(
    profile, activated, run_reconcile, run_program, statuses
):
    activated("app", "1.0.0")
    activated("app", "2.0.0")
    profile.with_name("profile-2-link").unlink()

    assert run_reconcile() == [
        "generation 2 had lost its link; generation 2 is built of what is left"
    ]

    assert run_program() == "app 2.0.0"
    assert statuses() == {"app 1.0.0": "downloaded", "app 2.0.0": "activated"}
    assert run_reconcile() == []


def test_a_profile_that_leads_elsewhere_leads_to_the_last_generation_again(
    profile, activated, run_reconcile, run_program, statuses
):
    activated("app", "1.0.0")
    activated("app", "2.0.0")
    nix.relink(profile, "/tmp")

    assert run_reconcile() == [
        "the profile led to /tmp, which is no generation of it: it leads to generation 2 again"
    ]

    assert run_program() == "app 2.0.0"
    assert statuses() == {"app 1.0.0": "downloaded", "app 2.0.0": "activated"}


@SQLITE
def test_a_profile_that_leads_elsewhere_from_the_start_holds_nothing(
    profile, activated, run_reconcile, downloaded
):
    profile.symlink_to("/tmp")

    assert run_reconcile() == [
        "the profile led to /tmp, which is no generation of it: "
        "nothing is active until it is replaced by the next activation"
    ]

    activated("hello", "2.12.1")
    assert programs(profile) == ["hello"]


def test_an_activation_replaces_a_profile_that_leads_elsewhere(
    profile, activated, statuses, generations
):
    activated("app", "1.0.0")
    nix.relink(profile, profile.resolve())

    activated("hello", "2.12.1")

    assert programs(profile) == ["app", "hello"]
    assert generations()[0] == (2, ["app 1.0.0", "hello 2.12.1"], ["activate"])


@SQLITE
@pytest.mark.parametrize(
    "path", ["package/1/activate", "package/1/deactivate", "generation/1/activate"]
)
def test_a_folder_in_place_of_the_profile_is_refused_and_left_alone(
    client, profile, activated, path
):
    activated()
    profile.unlink()
    profile.mkdir()

    answer = client.post(f"/api/v1/{path}")

    assert (answer.status_code, answer.json["type"]) == (
        409,
        "urn:pkgd:problem:profile-replaced",
    )
    assert (
        answer.json["detail"]
        == f"{profile} should be a link to a generation, but is a folder: move it away"
    )
    assert profile.is_dir()


@SQLITE
def test_a_folder_in_place_of_the_profile_makes_the_service_not_ready(
    make_app, profile, activated, statuses
):
    activated()
    profile.unlink()
    profile.mkdir()

    starting = make_app()
    services.get(Pool, starting).start()

    fault = "should be a link to a generation, but is a folder: move it away"
    line = f"no reconciliation: {profile} {fault}"
    readyz = functools.partial(starting.test_client().get, "/readyz")
    until(lambda: readyz().json["errors"]["workers"] == [line])
    assert statuses() == {"app 1.0.0": "activated"}


@SQLITE
def test_the_command_reconcile_says_in_one_line_what_is_in_place_of_the_profile(app, profile):
    profile.mkdir()

    done = app.test_cli_runner().invoke(args=["reconcile"])

    line = f"Error: {profile} should be a link to a generation, but is a folder: move it away\n"
    assert (done.exit_code, done.output) == (1, line)
