"""Garbage collection: what no package needs is deleted, what any package needs is kept."""

import os
import re
import shutil
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import delete, event
from support import POSTGRESQL, SQLITE

import gc_roots
import maintenance
import nix
import task_queue
from models import Package, db

pytestmark = pytest.mark.usefixtures("own_store")


@pytest.fixture
def gc(app):
    """Return a function that runs `flask gc`; it returns generations, roots and bytes."""

    def gc(*arguments):
        done = app.test_cli_runner().invoke(args=["gc", *arguments], catch_exceptions=False)
        (freed,) = re.findall(r"bytes (?:would be )?freed: (\d+)", done.output)
        (roots,) = re.findall(r"roots (?:would be )?removed: (\d+)", done.output)
        (numbers,) = re.findall(r"generations (?:would be )?removed: (.+)", done.output)
        return numbers, int(roots), int(freed)

    return gc


@pytest.fixture
def path_of(client):
    """Return a function that returns a package's store path."""
    return lambda package_id: Path(client.get(f"/api/v1/package/{package_id}").json["store_path"])


@SQLITE
def test_the_store_paths_of_all_registered_packages_are_kept(
    activated, downloaded, schedule, gc, path_of, client, pool
):
    active, kept = path_of(activated("app", "1.0.0")), path_of(downloaded("hello"))
    forgotten = downloaded("app", "2.0.0")
    gone = path_of(forgotten)
    client.delete(f"/api/v1/package/{forgotten}")
    task_id = schedule("tool-1", "1.0.0")

    gc()

    assert (active.exists(), kept.exists(), gone.exists()) == (True, True, False)
    assert pool.run_one()
    assert client.get(f"/api/v1/task/{task_id}").json["status"] == "succeeded"


@SQLITE
def test_a_dry_run_predicts_the_deletions_and_deletes_nothing(
    app, own_store, activated, downloaded, gc, path_of, client
):
    app.config["KEEP_GENERATIONS"] = 1
    activated("app", "1.0.0")
    activated("app", "2.0.0")
    client.delete("/api/v1/package/1")
    stray = app.config["DATA_DIR"] / "roots" / "99-0"
    nix.add_root(own_store, str(path_of(2)), stray)

    predicted = gc("--dry-run")

    assert stray.is_symlink()
    assert predicted[:2] == ("1", 1)
    assert predicted[2] > 0
    assert gc() == predicted
    assert gc("--dry-run") == ("none", 0, 0)


def test_the_newest_generations_and_the_active_one_are_kept(app, activated, gc, client):
    app.config["KEEP_GENERATIONS"] = 2
    for n in range(4):
        activated(f"tool-{n}", "1.0.0")
    client.post("/api/v1/generation/1/activate")

    assert gc()[0] == "2"

    numbers = [generation["number"] for generation in client.get("/api/v1/generations").json]
    assert numbers == [4, 3, 1]
    assert client.post("/api/v1/generations/rollback").json["number"] == 4


@pytest.mark.parametrize("output", ["0", "1-dev"])
def test_a_root_of_a_package_that_is_not_registered_is_removed(
    app, own_store, downloaded, gc, client, output
):
    package_id = downloaded()
    root = app.config["DATA_DIR"] / "roots" / f"{package_id + 1}-{output}"
    nix.add_root(own_store, client.get(f"/api/v1/package/{package_id}").json["store_path"], root)
    (root.parent / "notes.txt").write_text("not a root")

    assert gc()[1] == 1

    assert not root.is_symlink()
    assert (root.parent / "notes.txt").exists()


@pytest.fixture
def stale_root(app, own_store, downloaded, register, client):
    """The root of the package `app 1.0.0`, which is registered and not downloaded; and its id."""
    path = client.get(f"/api/v1/package/{downloaded('hello')}").json["store_path"]
    package_id = register("app", "1.0.0")
    link = app.config["DATA_DIR"] / "roots" / f"{package_id}-0"
    nix.add_root(own_store, path, link)
    return link, package_id


@POSTGRESQL
def test_a_download_that_begins_in_a_collection_waits_and_keeps_its_root(
    stale_root, race, pool, path_of
):
    link, package_id = stale_root

    collected, task_id = race(
        lambda: maintenance.collect_garbage(dry_run=False), lambda: task_queue.add(package_id)
    )

    assert (collected.roots, task_id is not None) == ([link], True)
    assert pool.run_one()
    assert link.readlink() == path_of(package_id)


@pytest.fixture
def register_meanwhile(app, stale_root):
    """Have a package registered, queued and rooted after each statement of a thread; its roots."""
    path = stale_root[0].readlink()
    here, links = threading.get_ident(), []

    def register():
        with app.app_context():
            package = Package(name=f"late-{len(links)}", version="1.0.0")
            db.session.add(package)
            db.session.commit()
            task_queue.add(package.id)
            links.append(gc_roots.link(app.config["DATA_DIR"], package.id, 0))
            links[-1].symlink_to(path)

    def after_statement(*_):
        if threading.get_ident() == here:
            threads.submit(register).result()

    with app.app_context(), ThreadPoolExecutor(1) as threads:
        event.listen(db.engine, "after_cursor_execute", after_statement)
        yield links


@POSTGRESQL
def test_roots_of_packages_that_are_registered_in_a_collection_are_kept(
    stale_root, register_meanwhile
):
    collected = maintenance.collect_garbage(dry_run=False)

    assert collected.roots == [stale_root[0]]
    assert len(register_meanwhile) > 1
    assert all(link.is_symlink() for link in register_meanwhile)


def test_the_root_of_a_package_on_its_way_is_kept(stale_root, gc, client):
    link, package_id = stale_root
    client.post(f"/api/v1/package/{package_id}/download")

    assert gc()[1] == 0
    assert link.is_symlink()


@pytest.fixture
def emptied(app, downloaded, path_of):
    """The store paths of three packages that are downloaded but no longer in the database."""
    ids = [downloaded("app", "1.0.0"), downloaded("app", "2.0.0"), downloaded("hello")]
    paths = [path_of(package_id) for package_id in ids]
    with app.app_context():
        db.session.execute(delete(Package))
        db.session.commit()
    return paths


@pytest.mark.parametrize("dry_run", [[], ["--dry-run"]])
def test_a_collection_that_would_take_most_packages_away_is_refused(app, emptied, dry_run):
    roots = app.config["DATA_DIR"] / "roots"
    command = app.test_cli_runner()

    refused = command.invoke(args=["gc", *dry_run])

    assert (refused.exit_code, refused.output) == (
        1,
        f"Error: 3 of 3 packages with roots in {roots} are not downloaded by the database and "
        "would have to be downloaded again; if that is right, run flask gc --force\n",
    )
    assert all(path.exists() for path in emptied)
    assert len(list(roots.iterdir())) == 3


def test_a_collection_takes_most_packages_away_by_force(emptied, gc):
    assert gc("--dry-run", "--force")[1] == 3
    assert gc("--force")[1] == 3

    assert not any(path.exists() for path in emptied)


@SQLITE
def test_roots_of_what_the_store_has_lost_are_removed_without_force(app, emptied, own_store, gc):
    for path in emptied:
        argv = ["nix-store", "--delete", "--ignore-liveness", str(path)]
        subprocess.run(argv, env=dict(own_store.environ), check=True, capture_output=True)

    assert gc()[1] == 3


@SQLITE
def test_a_folder_in_the_place_of_the_profile_is_told_in_one_line(app):
    app.config["PROFILE"].mkdir()

    done = app.test_cli_runner().invoke(args=["gc"], catch_exceptions=False)

    assert (done.exit_code, done.output.count("\n")) == (1, 1)
    assert "should be a link to a generation, but is a folder" in done.output


@pytest.fixture
def nix_build_after_gc(monkeypatch, tmp_path, own_store):
    """A nix-build whose first run finds its derivation deleted; the path exists after that run."""
    fake = tmp_path / "bin" / "nix-build"
    fake.parent.mkdir()
    fake.write_text(
        f"""#!/bin/sh
        [ -e {tmp_path}/once ] || nix-store --delete "${{1%%!*}}" >&2
        touch {tmp_path}/once
        exec {shutil.which("nix-build")} "$@"
        """
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(fake.parent), prepend=os.pathsep)
    return tmp_path / "once"


@SQLITE
def test_a_derivation_that_is_collected_before_its_build_is_made_again(
    nix_build_after_gc, client, schedule, pool
):
    task_id = schedule()

    pool.run_one()

    assert nix_build_after_gc.exists()
    assert client.get(f"/api/v1/task/{task_id}").json["status"] == "succeeded"
    log = client.get(f"/api/v1/task/{task_id}/log").text
    assert log.count("resolving hello 2.12.1") == 2


# --- Roots that Nix does not know ---


@SQLITE
def test_all_that_is_needed_is_kept_in_a_data_folder_that_was_moved(
    activated, downloaded, path_of, settings, create_app, tmp_path
):
    paths = [path_of(activated("app", "1.0.0")), path_of(downloaded("hello"))]
    settings["DATA_DIR"].rename(tmp_path / "moved")
    del settings["DATABASE_URL"]
    moved = create_app(settings | {"DATA_DIR": tmp_path / "moved"})

    done = moved.test_cli_runner().invoke(args=["gc"])

    assert done.exit_code == 0, done.output
    assert all(path.exists() for path in paths)
    assert (tmp_path / "moved" / "profile" / "bin" / "app").exists()


@SQLITE
def test_reconciliation_roots_again_what_was_moved(
    activated, settings, create_app, tmp_path, own_store
):
    activated()
    settings["DATA_DIR"].rename(tmp_path / "moved")
    del settings["DATABASE_URL"]
    moved = create_app(settings | {"DATA_DIR": tmp_path / "moved"})

    said = moved.test_cli_runner().invoke(args=["reconcile"]).output

    assert said == "app 1.0.0 had lost its GC root\ngeneration 1 had lost its GC root\n"
    roots = {tmp_path / "moved" / "roots" / "1-0", tmp_path / "moved" / "profile-1-link"}
    assert {str(root) for root in roots} <= nix.known_roots(own_store)


@SQLITE
def test_a_generation_that_the_store_has_lost_needs_no_root(app, activated, own_store):
    activated()
    lost = own_store.directory / f"{'0' * 32}-user-environment"
    link = app.config["PROFILE"].with_name("profile-9-link")
    link.symlink_to(lost)

    done = app.test_cli_runner().invoke(args=["gc"])

    assert done.exit_code == 0, done.output
    assert str(link) not in nix.known_roots(own_store)


@SQLITE
def test_nothing_is_collected_while_a_package_can_not_be_rooted(app, downloaded, path_of):
    package_id = downloaded()
    path, root = path_of(package_id), app.config["DATA_DIR"] / "roots" / f"{package_id}-0"
    root.unlink()
    root.mkdir()

    done = app.test_cli_runner().invoke(args=["gc"])

    assert (done.exit_code, done.output.count("\n")) == (1, 1)
    assert str(root) in done.output
    assert path.exists()


@SQLITE
def test_a_folder_among_the_roots_holds_up_neither_a_deletion_nor_a_collection(
    app, client, downloaded, gc, path_of
):
    package_id = downloaded()
    path, root = path_of(package_id), app.config["DATA_DIR"] / "roots" / f"{package_id}-0"
    root.unlink()
    root.mkdir()

    assert client.delete(f"/api/v1/package/{package_id}").status_code == 200

    gc()
    assert not path.exists()
