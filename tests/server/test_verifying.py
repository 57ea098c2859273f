"""The verification of an index: what it offers as available, a download gets."""

import re

import pytest
from sqlalchemy import select, update
from support import CATALOGS, SQLITE, until

import drain
import leases
import nix
import services
import task_queue
from catalogs import indexes
from catalogs.models import IndexedOffer
from catalogs.state import Catalogs
from models import Task, db, soon
from worker import Pool

UNAVAILABLE = CATALOGS / "unavailable.nix"
PLAIN = "aborting asserting breaking closed endless good importing insecure mistaken needing"
MORE = "reading refused throwing tools.good tools.throwing twin"
NAMES = [*PLAIN.split(), *MORE.split()]


@pytest.fixture
def settings(settings):
    """The settings of an application that indexes a catalog, and verifies what that offers."""
    return settings | {"INDEX_BYTES": 2**30, "INDEX_VERIFY": "true", "CATALOGS": UNAVAILABLE}


@pytest.fixture
def run_all(pool):
    """Return a function that queues what is to be done, and runs all tasks to their ends."""

    def run_all():
        for _ in range(2):
            pool._index_at = 0.0
            pool.maintain_once()
            while pool.run_one():
                pass

    return run_all


@pytest.fixture
def unverified(app, pool):
    """An application that has its index, and the verification of it in the queue."""
    pool.maintain_once()
    assert pool.run_one()
    pool._index_at = 0.0
    pool.maintain_once()
    return app


def task_of(client, kind="verify"):
    """Return the latest task of a kind."""
    return client.get(f"/api/v1/tasks?kind={kind}").json[0]


def rows(app):
    """Return what the index has of each attribute that was evaluated in full."""
    with app.app_context():
        found = db.session.scalars(select(IndexedOffer).order_by(IndexedOffer.id)).all()
        return {one.attr: one for one in found if one.drv_path or one.message}


def versions(client, name):
    """Return the versions of a name."""
    return client.get(f"/api/v1/catalog/{name}").json["versions"]


def test_what_is_offered_as_available_resolves_and_nothing_else(app, client, run_all, tmp_path):
    run_all()

    with app.app_context():
        for name in NAMES:
            for offer in versions(client, name):
                assert offer["available"] == resolves(app, name, offer, tmp_path), offer
        assert sum(len(versions(client, name)) for name in NAMES) == 17


def resolves(app, name, offer, tmp):
    """Tell whether an offer resolves to what the index says; if not, check why."""
    found = resolution(name, offer["version"], tmp)
    if isinstance(found, nix.NixError):
        assert getattr(found, "reason", found.code) == offer["reason"]
        assert name == "refused" or offer["message"] in " ".join(str(found).split())
        return False
    row = rows(app)[found.attr]
    assert (row.drv_path, row.outputs.split()) == (found.drv_path, list(found.outputs))
    return found.attr == offer["attr"]


def resolution(name, version, tmp):
    """Return what a download finds, or the error that it ends with."""
    catalogs = services.get(Catalogs)
    choice = catalogs.best_for(name, version)
    try:
        return nix.resolve(
            catalogs.store, choice.catalogs, name, version, avoided=choice.avoided, tmp=tmp / "tmp"
        )
    except nix.NixError as error:
        return error


@SQLITE
def test_why_a_version_cannot_be_had_is_told_as_by_a_download(app, client, run_all):
    run_all()

    told = {name: versions(client, name)[0] for name in NAMES}
    reasons = {name: one["reason"] for name, one in told.items() if not one["available"]}
    assert reasons.pop("closed") == "unfree"
    assert (reasons.pop("breaking"), reasons.pop("refused")) == ("broken", "broken")
    assert reasons.pop("insecure") == "insecure"
    assert set(reasons.values()) == {"evaluation_failed"}
    assert told["closed"]["message"].startswith("dep-2.0 has an unfree license")
    assert told["throwing"]["message"] == "no compiler for it"
    assert "allow-import-from-derivation" in told["importing"]["message"]
    assert "infinite recursion" in told["endless"]["message"]
    assert "cannot go on" in told["aborting"]["message"]


@SQLITE
def test_a_verification_writes_no_derivation(app, run_all, store):
    run_all()

    found = rows(app)
    assert len(found) == 18
    assert "refused" not in found
    unwritten = found["unwritten"]
    assert re.fullmatch(r"/.*/[0-9a-z]{32}-unwritten-1\.0\.drv", unwritten.drv_path)
    assert re.fullmatch(r"/.*/[0-9a-z]{32}-unwritten-1\.0", unwritten.store_path)
    assert (unwritten.outputs, unwritten.message) == ("out", None)
    assert nix.valid_paths(store, [unwritten.drv_path]) == set()


def test_a_catalog_tells_how_far_it_is_verified(client, run_all, unverified):
    (before,) = client.get("/api/v1/catalogs").json
    run_all()
    run_all()

    (catalog,) = client.get("/api/v1/catalogs").json
    (task,) = client.get("/api/v1/tasks?kind=verify").json
    keys = ("index", "verification", "verified", "packages")
    assert [before[key] for key in keys] == ["current", "in_progress", 0, 19]
    assert [catalog[key] for key in keys] == ["current", "current", 18, 19]
    assert (before["verified_at"], catalog["verification_task_id"]) == (None, task["id"])
    assert (task["status"], task["catalog"]) == ("succeeded", str(UNAVAILABLE))
    assert task["progress"] == {"done": 18, "expected": 18, "phase": None}
    assert (
        "pkgd: verified, 12 versions can't be had"
        in client.get(f"/api/v1/task/{task['id']}/log").text
    )
    assert catalog["index_task_id"] == task_of(client, "index")["id"]


@SQLITE
def test_without_verification_a_catalog_says_so(make_app):
    app = make_app(INDEX_VERIFY="false")
    pool = services.get(Pool, app)
    pool.maintain_once()
    assert pool.run_one()
    pool._index_at = 0.0

    pool.maintain_once()

    assert not pool.run_one()
    with app.app_context():
        standing = services.get(Catalogs).standings()[str(UNAVAILABLE)]
    assert (standing.verification, standing.verified) == ("none", 0)


@SQLITE
def test_a_download_takes_the_attribute_that_can_be_instantiated(client, run_all, run_task):
    run_all()

    task = run_task("twin", "1.0.0")

    package = client.get(f"/api/v1/package/{task['package_id']}").json
    assert package["attr"] == "twin_1"


# --- Its place among other tasks ---


def test_indexing_comes_first_and_only_one_catalog_is_worked_on(app, client, unverified):
    with app.app_context():
        other = indexes.state(nix.Catalog("two", "two"), "x", nix.NOTHING_MORE, ())
        assert not indexes.schedule_verifications(services.get(Catalogs).states())
        verification = task_queue.claim("me", 30)
        assert indexes.schedule([other]) == ["two"]

        assert (verification.kind, task_queue.claim("me", 30)) == ("verify", None)
        db.session.execute(update(Task).values(created_at=soon(-9)))
        db.session.commit()
        assert task_queue.is_other_waiting("verify", 1)
        assert not task_queue.is_other_waiting("index", 1)
        verification.requeue()
        assert task_queue.claim("me", 30).kind == "index"


@pytest.fixture
def gate(tmp_path, replace_program):
    """A file without which nothing but the first slice is evaluated."""
    gate = tmp_path / "gate"
    wait = f"[ -e $0.first ] && until [ -e {gate} ]; do sleep 0.05; done; touch $0.first"
    is_ours = 'case "$*" in *"--attr derivations")'
    replace_program("nix-instantiate", f'{is_ours} {wait};; esac; exec $real "$@"')
    return gate


@pytest.fixture
def halfway(gate, unverified, start_step, monkeypatch):
    """The thread of a verification that has verified one version, and waits at the gate."""
    monkeypatch.setattr("catalogs.verifying.SLICE", 1)
    thread = start_step()
    until(lambda: len(rows(unverified)) == 1)
    return thread


def test_a_verification_makes_way_and_goes_on_where_it_was(gate, halfway, app, client, pool):
    drain.begin(app.config["DATA_DIR"])
    halfway.join(10)
    assert (task_of(client)["status"], task_of(client)["attempt"]) == ("queued", 0)
    drain.end(app.config["DATA_DIR"])
    gate.touch()

    assert pool.run_one()

    assert (task_of(client)["status"], len(rows(app))) == ("succeeded", 18)
    log = client.get(f"/api/v1/task/{task_of(client)['id']}/log").text
    assert "1 versions are verified already" in log


def test_a_verification_goes_on_after_a_worker_that_is_gone(gate, halfway, app, client, pool):
    with app.app_context():
        db.session.execute(update(Task).values(lease_until=soon(-1)))
        db.session.commit()
        assert leases.reap() == 1
    gate.touch()
    halfway.join()
    assert len(rows(app)) == 1  # the worker that lost its lease writes nothing

    assert pool.run_one()

    assert (task_of(client)["attempt"], len(rows(app))) == (2, 18)


@SQLITE
def test_a_verification_is_cancelled_and_gone_on_with(gate, halfway, app, client, run_all):
    client.post(f"/api/v1/task/{task_of(client)['id']}/cancel")
    halfway.join()
    run_all()
    (catalog,) = client.get("/api/v1/catalogs").json
    assert (catalog["verification"], catalog["verified"]) == ("cancelled", 1)
    gate.touch()

    runner = app.test_cli_runner()
    told = [runner.invoke(args=["catalog", "verify"]).output for _ in range(2)]
    run_all()

    assert told == [
        f"{UNAVAILABLE} will be verified\n",
        f"{UNAVAILABLE} is being verified, or will be\n",
    ]
    assert client.get("/api/v1/catalogs").json[0]["verified"] == 18


@SQLITE
def test_a_cancel_is_heard_where_outcomes_are_written(gate, halfway, client, monkeypatch):
    monkeypatch.setattr("attempts.FLUSH_SECONDS", 99)
    client.post(f"/api/v1/task/{task_of(client)['id']}/cancel")
    gate.touch()
    halfway.join()

    assert task_of(client)["status"] == "cancelled"


@SQLITE
def test_what_is_not_indexed_is_not_verified(app):
    told = app.test_cli_runner().invoke(args=["catalog", "verify"])

    assert told.output == f"{UNAVAILABLE} is not indexed yet\n"


# --- What goes wrong ---


@SQLITE
def test_a_catalog_of_which_nothing_can_be_had_fails_the_task(client, run_all, monkeypatch):
    monkeypatch.setattr("catalogs.verifying.HOPELESS", 2)
    monkeypatch.setattr("catalogs.verifying.SLICE", 1)
    run_all()

    error = task_of(client)["error"]
    assert error["code"] == "evaluation_failed"
    assert error["message"].startswith("2 versions in a row can't be evaluated, the last one since")
    assert client.get("/api/v1/catalogs").json[0]["verification"] == "failed"


@SQLITE
def test_what_needs_more_memory_than_there_is_stays_on_offer(
    replace_program, app, client, unverified, pool
):
    is_ours = 'case "$*" in *"--attr derivations")'
    fails = "echo 'error: out of memory' >&2; exit 1"
    replace_program("nix-instantiate", f'{is_ours} {fails};; esac; exec $real "$@"')

    assert pool.run_one()

    (catalog,) = client.get("/api/v1/catalogs").json
    assert (catalog["verification"], catalog["verified"], rows(app)) == ("current", 0, {})
    assert task_of(client)["progress"]["done"] == 18
    assert versions(client, "throwing")[0]["available"]
