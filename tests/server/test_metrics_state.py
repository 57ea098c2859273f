"""Metrics of the state: they agree with the database whatever the number of processes."""

import shutil

import psutil
import pytest
from sqlalchemy import update
from support import SQLITE, metrics, until

import services
from config import BUILD, VERSION
from metrics import _memory_of
from models import Task, TaskStatus, Token, db, soon
from worker import Pool

GONE = "sqlite:////nonexistent/app.db"
ONE = """{ app = derivation {
  pname = "app"; version = "1.0"; name = "app-1.0"; system = "builtin"; builder = "builtin:none";
}; }"""


def write(app, model, **values):
    """Change columns of the newest row."""
    key = {Task: Task.seq, Token: Token.id}[model]
    with app.app_context():
        newest = db.session.query(key).order_by(key.desc()).limit(1).scalar()
        db.session.execute(update(model).where(key == newest).values(**values))
        db.session.commit()


def test_live_tasks_are_counted_and_the_oldest_queued_one_has_an_age(app, scrape, schedule):
    schedule()
    schedule(version="2.10.0")
    write(app, Task, created_at=soon(-100))

    found = scrape()

    assert found["pkgd_tasks", "download", "queued"] == 2
    assert found["pkgd_tasks", "download", "running"] == 0
    assert 100 <= found["pkgd_oldest_queued_seconds", "download"] < 130
    assert found["pkgd_oldest_queued_seconds", "index"] == 0


def test_a_running_task_has_the_age_of_its_last_heartbeat(app, scrape, schedule):
    assert scrape()["pkgd_oldest_heartbeat_seconds",] == 0
    schedule()
    write(app, Task, status=TaskStatus.RUNNING, lease_until=soon(-100))

    found = scrape()

    assert found["pkgd_tasks", "download", "running"] == 1
    assert 130 <= found["pkgd_oldest_heartbeat_seconds",] < 160
    assert found["pkgd_lease_seconds",] == 30


def test_packages_the_profile_and_the_disk_are_measured(scrape, activated, register):
    activated()
    register()

    found = scrape()

    assert (found["pkgd_packages", "activated"], found["pkgd_packages", "created"]) == (1, 1)
    assert found["pkgd_packages", "downloaded"] == 0
    assert found["pkgd_profile_generation",] == 1
    assert found["pkgd_free_bytes", "data"] > 0
    assert found["pkgd_free_bytes", "store"] > 0
    assert found["pkgd_database_bytes",] > 10_000


@SQLITE
def test_packages_are_counted_once_a_minute(app, scrape, add_packages, monkeypatch):
    assert scrape()["pkgd_packages", "created"] == 0
    add_packages(3)
    assert scrape()["pkgd_packages", "created"] == 0

    monkeypatch.setattr("metrics.REMEMBER_SECONDS", 0)

    assert scrape()["pkgd_packages", "created"] == 3


def test_what_runs_is_told_by_labels(app, scrape, database_url):
    (info,) = [labels for labels in scrape() if labels[0] == "pkgd_build_info"]

    kind = database_url.partition("+")[0].partition(":")[0]
    assert info[1:3] == (BUILD, kind)
    assert info[4] == VERSION
    assert info[3].startswith("2.")


@SQLITE
def test_without_nix_all_else_is_measured(programs, scrape):
    (programs / "nix-store").unlink()

    found = scrape()

    assert [labels[3] for labels in found if labels[0] == "pkgd_build_info"] == ["none"]
    assert (found["pkgd_ready", "nix"], found["pkgd_ready", "database"]) == (0, 1)
    assert found["pkgd_packages", "created"] == 0


@SQLITE
def test_without_a_database_and_a_data_folder_the_rest_is_measured(make_app):
    app = make_app(DATABASE_URL=GONE, METRICS_PUBLIC="true")
    shutil.rmtree(app.config["DATA_DIR"])

    answer = app.test_client().get("/metrics")

    assert answer.status_code == 200
    found = metrics(answer.text)
    assert (found["pkgd_ready", "database"], found["pkgd_ready", "nix"]) == (0, 1)
    assert found["pkgd_free_bytes", "store"] > 0
    assert not found.keys() & {("pkgd_free_bytes", "data"), ("pkgd_packages", "created")}


@SQLITE
def test_with_something_else_in_the_place_of_the_data_folder_the_rest_is_measured(make_app):
    app = make_app(METRICS_PUBLIC="true", WORKER_THREADS=0)
    folder = app.config["DATA_DIR"]
    folder.rename(folder.with_name("elsewhere"))
    folder.touch()

    answer = app.test_client().get("/metrics")

    assert answer.status_code == 200
    found = metrics(answer.text)
    assert (found["pkgd_ready", "workers"], found["pkgd_read_only",]) == (0, 0)
    assert ("pkgd_drained",) not in found


@SQLITE
def test_memory_is_that_of_this_process_without_a_server(scrape):
    own = psutil.Process().memory_info().rss

    assert 0 < scrape()["pkgd_memory_bytes",] <= 2 * own


def test_a_process_that_has_ended_takes_no_memory():
    process = psutil.Popen(["true"])
    process.wait()

    assert _memory_of(process) == 0


def test_tokens_that_are_used_and_expire_soon_are_counted(app, client, scrape):
    for name in ("unused", "used"):
        client.post("/api/v1/tokens", json={"name": name})
    found = scrape()
    assert found["pkgd_tokens_expiring",] == 0
    assert 89 * 86_400 < found["pkgd_token_expiry_seconds",] <= 90 * 86_400

    times = {"created_at": soon(-3600), "expires_at": soon(60)}
    write(app, Token, **times)
    assert scrape()["pkgd_tokens_expiring",] == 0
    write(app, Token, last_used_at=soon(0))

    found = scrape()
    assert found["pkgd_tokens_expiring",] == 1
    assert 0 < found["pkgd_token_expiry_seconds",] <= 60


@SQLITE
def test_before_a_token_is_used_none_has_an_end_to_tell(make_app):
    found = metrics(make_app(METRICS_PUBLIC="true").test_client().get("/metrics").text)

    assert ("pkgd_token_expiry_seconds",) not in found


@SQLITE
def test_a_catalog_that_fails_is_told_by_its_code(settings, make_app, tmp_path):
    broken = tmp_path / "broken.nix"
    broken.write_text("throw ''broken''")
    settings["CATALOGS"] += f" {broken}"
    client = make_app(METRICS_PUBLIC="true").test_client()

    def failing():
        found = metrics(client.get("/metrics").text).items()
        return {labels[1:] for labels, on in found if labels[0] == "pkgd_catalog_failing" and on}

    until(failing)
    assert failing() == {(str(broken), "evaluation_failed")}


@pytest.fixture
def own(tmp_path):
    """The path of a catalog for this test alone, which has one package."""
    path = tmp_path / "own" / "default.nix"  # for the folder of a file counts as its state
    path.parent.mkdir()
    path.write_text(ONE)
    return path


def test_the_state_of_an_index_is_measured(make_app, own, monkeypatch):
    monkeypatch.setattr("metrics.REMEMBER_SECONDS", 0)
    app = make_app(CATALOGS=own, INDEX_BYTES=2**30, METRICS_PUBLIC="true")
    assert state_of_index(app) == {"pkgd_index_current": 0}

    services.get(Pool, app).maintain_once()
    assert services.get(Pool, app).run_one()
    found = state_of_index(app)
    assert (found["pkgd_index_current"], found["pkgd_index_packages"]) == (1, 1)
    assert found["pkgd_index_age_seconds"] < 60

    own.write_text(f"{ONE} # another")
    found = state_of_index(app)
    assert (found["pkgd_index_current"], found["pkgd_index_packages"]) == (0, 1)


def state_of_index(app):
    """Return the metrics of the one catalog's index."""
    found = metrics(app.test_client().get("/metrics").text).items()
    return {labels[0]: value for labels, value in found if labels[0].startswith("pkgd_index_")}
