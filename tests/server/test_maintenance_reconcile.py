"""Reconciliation: statuses are true, whatever happened to profile, store or database."""

import os
import shutil
import subprocess

import pytest
from sqlalchemy import delete, update
from support import SQLITE

import nix
from maintenance import reconcile
from models import Change, Generation, Package, PackageStatus, db

pytestmark = pytest.mark.usefixtures("own_store")


@pytest.fixture
def found(app):
    """Return a function that reconciles, and returns what was found."""

    def found():
        with app.app_context():
            return reconcile()

    return found


def write(app, statement):
    with app.app_context():
        db.session.execute(statement)
        db.session.commit()


def collect_away(store, path):
    """Have Nix itself forget a store path, whatever needs it."""
    argv = ["nix-store", "--delete", "--ignore-liveness", path]
    subprocess.run(argv, env=dict(store.environ), check=True, capture_output=True)


def lose(_store, path):
    """Remove a store path as a careless person would, behind Nix's back."""
    subprocess.run(["chmod", "-R", "u+w", path], check=True)
    shutil.rmtree(path)


@SQLITE
def test_a_sound_service_has_nothing_to_find(activated, downloaded, found, statuses):
    activated()
    downloaded("hello")

    assert found() == []
    assert statuses() == {"app 1.0.0": "activated", "hello 2.12.1": "downloaded"}


@SQLITE
def test_a_service_that_has_just_begun_has_nothing_to_find(own_store, found):
    assert found() == []


@SQLITE
def test_a_profile_that_was_removed_holds_nothing(app, activated, found, statuses):
    activated()
    app.config["PROFILE"].unlink()

    assert found() == ["app 1.0.0 is not in the profile"]

    assert statuses() == {"app 1.0.0": "downloaded"}
    assert found() == []


def test_a_profile_that_was_switched_by_hand_is_believed(
    app, client, own_store, activated, found, statuses
):
    activated("app", "1.0.0")
    activated("app", "2.0.0")
    nix.switch_generation(own_store, app.config["PROFILE"], 1)

    assert found() == [
        "the profile was switched to generation 1 by somebody else",
        "app 1.0.0 is in the profile",
        "app 2.0.0 is not in the profile",
    ]

    assert statuses() == {"app 1.0.0": "activated", "app 2.0.0": "downloaded"}
    assert client.post("/api/v1/generations/rollback").json["number"] == 2


def test_a_generation_that_was_made_by_hand_is_recorded(
    app, client, own_store, activated, downloaded, found, tmp_path, statuses
):
    activated("app", "1.0.0")
    path = client.get(f"/api/v1/package/{downloaded('hello')}").json["store_path"]
    ours = nix.ProfilePackage("hello", "2.12.1", (path,))
    other = nix.ProfilePackage("other", "1.0.0", (foreign(own_store, tmp_path),))
    nix.set_profile(own_store, app.config["PROFILE"], [ours, other], tmp=tmp_path / "tmp")

    assert found()[0] == (
        "generation 2 was made by somebody else, of 1 packages, and of other-1.0.0"
    )

    assert statuses() == {"app 1.0.0": "downloaded", "hello 2.12.1": "activated"}
    newest = client.get("/api/v1/generations").json[0]
    assert (newest["number"], newest["active"]) == (2, True)
    assert newest["changes"][0]["reason"] == "found"


def foreign(store, folder):
    """Add something to the store that no package of ours is."""
    (folder / "thing").mkdir()
    (folder / "thing" / "thing").write_text("thing")
    argv = ["nix-store", "--add", folder / "thing"]
    done = subprocess.run(argv, env=dict(store.environ), check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_a_generation_that_was_removed_is_forgotten(
    app, client, own_store, activated, found, generations
):
    activated("app", "1.0.0")
    activated("app", "2.0.0")
    nix.delete_generations(own_store, app.config["PROFILE"], [1])

    assert found() == ["generations 1 of the profile are gone"]

    assert [one["number"] for one in client.get("/api/v1/generations").json] == [2]
    assert client.post("/api/v1/generations/rollback").status_code == 404


@SQLITE
def test_a_generation_that_was_made_by_hand_and_lost_is_recorded_as_empty(
    app, client, own_store, activated, found, tmp_path, statuses
):
    activated("app", "1.0.0")
    profile = app.config["PROFILE"]
    other = nix.ProfilePackage("other", "1.0.0", (foreign(own_store, tmp_path),))
    nix.set_profile(own_store, profile, [other], tmp=tmp_path / "tmp")
    lose(own_store, profile.resolve())
    nix.switch_generation(own_store, profile, 1)

    assert found() == [
        "generation 2 was made by somebody else, of 0 packages, and of what is gone from the store"
    ]

    assert client.get("/api/v1/generations").json[0]["packages"] == []
    assert statuses() == {"app 1.0.0": "activated"}


@SQLITE
@pytest.mark.parametrize("remove", [collect_away, lose])
def test_a_package_whose_store_path_is_gone_is_created_and_can_be_downloaded_again(
    client, own_store, downloaded, found, pool, remove
):
    package_id = downloaded("hello")
    remove(own_store, client.get(f"/api/v1/package/{package_id}").json["store_path"])

    assert found() == ["hello 2.12.1 is no longer in the store"]

    package = client.get(f"/api/v1/package/{package_id}").json
    assert (package["status"], package["store_path"]) == ("created", None)
    client.post(f"/api/v1/package/{package_id}/download")
    pool.run_one()
    again = client.get(f"/api/v1/package/{package_id}").json["store_path"]
    assert os.path.exists(f"{again}/bin/hello")


def test_a_profile_that_has_lost_a_package_goes_on_with_the_others(
    app, client, own_store, activated, found, statuses
):
    path = client.get(f"/api/v1/package/{activated('hello', '2.12.1')}").json["store_path"]
    activated("app", "1.0.0")
    lose(own_store, path)

    assert found() == [
        "hello 2.12.1 is no longer in the store",
        "generation 2 had lost a part; generation 3 is built of what is left",
    ]

    assert statuses() == {"hello 2.12.1": "created", "app 1.0.0": "activated"}
    assert os.listdir(app.config["PROFILE"] / "bin") == ["app"]
    assert found() == []


@SQLITE
@pytest.mark.parametrize("remove", [collect_away, lose])
def test_a_profile_whose_own_tree_is_gone_is_built_again(
    app, own_store, activated, found, remove, statuses
):
    activated("app", "1.0.0")
    remove(own_store, app.config["PROFILE"].resolve())

    assert found() == ["generation 1 had lost a part; generation 1 is built of what is left"]

    assert os.listdir(app.config["PROFILE"] / "bin") == ["app"]
    assert statuses() == {"app 1.0.0": "activated"}


@SQLITE
def test_a_lost_root_is_made_again(app, client, downloaded, own_store, found):
    package_id = downloaded()
    root = app.config["DATA_DIR"] / "roots" / f"{package_id}-0"
    root.unlink()

    assert found() == ["hello 2.12.1 had lost its GC root"]

    assert str(root.readlink()) == client.get(f"/api/v1/package/{package_id}").json["store_path"]


def test_a_database_of_last_week_catches_up_with_the_profile(app, activated, found, statuses):
    activated("app", "1.0.0")
    activated("app", "2.0.0")
    write(app, delete(Change).where(Change.generation == 2))
    write(app, delete(Generation).where(Generation.number == 2))
    old = {"1.0.0": PackageStatus.ACTIVATED, "2.0.0": PackageStatus.DOWNLOADED}
    for version, status in old.items():
        write(app, update(Package).where(Package.version == version).values(status=status))

    assert "the profile was switched to generation 2 by somebody else" in found()

    assert statuses() == {"app 1.0.0": "downloaded", "app 2.0.0": "activated"}
    assert found() == []


@SQLITE
def test_the_pool_reconciles_when_it_starts(app, activated, pool, caplog, statuses):
    activated()
    app.config["PROFILE"].unlink()

    pool.maintain_once()

    assert "reconciliation: app 1.0.0 is not in the profile" in caplog.text
    assert statuses() == {"app 1.0.0": "downloaded"}


@SQLITE
def test_reconcile_can_be_asked_for(app, activated):
    activated()
    command = app.test_cli_runner()

    assert command.invoke(args=["reconcile"]).output == "all as it should be\n"

    app.config["PROFILE"].unlink()
    assert command.invoke(args=["reconcile"]).output == "app 1.0.0 is not in the profile\n"
