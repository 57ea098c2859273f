"""Publishing in a real cache: downloads, profiles, faults, commands, the sweep."""

import fcntl
import os
from contextlib import contextmanager
from shutil import which
from types import SimpleNamespace

import figures
import pytest
from sqlalchemy import select, update
from support import SQLITE, until

import config
import health
import leases
import nix
import services
import task_queue
from cache import publishing
from cache.access import CacheAccess
from commands import doctor_host
from models import Package, Task, TaskKind, db, soon
from profiles.models import Change, Generation

BOTH = pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
def settings(nix_does, settings, store, tmp_path):
    """The settings of the test's application, with a cache that is a folder of its own."""
    nix.make_key(store, "cache-1", tmp_path / "key")
    return settings | {"CACHE": f"file://{tmp_path}/cache", "CACHE_KEY_FILE": tmp_path / "key"}


@pytest.fixture
def nix_does(tmp_path, monkeypatch):
    """Return a function within whose block `nix` does something else; before the application."""
    folder = tmp_path / "programs"
    folder.mkdir()
    script = folder / "instead"
    program = folder / "nix"
    program.write_text(f'#!/bin/sh\n[ -e {script} ] && . {script}\nexec {which("nix")} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    @contextmanager
    def nix_does(what):
        script.write_text(what)
        yield
        script.unlink()

    return nix_does


@pytest.fixture
def folder(tmp_path):
    """The folder of the cache."""
    return tmp_path / "cache"


@pytest.fixture
def published(folder):
    """Return a function that tells whether a path is in the cache."""
    return lambda path: (folder / f"{os.path.basename(path)[:32]}.narinfo").exists()


@pytest.fixture
def make_due(app):
    """Return a function that has all tasks be due now."""

    def make_due():
        with app.app_context():
            db.session.execute(update(Task).values(lease_until=None))
            db.session.commit()

    return make_due


@pytest.fixture
def block(folder):
    """Put a file in the place of the cache's folder, where a folder can't be made."""
    folder.write_text("in the way")


def shown(client, name="default"):
    """Return what a profile shows of its publication."""
    return client.get(f"/api/v1/profile/{name}").json["published"]


def files(folder):
    """Return the names of all files below a folder."""
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def tasks(client, kind="publish"):
    """Return the tasks of a kind, newest first."""
    return client.get(f"/api/v1/tasks?kind={kind}").json


# --- Downloads ---


@BOTH
def test_a_download_ends_when_its_package_is_published(run_task, client, read_log, published):
    task = run_task("app")
    assert (task["status"], task["error"]) == ("succeeded", None)
    package = client.get(f"/api/v1/package/{task['package_id']}").json
    assert published(package["store_path"])
    assert "pkgd: published 1 paths" in read_log(task["id"])


@SQLITE
def test_without_a_cache_nothing_is_published(app, run_task, folder):
    app.config["CACHE"] = ""
    assert run_task("app")["status"] == "succeeded"
    assert not folder.exists()


@pytest.fixture
def waiting(nix_does, run_task):
    """A download whose package is there, and whose publishing waits for the cache."""
    with nix_does('echo "error: Unable to connect to the cache" >&2; exit 1'):
        return run_task("app")


@SQLITE
def test_a_cache_that_is_away_counts_no_attempt_and_tells_why(waiting, client):
    assert (waiting["status"], waiting["attempt"]) == ("queued", 0)
    assert waiting["waiting"].startswith(
        "the cache is away: Unable to connect to the cache; tried again at "
    )
    assert waiting["progress"]["phase"] == "publishing"
    assert client.get(f"/api/v1/package/{waiting['package_id']}").json["status"] == "downloaded"


@SQLITE
def test_while_it_is_published_a_package_can_be_activated(waiting, client):
    answer = client.post(f"/api/v1/package/{waiting['package_id']}/activate")
    assert (answer.status_code, answer.json) == (200, {"status": "activated"})


@SQLITE
def test_a_download_that_waited_only_publishes(waiting, make_due, pool, get_task, read_log):
    assert not pool.run_one()
    make_due()
    assert pool.run_one()
    assert get_task(waiting["id"])["status"] == "succeeded"
    assert read_log(waiting["id"]).count("resolving") == 1


@SQLITE
def test_it_waits_longer_each_time_but_not_for_ever(app, schedule):
    schedule("app", "1.0.0")
    with app.app_context():
        waits = []
        for _ in range(6):
            lease = task_queue.claim("me", 30)
            lease.wait("away")
            until = db.session.scalar(select(Task.lease_until))
            waits.append(round((until - soon(0)).total_seconds()))
            db.session.execute(update(Task).values(lease_until=None))
            db.session.commit()
    assert waits == [5, 10, 20, 40, 60, 60]


@BOTH
def test_a_clock_that_is_set_back_holds_up_no_change(
    app, nix_does, activated, client, pool, database_url
):
    activated("app")
    with nix_does('echo "error: refused" >&2; exit 1'):
        assert pool.run_one()
    with app.app_context():
        # As if all of it was noted before the clock was set back by 10 minutes.
        for times in (Task.created_at, Task.finished_at, Generation.created_at, Change.at):
            db.session.execute(update(times.class_).values({times: soon(600)}))
        db.session.commit()
    client.post("/api/v1/package/1/deactivate")
    assert pool.run_one()
    assert shown(client) is True
    figures.keep(
        "the server's clock set back by 10 minutes after a publishing failed",
        database_url,
        "once",
        "the next change was published at once",
    )


@SQLITE
def test_what_does_not_pass_fails_the_task_and_not_the_package(block, run_task, client):
    task = run_task("app")
    assert (task["status"], task["error"]["code"]) == ("failed", "publish_failed")
    assert client.get(f"/api/v1/package/{task['package_id']}").json["status"] == "downloaded"


@SQLITE
def test_a_folder_that_can_not_be_looked_at_fails_the_task_and_holds_nothing_up(
    app, activated, client, pool
):
    app.config["CACHE"] += "/" + 300 * "x"
    activated("app")
    pool.maintain_once()
    assert pool.run_one()
    (task,) = tasks(client)
    assert (task["status"], task["error"]["code"]) == ("failed", "publish_failed")
    assert "File name too long" in task["error"]["message"]


@SQLITE
def test_a_cancel_during_publishing_leaves_the_package(
    nix_does, schedule, start_step, client, get_task
):
    task_id = schedule("app", "1.0.0")
    with nix_does("exec sleep 60"):
        step = start_step()
        until(lambda: get_task(task_id)["progress"]["phase"] == "publishing")
        client.post(f"/api/v1/task/{task_id}/cancel")
        step.join()
    task = get_task(task_id)
    assert task["status"] == "cancelled"
    assert client.get(f"/api/v1/package/{task['package_id']}").json["status"] == "downloaded"


@SQLITE
def test_a_worker_that_is_lost_while_it_publishes_costs_no_second_build(
    app, nix_does, schedule, start_step, pool, get_task, read_log
):
    task_id = schedule("app", "1.0.0")
    with nix_does("exec sleep 60"):
        step = start_step()
        until(lambda: get_task(task_id)["progress"]["phase"] == "publishing")
        with app.app_context():
            leases.reap([pool.holder_id])
        step.join()
    assert pool.run_one()
    assert (get_task(task_id)["status"], get_task(task_id)["attempt"]) == ("succeeded", 2)
    assert "resolving" not in read_log(task_id)


@SQLITE
def test_an_apply_does_not_wait_for_publishing(waiting, client, pool):
    body = {"packages": [{"name": "app", "version": "1.0.0"}]}
    task_id = client.put("/api/v1/profile/default", json=body).json["task_id"]
    assert pool.run_one()
    assert client.get(f"/api/v1/task/{task_id}").json["status"] == "succeeded"


# --- Profiles ---


@BOTH
def test_what_a_profile_becomes_is_published_by_a_task(activated, client, pool, published):
    activated("app")
    assert shown(client) is False
    (task,) = tasks(client)
    assert (task["status"], task["profile"], task["package_id"]) == ("queued", "default", None)
    assert pool.run_one()
    assert shown(client) is True
    assert published(client.get("/api/v1/profile/default").json["store_path"])
    assert tasks(client)[0]["status"] == "succeeded"


@SQLITE
def test_a_profile_shows_nothing_of_a_cache_that_is_not_set(app, activated, client):
    assert shown(client) is None  # it has no generation
    activated("app")
    app.config["CACHE"] = ""
    assert shown(client) is None


@SQLITE
def test_maintenance_queues_what_was_not_published(app, activated, client, pool):
    app.config["CACHE"], uri = "", app.config["CACHE"]
    activated("app")
    pool.maintain_once()
    assert tasks(client) == []
    app.config["CACHE"] = uri
    pool.maintain_once()
    pool.maintain_once()
    assert [task["status"] for task in tasks(client)] == ["queued"]


@pytest.fixture
def active(activated, pool):
    """A profile whose generation is published."""
    activated("app")
    assert pool.run_one()


@SQLITE
def test_a_folder_that_is_gone_is_filled_again(active, folder, client, pool):
    folder.rename(folder.with_name("lost"))
    pool.maintain_once()
    assert shown(client) is False
    assert pool.run_one()
    assert shown(client) is True


@SQLITE
def test_what_a_folder_has_lost_sends_no_machine_back(active, folder, client, pool):
    client.post("/api/v1/package/1/deactivate")
    assert pool.run_one()
    newest = client.get("/api/v1/profile/default").json
    assert newest["offered"] == {"generation": 2, "store_path": newest["store_path"]}
    (folder / f"{os.path.basename(newest['store_path'])[:32]}.narinfo").unlink()
    pool.maintain_once()
    assert client.get("/api/v1/profile/default").json["offered"] is None
    assert pool.run_one()
    assert client.get("/api/v1/profile/default").json["offered"] == newest["offered"]


@SQLITE
@pytest.mark.parametrize("kind", ["nar", "narinfo"])
def test_what_a_folder_has_lost_of_what_an_offer_needs_is_published_again(
    active, folder, client, pool, caplog, kind
):
    before = files(folder)
    own = os.path.basename(client.get("/api/v1/profile/default").json["store_path"])[:32]
    lost = [file for file in before if file.endswith(kind) or (kind == "nar" and "nar/" in file)]
    (folder / next(file for file in lost if not file.startswith(own))).unlink()
    pool.maintain_once()
    assert (shown(client), "lack files" in caplog.text) == (False, True)
    assert pool.run_one()
    assert (shown(client), files(folder)) == (True, before)


@SQLITE
def test_what_the_rest_of_a_rollout_is_offered_is_published_again(
    active, folder, published, client, pool
):
    rest = client.get("/api/v1/profile/default").json["offered"]
    client.put("/api/v1/machine/web", json={"profile": "default", "state": "current", **rest})
    client.put("/api/v1/profile/default/rollout", json={"percent": 10})
    client.post("/api/v1/package/1/deactivate")
    assert pool.run_one()
    assert client.get("/api/v1/profile/default").json["rollout"]["rest"] == rest
    (folder / f"{os.path.basename(rest['store_path'])[:32]}.narinfo").unlink()
    pool.maintain_once()
    assert pool.run_one()
    assert published(rest["store_path"])


@SQLITE
def test_no_generation_counts_as_published_whose_path_is_gone(app, active, folder, client, pool):
    client.post("/api/v1/package/1/deactivate")
    assert pool.run_one()
    folder.rename(folder.with_name("lost"))
    pool.maintain_once()
    with app.app_context():
        assert db.session.scalars(select(Generation.published_at)).all() == [None, None]


@SQLITE
def test_a_published_generation_is_not_queued_again(active, client, pool):
    pool.maintain_once()
    assert len(tasks(client)) == 1


@SQLITE
def test_a_profile_that_moves_on_meanwhile_is_published_again(app, activated, client, pool):
    activated("app")
    with app.app_context():
        lease = task_queue.claim("me", 30)
        assert lease.kind == TaskKind.PUBLISH
    client.post("/api/v1/package/1/deactivate")
    with app.app_context():
        lease.succeed()
    pool.maintain_once()
    assert [task["status"] for task in tasks(client)] == ["queued", "succeeded"]


@SQLITE
def test_a_failure_is_not_repeated_until_later_or_a_change(app, block, activated, client, pool):
    uri, app.config["CACHE"] = app.config["CACHE"], ""
    activated("app")
    app.config["CACHE"] = uri
    pool.maintain_once()
    assert pool.run_one()
    pool.maintain_once()
    assert [task["status"] for task in tasks(client)] == ["failed"]
    with app.app_context():
        long_ago = update(Task).values(finished_at=soon(-publishing.AGAIN_SECONDS - 1))
        db.session.execute(long_ago)
        db.session.commit()
    pool.maintain_once()
    assert tasks(client)[0]["status"] == "queued"


@SQLITE
def test_a_publishing_of_a_profile_without_generations_does_nothing(app, client, pool, read_log):
    with app.app_context():
        assert task_queue.add_publishing(1)
        assert not task_queue.add_publishing(1)
        db.session.commit()
    assert pool.run_one()
    (task,) = tasks(client)
    assert task["status"] == "succeeded"
    assert "nothing to publish" in read_log(task["id"])


@SQLITE
def test_what_was_queued_is_not_published_without_a_cache(app, activated, client, pool):
    activated("app")
    uri, app.config["CACHE"] = app.config["CACHE"], ""
    assert pool.run_one()
    app.config["CACHE"] = uri
    assert tasks(client)[0]["status"] == "succeeded"
    assert shown(client) is False


@SQLITE
def test_a_download_that_waited_ends_without_a_cache(app, waiting, make_due, pool, get_task):
    app.config["CACHE"] = ""
    make_due()
    assert pool.run_one()
    assert get_task(waiting["id"])["status"] == "succeeded"


@SQLITE
def test_nobody_looks_for_what_a_bucket_may_have_lost(app, active, client, pool, folder):
    folder.rename(folder.with_name("lost"))
    app.config["CACHE"] = "s3://bucket"
    pool.maintain_once()
    assert shown(client) is True


@SQLITE
def test_tasks_are_listed_by_the_profile_that_they_publish(active, client):
    found = client.get("/api/v1/tasks?profile=default").json
    assert [task["kind"] for task in found] == ["publish"]
    assert client.get("/api/v1/tasks?profile=other").json == []


@SQLITE
def test_a_deleted_profile_takes_its_task_along(app, activated, client):
    activated("app")
    client.post("/api/v1/profile/other/promote", json={"from": "default"})
    assert [task["profile"] for task in tasks(client)] == ["other", "default"]
    assert client.delete("/api/v1/profile/other").status_code == 200
    assert [task["profile"] for task in tasks(client)] == ["default"]


# --- Metrics ---


@SQLITE
def test_metrics_tell_what_was_published_and_what_not(active, scrape, client):
    found = scrape()
    assert found["pkgd_published_paths_total",] == 3
    assert found["pkgd_published_bytes_total",] > 0
    assert found["pkgd_publishing_seconds_total",] > 0
    assert found["pkgd_publishing_failures_total",] == 0
    assert found["pkgd_profiles_unpublished",] == 0
    assert found["pkgd_free_bytes", "cache"] > 0
    client.post("/api/v1/package/1/deactivate")
    assert scrape()["pkgd_profiles_unpublished",] == 1


@SQLITE
def test_failures_are_counted(waiting, scrape):
    assert scrape()["pkgd_publishing_failures_total",] == 1


# --- Commands ---


def run(app, *args):
    """Run a `flask` command."""
    return app.test_cli_runner().invoke(args=args)


@BOTH
def test_publish_all_publishes_packages_and_profiles(app, activated, client, published):
    uri, app.config["CACHE"] = app.config["CACHE"], ""
    activated("app")
    assert run(app, "publish", "--all").output.startswith("Error: CACHE is not set")
    app.config["CACHE"] = uri
    done = run(app, "publish", "--all")
    assert (done.exit_code, done.output[:18]) == (0, "published 3 paths,")
    assert shown(client) is True
    assert published(client.get("/api/v1/package/1").json["store_path"])
    assert run(app, "publish", "--all").output.startswith("published 0 paths")


@SQLITE
def test_publish_all_leaves_out_what_is_lost(app, active, client):
    with app.app_context():
        gone = f"{app.config['STORE_DIR']}/store/{'0' * 32}-gone"
        db.session.execute(update(Package).values(store_paths=[gone]))
        db.session.execute(update(Generation).values(store_path=gone, published_at=None))
        db.session.commit()
    assert run(app, "publish", "--all").output.startswith("published 0 paths")
    assert shown(client) is False


@SQLITE
def test_publish_wants_all_and_a_service_that_may_be_written_to(make_app):
    app = make_app()
    assert "Missing option '--all'" in run(app, "publish").output
    app.config["READ_ONLY"] = True
    assert "READ_ONLY is set" in run(app, "publish", "--all").output


@SQLITE
def test_publish_shows_how_far_it_is_where_somebody_watches(app, active, monkeypatch):
    monkeypatch.setattr("commands.cache.sys", SimpleNamespace(stderr=Terminal()))
    assert "0 of 2 published …" in run(app, "publish", "--all").output


class Terminal:
    """A terminal, where the real stderr is none."""

    def isatty(self):
        return True


@SQLITE
def test_cache_key_makes_a_key_once(make_app, tmp_path):
    app = make_app(CACHE_KEY_FILE=tmp_path / "new")
    assert run(app, "cache-key", "--name", "a b").exit_code == 2
    made = run(app, "cache-key", "--name", "mine-1")
    assert made.output == f"{nix.public_key(tmp_path / 'new')}\n"
    again = run(app, "cache-key")
    assert (again.exit_code, "is there already" in again.output) == (1, True)


@SQLITE
def test_cache_key_needs_to_know_where(make_app):
    app = make_app(CACHE="", CACHE_KEY_FILE="")
    assert "CACHE_KEY_FILE is not set" in run(app, "cache-key").output


# --- The sweep ---


@SQLITE
def test_gc_sweeps_what_no_root_keeps(own_store, app, activated, client, pool, published, folder):
    activated("app")
    assert pool.run_one()
    gone = client.get("/api/v1/profile/default").json["store_path"]
    kept = client.get("/api/v1/package/1").json["store_path"]
    client.post("/api/v1/package/1/deactivate")
    app.config["KEEP_GENERATIONS"] = 1
    assert "removed from the cache: 0\n" in run(app, "gc", "--dry-run").output  # still offered
    assert pool.run_one()
    dry = run(app, "gc", "--dry-run").output
    assert "paths would be removed from the cache: 2\n" in dry
    assert published(gone)
    done = run(app, "gc").output
    assert dry.replace("would be ", "").splitlines()[-2:] == done.splitlines()[-2:]
    assert (published(gone), published(kept)) == (False, True)


@SQLITE
def test_gc_says_nothing_of_a_cache_that_is_no_folder(own_store, make_app):
    app = make_app(CACHE="s3://bucket")
    assert "cache" not in run(app, "gc", "--dry-run").output


@SQLITE
def test_a_sweep_waits_for_those_who_publish(app, monkeypatch):
    monkeypatch.setattr(publishing, "SWEEP_WAIT_SECONDS", 0.15)
    with app.app_context(), publishing.shared(app.config["DATA_DIR"], publishing.nothing):
        with pytest.raises(publishing.SweepPrevented, match="others published"):
            publishing.sweep([], dry_run=True)
        with publishing.shared(app.config["DATA_DIR"], publishing.nothing):
            pass


@SQLITE
def test_who_publishes_waits_for_a_sweep(app, start_step, schedule, get_task):
    task_id = schedule("app", "1.0.0")
    with (app.config["DATA_DIR"] / "publishing.lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        step = start_step()
        until(lambda: (get_task(task_id)["progress"] or {})["phase"] == "publishing")
        assert get_task(task_id)["status"] == "running"
    step.join()
    assert get_task(task_id)["status"] == "succeeded"


@SQLITE
def test_little_space_in_the_place_of_a_folder_makes_it_wait(app, run_task, monkeypatch):
    monkeypatch.setattr("cache.publishing.shutil.disk_usage", lambda _: Disk())
    app.config["MIN_FREE_BYTES"] = 1
    with app.app_context(), pytest.raises(nix.CacheAway, match="less than 5 bytes free"):
        publishing._check_space(publishing.cache(app.config), 5)
    publishing._check_space(nix.Cache("s3://bucket", None), 5)


class Disk:
    """A disk that is nearly full."""

    free = 4


# --- Settings ---


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"CACHE_KEY_FILE": ""}, "CACHE needs CACHE_KEY_FILE"),
        ({"CACHE": "https://cache.example"}, "can't be written to"),
        ({"CACHE": "/srv/cache"}, "is neither file:///PATH"),
        ({"CACHE": "file:///nix/store/cache"}, "needs a folder of its own"),
        ({"CACHE": "file:///nix"}, "needs a folder of its own"),
        ({"CACHE": "file:///srv/pkgd"}, "needs a folder of its own"),
        ({"CACHE_ACCEL": "internal"}, "a path of nginx"),
        ({"CACHE_ACCEL": "/internal/"}, "CACHE_ACCEL needs nginx in front"),
        ({"CACHE_ACCESS_DIR": "/srv/access"}, "CACHE_ACCESS_DIR needs nginx in front"),
    ],
)
def test_settings_that_can_not_be_used_are_told(more, said):
    good = {"CACHE": "file:///srv/cache", "CACHE_KEY_FILE": "/key", "DATA_DIR": "/srv/pkgd"}
    key = {"APP_ENV": "production", "SECRET_KEY": "k" * 32}
    with pytest.raises(config.ConfigError, match=said):
        config.load(good | key | more)


@pytest.mark.parametrize("uri", ["file:///srv/pkgd/cache", "s3://bucket?region=eu-1"])
def test_a_cache_may_be_below_data_dir_or_a_bucket(uri):
    good = {"CACHE_KEY_FILE": "/key", "DATA_DIR": "/srv/pkgd", "STORE_DIR": "/srv/nix"}
    key = {"APP_ENV": "production", "SECRET_KEY": "k" * 32}
    assert config.load(good | key | {"CACHE": uri})["CACHE"] == uri


@SQLITE
def test_a_start_is_refused_with_a_key_that_others_may_read(app, tmp_path, capfd):
    health.check_start(app)
    (tmp_path / "key").chmod(0o644)
    with pytest.raises(SystemExit):
        health.check_start(app)
    assert "pkgd: CACHE_KEY_FILE: others may read the key" in capfd.readouterr().err


# --- The doctor ---


@pytest.fixture
def diagnosis(app):
    """Return a function that returns what the doctor says of the cache."""

    def diagnosis():
        with app.app_context():
            return [str(finding) for finding in doctor_host.cache()]

    return diagnosis


@SQLITE
def test_the_doctor_looks_at_the_cache(app, diagnosis, folder, tmp_path):
    assert diagnosis() == [f"ok       cache: file://{folder}, signed as cache-1"]
    folder.mkdir()
    assert "bytes free at" in diagnosis()[0]
    services.add(app, CacheAccess(tmp_path / "missing"))
    assert diagnosis()[0].startswith("error    cache: CACHE_ACCESS_DIR")
    (tmp_path / "key").chmod(0o640)
    assert diagnosis()[0].startswith("error    cache: others may read the key")
    app.config["CACHE"] = ""
    assert diagnosis() == ["ok       cache: none: CACHE is not set"]


@SQLITE
def test_the_doctor_tells_of_a_folder_that_can_not_be_made(block, diagnosis):
    assert diagnosis()[0].startswith("error    cache: ")
