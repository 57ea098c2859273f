"""Reconciling the database with the profile and the store, whatever has happened to them."""

import fcntl
import functools
import os
import subprocess

import pytest
from sqlalchemy import delete, update
from support import SQLITE, remove_store, until

import nix
import services
from maintenance import reconcile
from models import Package, PackageStatus, db
from profiles.models import Generation
from worker import Pool

pytestmark = pytest.mark.usefixtures("own_store")


@pytest.fixture
def run_reconcile(app):
    """Return a function that reconciles, and returns the sentences about the corrections."""

    def run_reconcile():
        with app.app_context():
            return reconcile()

    return run_reconcile


def write(app, statement):
    """Execute a statement in the application's database."""
    with app.app_context():
        db.session.execute(statement)
        db.session.commit()


def delete_by_nix(store, path):
    """Have Nix delete a store path, even if something needs it."""
    argv = ["nix-store", "--delete", "--ignore-liveness", path]
    subprocess.run(argv, env=dict(store.environ), check=True, capture_output=True)


def remove_from_disk(_store, path):
    """Delete the files of a store path, which Nix does not notice."""
    remove_store(path)


@SQLITE
def test_a_consistent_database_needs_no_correction(activated, downloaded, run_reconcile, statuses):
    activated()
    downloaded("hello")

    assert run_reconcile() == []
    assert statuses() == {"app 1.0.0": "activated", "hello 2.12.1": "downloaded"}


@SQLITE
def test_an_empty_database_without_a_profile_needs_no_correction(own_store, run_reconcile):
    assert run_reconcile() == []


@SQLITE
def test_without_a_profile_no_package_is_activated(app, activated, run_reconcile, statuses):
    activated()
    app.config["PROFILE"].unlink()

    assert run_reconcile() == ["app 1.0.0 is not in the profile"]

    assert statuses() == {"app 1.0.0": "downloaded"}
    assert run_reconcile() == []


def test_a_switch_of_the_profile_by_hand_is_recorded(
    app, client, own_store, activated, run_reconcile, statuses
):
    activated("app", "1.0.0")
    activated("app", "2.0.0")
    nix.switch_generation(own_store, app.config["PROFILE"], 1)

    assert run_reconcile() == [
        "the profile was switched to generation 1 by somebody else",
        "app 1.0.0 is in the profile",
        "app 2.0.0 is not in the profile",
    ]

    assert statuses() == {"app 1.0.0": "activated", "app 2.0.0": "downloaded"}
    assert client.post("/api/v1/generations/rollback").json["number"] == 2


def test_a_generation_made_by_hand_is_recorded(
    app, client, own_store, activated, downloaded, run_reconcile, tmp_path, statuses
):
    activated("app", "1.0.0")
    path = client.get(f"/api/v1/package/{downloaded('hello')}").json["store_path"]
    ours = nix.ProfilePackage("hello", "2.12.1", (path,))
    other = nix.ProfilePackage("other", "1.0.0", (add_foreign(own_store, tmp_path),))
    nix.set_profile(own_store, app.config["PROFILE"], [ours, other], tmp=tmp_path / "tmp")

    assert run_reconcile() == [
        "generation 2 was made by somebody else, of 2 packages",
        "other 1.0.0 is registered again: generation 2 holds it",
        "the profile was switched to generation 2 by somebody else",
        "hello 2.12.1 is in the profile",
        "other 1.0.0 is in the profile",
        "app 1.0.0 is not in the profile",
        "other 1.0.0 had lost its GC root",
    ]

    active = {"hello 2.12.1": "activated", "other 1.0.0": "activated"}
    assert statuses() == {"app 1.0.0": "downloaded", **active}
    newest = client.get("/api/v1/generations").json[0]
    assert (newest["number"], newest["active"]) == (2, True)
    assert newest["changes"][0]["reason"] == "found"


def add_foreign(store, folder):
    """Add something to the store that is not one of the packages."""
    (folder / "thing").mkdir()
    (folder / "thing" / "thing").write_text("thing")
    argv = ["nix-store", "--add", folder / "thing"]
    done = subprocess.run(argv, env=dict(store.environ), check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_a_deleted_generation_is_forgotten(
    app, client, own_store, activated, run_reconcile, generations
):
    activated("app", "1.0.0")
    activated("app", "2.0.0")
    nix.delete_generations(own_store, app.config["PROFILE"], [1])

    assert run_reconcile() == ["generations 1 of the profile are gone"]

    assert [one["number"] for one in client.get("/api/v1/generations").json] == [2]
    assert client.post("/api/v1/generations/rollback").status_code == 404


@SQLITE
def test_a_generation_made_by_hand_whose_files_are_gone_is_recorded_as_empty(
    app, client, own_store, activated, run_reconcile, tmp_path, statuses
):
    activated("app", "1.0.0")
    profile = app.config["PROFILE"]
    other = nix.ProfilePackage("other", "1.0.0", (add_foreign(own_store, tmp_path),))
    nix.set_profile(own_store, profile, [other], tmp=tmp_path / "tmp")
    remove_from_disk(own_store, profile.resolve())
    nix.switch_generation(own_store, profile, 1)

    assert run_reconcile() == [
        "generation 2 was made by somebody else, of 0 packages, and of what is gone from the store"
    ]

    assert client.get("/api/v1/generations").json[0]["packages"] == []
    assert statuses() == {"app 1.0.0": "activated"}


@SQLITE
@pytest.mark.parametrize("remove", [delete_by_nix, remove_from_disk])
def test_a_package_without_its_store_path_is_created_and_can_be_downloaded_again(
    client, own_store, downloaded, run_reconcile, pool, remove
):
    package_id = downloaded("hello")
    remove(own_store, client.get(f"/api/v1/package/{package_id}").json["store_path"])

    assert run_reconcile() == ["hello 2.12.1 is no longer in the store"]

    package = client.get(f"/api/v1/package/{package_id}").json
    assert (package["status"], package["store_path"]) == ("created", None)
    client.post(f"/api/v1/package/{package_id}/download")
    pool.run_one()
    again = client.get(f"/api/v1/package/{package_id}").json["store_path"]
    assert os.path.exists(f"{again}/bin/hello")


def test_a_profile_with_a_package_gone_from_the_store_is_built_of_the_others(
    app, client, own_store, activated, run_reconcile, statuses
):
    path = client.get(f"/api/v1/package/{activated('hello', '2.12.1')}").json["store_path"]
    activated("app", "1.0.0")
    remove_from_disk(own_store, path)

    assert run_reconcile() == [
        "hello 2.12.1 is no longer in the store",
        "generation 2 had lost a part; generation 3 is built of what is left",
    ]

    assert statuses() == {"hello 2.12.1": "created", "app 1.0.0": "activated"}
    assert os.listdir(app.config["PROFILE"] / "bin") == ["app"]
    assert run_reconcile() == []


@SQLITE
@pytest.mark.parametrize("remove", [delete_by_nix, remove_from_disk])
def test_a_profile_whose_own_store_path_is_gone_is_built_again(
    app, own_store, activated, run_reconcile, remove, statuses
):
    activated("app", "1.0.0")
    remove(own_store, app.config["PROFILE"].resolve())

    assert run_reconcile() == [
        "generation 1 had lost a part; generation 1 is built of what is left"
    ]

    assert os.listdir(app.config["PROFILE"] / "bin") == ["app"]
    assert statuses() == {"app 1.0.0": "activated"}


@SQLITE
def test_a_named_profile_whose_store_path_is_gone_is_built_again(
    app, own_store, applied, run_reconcile, held
):
    applied("app 1.0.0")
    delete_by_nix(own_store, (app.config["DATA_DIR"] / "profiles" / "team").resolve())

    assert run_reconcile() == [
        "generation 1 of team had lost a part; generation 1 of team is built of what is left"
    ]

    assert held() == ["app 1.0.0"]


@SQLITE
def test_a_profile_that_can_not_be_built_again_is_said_and_left(
    own_store, replace_program, client, activated, run_reconcile, statuses
):
    path = client.get(f"/api/v1/package/{activated('hello', '2.12.1')}").json["store_path"]
    activated("app", "1.0.0")
    remove_from_disk(own_store, path)
    odd = """echo "error: path '/x' is not valid" >&2; exit 1"""
    replace_program("nix-env", f'case "$*" in *--set*) {odd};; *) exec $real "$@";; esac')

    lost = "generation 2 had lost a part, and can't be built again"
    assert run_reconcile()[1] == f"{lost}: the profile: path '/x' is not valid"

    assert statuses() == {"hello 2.12.1": "created", "app 1.0.0": "activated"}


@SQLITE
def test_a_generation_that_has_lost_a_part_is_not_switched_to(
    client, own_store, activated, run_program
):
    path = client.get(f"/api/v1/package/{activated('app', '1.0.0')}").json["store_path"]
    activated("app", "2.0.0")
    remove_from_disk(own_store, path)

    answer = client.post("/api/v1/generation/1/activate")

    assert answer.status_code == 409
    assert answer.json["detail"] == "generation 1: the store no longer has app 1.0.0"
    assert run_program() == "app 2.0.0"


def test_reconciliation_that_fails_halfway_changes_nothing(
    replace_program, app, client, own_store, activated, downloaded, run_reconcile, statuses
):
    hello = downloaded("hello")
    remove_from_disk(own_store, client.get(f"/api/v1/package/{hello}").json["store_path"])
    activated("app", "1.0.0")
    write(app, delete(Generation))
    write(app, delete(Package).where(Package.name == "app"))
    odd = "kill -SEGV $$"
    replace_program("nix-store", f'case "$*" in *--add-root*) {odd};; *) exec $real "$@";; esac')

    with pytest.raises(nix.NixCrashed):
        run_reconcile()

    assert statuses() == {"hello 2.12.1": "downloaded"}


@pytest.fixture
def mostly_lost(client, own_store, downloaded):
    """Two of three downloaded packages are gone from the store."""
    for n in range(3):
        path = client.get(f"/api/v1/package/{downloaded(f'tool-{n}', '1.0.0')}").json["store_path"]
        if n:
            remove_from_disk(own_store, path)


def test_reconciliation_refuses_to_take_most_packages_away_unless_told_to(
    app, mostly_lost, own_store, statuses
):
    command = app.test_cli_runner()

    refused = command.invoke(args=["reconcile"])

    assert (refused.exit_code, refused.output) == (
        1,
        f"Error: 2 of 3 downloaded packages are not in the store {own_store.directory} and would "
        "have to be downloaded again; if that is right, run flask reconcile --force\n",
    )
    assert set(statuses().values()) == {"downloaded"}
    assert command.invoke(args=["reconcile", "--force"]).exit_code == 0
    assert list(statuses().values()) == ["downloaded", "created", "created"]


@SQLITE
def test_a_service_that_would_lose_most_packages_is_not_ready_until_told_to(
    app, mostly_lost, make_app, monkeypatch
):
    monkeypatch.setattr("worker.SETTLE_AGAIN_SECONDS", 0)
    starting = make_app()
    services.get(Pool, starting).start()
    readyz = functools.partial(starting.test_client().get, "/readyz")
    until(lambda: "no reconciliation: 2 of 3" in readyz().json["detail"])

    app.test_cli_runner().invoke(args=["reconcile", "--force"])

    until(lambda: readyz().status_code == 200)


@SQLITE
def test_reconciliation_refuses_to_follow_another_profile_that_is_empty_unless_told_to(
    make_app, activated, generations, tmp_path, statuses
):
    for n in range(3):
        activated(f"tool-{n}", "1.0.0")
    command = make_app(PROFILE=tmp_path / "other").test_cli_runner()

    refused = command.invoke(args=["reconcile"])

    assert refused.exit_code == 1
    assert "has no generation any more, and 3 packages would no longer be" in refused.output
    assert (set(statuses().values()), len(generations())) == ({"activated"}, 3)
    assert command.invoke(args=["reconcile", "--force"]).exit_code == 0
    assert set(statuses().values()) == {"downloaded"}


@SQLITE
def test_a_refused_reconciliation_is_logged_once(mostly_lost, pool, caplog, monkeypatch):
    monkeypatch.setattr("worker.SETTLE_AGAIN_SECONDS", 0)

    pool.maintain_once()
    pool.maintain_once()

    assert caplog.text.count("no reconciliation: 2 of 3 downloaded packages are not") == 1


@SQLITE
def test_a_pool_does_not_wait_long_for_a_collection_of_garbage_to_reconcile(
    app, activated, pool, caplog, monkeypatch
):
    monkeypatch.setattr("worker.SETTLE_WAIT_SECONDS", 0.1)
    with (app.config["DATA_DIR"] / "changes.lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        pool.maintain_once()

    assert (
        "no reconciliation: another change of the profile or the store is going on" in caplog.text
    )


@SQLITE
def test_a_missing_gc_root_is_made_again(app, client, downloaded, own_store, run_reconcile):
    package_id = downloaded()
    root = app.config["DATA_DIR"] / "roots" / f"{package_id}-0"
    root.unlink()

    assert run_reconcile() == ["hello 2.12.1 had lost its GC root"]

    assert str(root.readlink()) == client.get(f"/api/v1/package/{package_id}").json["store_path"]


@pytest.mark.parametrize("number", ["007", "99999999999999999999", "4294967296"])
def test_a_link_with_a_number_that_nix_does_not_give_is_no_generation(
    activated, client, run_reconcile, profile, number
):
    activated()
    link = profile.with_name(f"profile-{number}-link")
    link.symlink_to(profile.with_name("profile-1-link").readlink())

    assert run_reconcile() == []
    assert [one["number"] for one in client.get("/api/v1/generations").json] == [1]


@SQLITE
def test_a_gc_root_that_can_not_be_made_does_not_hold_up_the_others(app, downloaded, run_reconcile):
    downloaded("hello")
    downloaded("app", "1.0.0")
    for root in (app.config["DATA_DIR"] / "roots").iterdir():
        root.unlink()
    (app.config["DATA_DIR"] / "roots" / "1-0").mkdir()

    said = run_reconcile()

    assert said[0].startswith("hello 2.12.1 has no GC root: ")
    assert "roots/1-0" in said[0]
    assert said[1:] == ["app 1.0.0 had lost its GC root"]


def test_a_restored_older_database_is_brought_up_to_date(app, activated, run_reconcile, statuses):
    activated("app", "1.0.0")
    activated("app", "2.0.0")
    write(app, delete(Generation).where(Generation.number == 2))
    old = {"1.0.0": PackageStatus.ACTIVATED, "2.0.0": PackageStatus.DOWNLOADED}
    for version, status in old.items():
        write(app, update(Package).where(Package.version == version).values(status=status))

    assert "the profile was switched to generation 2 by somebody else" in run_reconcile()

    assert statuses() == {"app 1.0.0": "downloaded", "app 2.0.0": "activated"}
    assert run_reconcile() == []


@SQLITE
def test_the_pool_reconciles_when_it_starts(app, activated, pool, caplog, statuses):
    activated()
    app.config["PROFILE"].unlink()

    pool.maintain_once()

    assert "reconciliation: app 1.0.0 is not in the profile" in caplog.text
    assert statuses() == {"app 1.0.0": "downloaded"}


@SQLITE
def test_the_command_reconcile_prints_each_correction(app, activated):
    activated()
    command = app.test_cli_runner()

    assert command.invoke(args=["reconcile"]).output == "all as it should be\n"

    app.config["PROFILE"].unlink()
    assert command.invoke(args=["reconcile"]).output == "app 1.0.0 is not in the profile\n"
