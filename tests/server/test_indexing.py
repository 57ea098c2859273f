"""The index of a catalog: how it comes to be, and that it says what an evaluation says."""

import os
import re
from contextlib import suppress

import psutil
import pytest
from sqlalchemy import delete, func, select, update
from support import CATALOGS, SQLITE, at, until

import drain
import leases
import nix
import services
import task_queue
from catalogs import indexes
from catalogs import offers as catalog_offers
from catalogs.models import CatalogIndex, IndexedName, IndexedOffer
from catalogs.state import Catalogs
from database import sqlite_file
from fields import NAME_PATTERN
from models import Task, db, soon
from worker import Pool

INDEXED = CATALOGS / "indexed.nix"


@pytest.fixture
def catalog(tmp_path):
    """Return a function that writes a catalog of one's own and returns its path."""

    def catalog(text, name="own"):
        path = tmp_path / name / "default.nix"  # for the folder of a file counts as its state
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    return catalog


@pytest.fixture
def settings(settings):
    """The settings of an application that indexes one catalog."""
    return settings | {
        "INDEX_BYTES": 2**30,
        "INDEX_SETS": "wanted none tools ruined",
        "CATALOGS": INDEXED,
    }


@pytest.fixture
def index(app, pool):
    """Return a function that queues what is to be indexed, and runs all tasks to their ends."""

    def index():
        pool._index_at = 0.0
        pool.maintain_once()
        while pool.run_one():
            pass

    return index


def packages(*names):
    """Return the text of a catalog with packages of these names, all of version 1.0."""
    return catalog_of(*(f'{name} = package "{name}" "1.0";' for name in names))


def catalog_of(*attributes):
    make = (
        "package = pname: version: derivation { inherit pname version; system = ''builtin'';"
        " name = ''${pname}-${version}''; builder = ''builtin:none''; };"
    )
    return f"let {make} in {{ {' '.join(attributes)} }}"


def index_tasks(client):
    """Return the tasks that index catalogs, the oldest first."""
    return [one for one in client.get("/api/v1/tasks").json[::-1] if one["kind"] == "index"]


def names_to_ask(store, catalog):
    """Return every name that somebody may ask a catalog for, and some that it does not have."""
    survey = nix.Survey(store, catalog)
    names = set()
    for prefix in ("", "tools.", "tools.deep.", "tools_1.", "wanted.", "unwanted.", "ruined."):
        try:
            attrs = survey.names(prefix.rstrip("."))
        except nix.CATALOG_FAULTS:
            attrs = ["tool"]
        for attr in attrs:
            names |= {prefix + attr, *(prefix + base for base in nix.bases(attr))}
    names |= {"nosuch", "tools.nosuch", "nosuch.tool", "compiler-wrapper", "real", "jdk", "node-"}
    return sorted(name for name in names if re.match(NAME_PATTERN, name))


def told(offers):
    """Return what a client is told of offers, but for descriptions, which only an index has."""
    versions = [
        (one.version, one.spelled, one.catalog, one.attr, one.reason) for one in offers.versions
    ]
    return versions, offers.failures, () if versions else (offers.near, offers.kind)


@SQLITE
@pytest.mark.parametrize("is_old", [False, True])
def test_an_index_says_of_every_name_what_an_evaluation_says(
    make_app, catalog, store, is_old, tmp_path
):
    text = f"{{ config ? {{ }} }}: import {INDEXED} {{ inherit config; old = true; }}"
    path, every = (catalog(text), 3) if is_old else (INDEXED, 1)
    app = make_app(CATALOGS=path)
    step(app)

    with app.app_context():
        ids = indexes.current(services.get(Catalogs).states())
        assert len(ids) == 1
        answered = 0
        for name in names_to_ask(store, *at(path))[::every]:
            known = catalog_offers.known(ids, name)
            by_index = nix.offers(store, at(path), name, known=known)
            assert told(by_index) == told(nix.offers(store, at(path), name)), name
            answered += any(known.values())
            check_available(store, path, name, by_index, tmp_path)
        assert answered > 35 / every


def check_available(store, path, name, offers, tmp_path):
    """Check that what is to be had is had from the attribute that is named."""
    for one in offers.versions:
        if one.available:
            found = nix.resolve(store, at(path), name, one.version, tmp=tmp_path / "tmp")
            assert (found.attr, found.spelled) == (one.attr, one.spelled)


def step(app):
    """Queue what is to be indexed, and run it."""
    pool = services.get(Pool, app)
    pool.maintain_once()
    while pool.run_one():
        pass


# --- Rows ---


@SQLITE
def test_an_index_has_what_a_catalog_says_of_its_packages(app, index):
    index()

    with app.app_context():
        described = select(IndexedOffer).where(IndexedOffer.attr == "caf-e")
        row = db.session.scalars(described).one()
        assert (
            row.description == 'Un caf\N{LATIN SMALL LETTER E WITH ACUTE}, pour tous: 100% "free"_1'
        )
        assert (row.homepage, row.license) == ("https://one.example", "MIT, BSD, Other")
        wordy = db.session.scalars(select(IndexedOffer).where(IndexedOffer.attr == "wordy")).one()
        assert (len(wordy.description), wordy.homepage, wordy.license) == (500, None, "GPL")
        mute = db.session.scalars(select(IndexedOffer).where(IndexedOffer.attr == "mute")).one()
        assert (mute.description, mute.license, mute.version) == (None, None, "1.0.0")


@SQLITE
@pytest.mark.parametrize("size", [3, 400])
def test_siblings_have_a_name_in_common(app, index, monkeypatch, size):
    monkeypatch.setattr("catalogs.indexing.SLICE", size)

    index()

    with app.app_context():
        found = select(IndexedOffer.attr, IndexedName.name).join(IndexedName)
        names = {row.attr: row.name for row in db.session.execute(found)}
    assert names["node_18"] == names["nodeLTS"] == names["node"] == "node"
    assert (names["compiler12"], names["compiler_old"]) == ("compiler", "compiler")
    assert (names["node_9_x"], names["node_modules"]) == ("node_9_x", "node_modules")
    assert (names["tools.tool_2"], names["tools.deep.tool"]) == ("tools.tool", "tools.deep.tool")
    assert "1st" not in names
    assert "unwanted.tool" not in names


@SQLITE
def test_attributes_that_end_an_evaluation_are_recorded_each_by_itself(app, index):
    index()

    with app.app_context():
        row = db.session.scalars(select(CatalogIndex)).one()
        assert set(row.failures) == {"broken", "breaks_2", "tools.fails", "ruined"}
        assert "cannot go on" in row.failures["breaks_2"]


@SQLITE
@pytest.mark.parametrize("size", [2, 400])
def test_a_set_of_which_nothing_can_be_evaluated_is_given_up(own, app, index, monkeypatch, size):
    monkeypatch.setattr("nix.survey.HOPELESS", 2)
    monkeypatch.setattr("catalogs.indexing.SLICE", size)
    bad = " ".join(f'a{n} = abort "{n}";' for n in range(5))
    own.write_text(packages("zeta").replace("{ z", f"{{ wanted = {{ {bad} }}; z"))

    index()

    with app.app_context():
        row = db.session.scalars(select(CatalogIndex)).one()
    assert set(row.failures) == {"wanted.a0", "wanted.a1", "wanted"}
    assert (indexed(app), dict(row.todo)["wanted"]) == (["zeta"], 5)


@SQLITE
def test_what_an_attempt_found_impossible_but_did_not_count_is_evaluated_anew(own, app, index):
    index()
    # As where an attempt ends between two transactions: all failures are in the first one.
    ended = {"finished_at": None, "todo": [["", 1]], "failures": {"beta": "out of memory"}}
    with app.app_context():
        db.session.execute(delete(IndexedOffer).where(IndexedOffer.attr == "beta"))
        db.session.execute(update(CatalogIndex).values(ended))
        db.session.commit()
        app.test_cli_runner().invoke(args=["catalog", "index"])

    index()

    with app.app_context():
        assert db.session.scalars(select(CatalogIndex.failures)).one() == {}
    assert indexed(app) == ["alpha", "beta"]


@SQLITE
def test_no_more_sets_are_indexed_than_the_bound(own, app, index, monkeypatch):
    monkeypatch.setattr("catalogs.indexing.SETS", 2)

    index()

    with app.app_context():
        assert list(dict(db.session.scalars(select(CatalogIndex)).one().todo)) == ["", "wanted"]


# --- The task ---


def test_a_catalog_is_indexed_by_a_task_once(client, index, read_log):
    index()
    index()

    (task,) = index_tasks(client)
    assert (task["status"], task["catalog"], task["package_id"]) == (
        "succeeded",
        str(INDEXED),
        None,
    )
    assert task["progress"]["done"] == task["progress"]["expected"] > 50
    assert re.search(r"indexed (\d+) of \1 attributes\n", read_log(task["id"]))
    (catalog,) = client.get("/api/v1/catalogs").json
    assert catalog["packages"] > 40
    assert catalog["indexed_at"] is not None


@SQLITE
def test_without_memory_for_it_nothing_is_indexed(make_app):
    app = make_app(INDEX_BYTES=0)
    step(app)

    with app.app_context():
        assert db.session.scalar(select(func.count()).select_from(Task)) == 0
        answer = app.test_cli_runner().invoke(args=["catalog", "index"])
    assert answer.output == "Error: INDEX_BYTES is 0: no catalog is indexed\n"


@pytest.fixture
def own(settings, catalog):
    """A catalog of the test's own in place of the usual one; request it before any application."""
    path = catalog(packages("alpha", "beta"))
    settings["CATALOGS"] = path
    return path


@SQLITE
def test_a_catalog_that_fails_fails_its_task_and_is_not_tried_again(own, client, index, app):
    own.write_text("{ broken")

    index()
    index()

    (task,) = index_tasks(client)
    assert (task["status"], task["error"]["code"]) == ("failed", "evaluation_failed")
    again = app.test_cli_runner().invoke(args=["catalog", "index", str(own)])
    assert again.output == f"{own} will be indexed\n"
    index()
    assert [task["status"] for task in index_tasks(client)] == ["failed", "failed"]


@SQLITE
def test_a_changed_catalog_is_indexed_again_and_the_old_index_deleted(own, client, index, app):
    index()
    own.write_text(packages("gamma"))

    index()
    assert [hit["name"] for hit in search(client, "alpha")] == ["alpha"]
    index()

    assert [task["status"] for task in index_tasks(client)][-1] == "succeeded"
    assert search(client, "alpha") == []
    index()
    with app.app_context():
        assert db.session.scalars(select(IndexedOffer.attr)).all() == ["gamma"]
        assert db.session.scalar(select(func.count()).select_from(CatalogIndex)) == 1


def search(client, text, **query):
    """Return what a search finds."""
    answer = client.get("/api/v1/catalog", query_string={"search": text, **query})
    assert answer.status_code == 200, answer.json
    return answer.json


@SQLITE
def test_an_index_is_made_anew_on_request_while_the_old_one_serves(own, client, index, app):
    index()

    runner = app.test_cli_runner()
    assert runner.invoke(args=["catalog", "index"]).output == f"{own} will be indexed\n"
    again = runner.invoke(args=["catalog", "index"]).output
    assert again == f"{own} is being indexed, or will be\n"
    assert [hit["version"] for hit in search(client, "alpha")] == ["1.0.0"]
    index()

    assert (
        runner.invoke(args=["catalog", "index", "other"]).output
        == "Error: there is no catalog other\n"
    )
    index()
    with app.app_context():
        assert db.session.scalar(select(func.count()).select_from(CatalogIndex)) == 1


@SQLITE
def test_a_catalog_that_changes_while_it_is_indexed_is_not_mistaken(own, client, pool, app):
    pool.maintain_once()
    own.write_text(packages("gamma"))

    assert pool.run_one()

    (task,) = index_tasks(client)
    log = client.get(f"/api/v1/task/{task['id']}/log").text
    assert task["status"] == "cancelled"
    assert "cancelled: the catalog has changed" in log


@SQLITE
def test_a_catalog_that_is_gone_is_not_indexed(own, client, pool, app):
    pool.maintain_once()
    with app.app_context():
        services.get(Catalogs).__dict__["configured"] = ()

    assert pool.run_one()

    assert index_tasks(client)[0]["status"] == "cancelled"


# --- Its place among other tasks ---


def test_downloads_come_first_and_one_catalog_is_indexed_at_a_time(app, client, schedule):
    with app.app_context():
        states = [
            indexes.state(nix.Catalog(name, name), "x", nix.NOTHING_MORE, ())
            for name in ("one", "two")
        ]
        assert indexes.schedule([*states, *states]) == ["one", "two"]
        assert indexes.schedule(states) == []
        schedule("hello", "2.12.1")

        claims = [task_queue.claim("me", 30) for _ in range(3)]
        assert [claim and claim.kind for claim in claims] == ["download", "index", None]
        claims[1].cancel()
        assert task_queue.claim("me", 30).subject.catalog == "two"


def test_a_catalog_is_not_taken_in_place_of_a_download_that_another_worker_takes(app, schedule):
    with app.app_context():
        indexes.schedule([indexes.State(nix.Catalog("one", "one"), "x")])
        schedule("hello", "2.12.1")

        def lose():
            assert task_queue.claim("other", 30).kind == "download"

        assert task_queue.claim("me", 30, lose) is None
        assert task_queue.claim("me", 30).kind == "index"


@pytest.fixture
def gate(tmp_path, replace_program):
    """A file without which no slice but the first is evaluated."""
    gate = tmp_path / "gate"
    wait = f"[ -e $0.first ] && until [ -e {gate} ]; do sleep 0.05; done; touch $0.first"
    replace_program(
        "nix-instantiate", f'case "$*" in *"--attr survey") {wait};; esac; exec $real "$@"'
    )
    return gate


def test_an_index_makes_way_for_a_download_and_goes_on_where_it_was(
    gate, own, app, client, pool, schedule, start_step, monkeypatch
):
    monkeypatch.setattr("catalogs.indexing.SLICE", 1)
    own.write_text(packages("alpha", "beta", "gamma"))
    pool.maintain_once()
    thread = start_step()
    until(lambda: indexed(app) == ["alpha"])
    task_id = schedule("alpha", "1.0.0")
    with app.app_context(), db.engine.begin() as connection:
        connection.execute(update(Task).where(Task.kind == "download").values(created_at=soon(-9)))
    thread.join()  # though the evaluation of beta does not end

    (task,) = index_tasks(client)
    assert (task["status"], task["attempt"], indexed(app)) == ("queued", 0, ["alpha"])
    gate.touch()
    assert [pool.run_one() for _ in range(3)] == [True, True, False]

    assert client.get(f"/api/v1/task/{task_id}").json["status"] == "failed"  # it has no builder
    (task,) = index_tasks(client)
    assert (task["status"], task["attempt"]) == ("succeeded", 1)
    log = client.get(f"/api/v1/task/{task['id']}/log").text
    assert "another task waits" in log
    assert "1 attributes are indexed already" in log
    assert indexed(app) == ["alpha", "beta", "gamma"]


@SQLITE
def test_an_evaluation_rests_in_turns_while_requests_are_served(
    gate, own, app, client, pool, start_step, monkeypatch
):
    monkeypatch.setattr("catalogs.indexing.SLICE", 1)
    own.write_text(packages("alpha", "beta"))
    pool.maintain_once()
    thread = start_step()
    until(lambda: indexed(app) == ["alpha"])  # the evaluation of beta does not end

    def rests():
        client.get("/api/v1/packages")
        with suppress(psutil.NoSuchProcess):
            states = {child.status() for child in psutil.Process().children(recursive=True)}
            return psutil.STATUS_STOPPED in states

    until(rests)

    gate.touch()
    thread.join()
    assert indexed(app) == ["alpha", "beta"]


@SQLITE
def test_what_is_evaluated_is_indexed_before_its_evaluation_ends(
    own, app, pool, start_step, tmp_path
):
    gate = tmp_path / "blocks"
    os.mkfifo(gate)  # to read it blocks the evaluation
    alpha = 'alpha = package "alpha" "1.0";'
    own.write_text(catalog_of(alpha, f"beta = builtins.readFile {gate};"))
    pool.maintain_once()
    thread = start_step()

    until(lambda: indexed(app) == ["alpha"])

    drain.begin(app.config["DATA_DIR"])
    thread.join()
    gate.unlink()
    gate.write_text("open")
    drain.end(app.config["DATA_DIR"])
    assert (pool.run_one(), indexed(app)) == (True, ["alpha"])
    with app.app_context():
        assert dict(db.session.scalars(select(CatalogIndex)).one().todo)[""] == 2


@SQLITE
def test_an_index_waits_for_a_database_that_is_away(
    own, app, client, pool, start_step, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr("catalogs.work.PATIENCE_SECONDS", 0)
    gate = tmp_path / "blocks"
    os.mkfifo(gate)  # to read it blocks the evaluation
    alpha = 'alpha = package "alpha" "1.0";'
    own.write_text(catalog_of(alpha, f"beta = builtins.readFile {gate};"))
    pool.maintain_once()
    thread = start_step()
    until(lambda: indexed(app) == ["alpha"])
    with app.app_context():
        file = sqlite_file(db.engine.url)

    file.rename(tmp_path / "away")
    until(lambda: caplog.text.count("is gone, or another one") > 2 or not thread.is_alive())
    (tmp_path / "away").rename(file)
    assert thread.is_alive()
    gate.write_text("go on")
    thread.join()

    (task,) = index_tasks(client)
    assert (task["status"], task["attempt"]) == ("succeeded", 1)


def test_an_index_makes_way_at_once_when_the_service_is_drained_and_goes_on_later(
    gate, own, app, client, pool, start_step, monkeypatch
):
    monkeypatch.setattr("catalogs.indexing.SLICE", 1)
    own.write_text(packages("alpha", "beta"))
    pool.maintain_once()
    thread = start_step()
    until(lambda: indexed(app) == ["alpha"])

    drain.begin(app.config["DATA_DIR"])
    thread.join(10)

    (task,) = index_tasks(client)
    assert (task["status"], task["attempt"], pool.run_one()) == ("queued", 0, False)
    drain.end(app.config["DATA_DIR"])
    gate.touch()
    assert (pool.run_one(), indexed(app)) == (True, ["alpha", "beta"])


def indexed(app):
    """Return the attributes that are indexed."""
    with app.app_context():
        return sorted(db.session.scalars(select(IndexedOffer.attr)))


def test_an_index_goes_on_after_a_worker_that_is_gone(
    gate, own, app, client, pool, start_step, monkeypatch
):
    monkeypatch.setattr("catalogs.indexing.SLICE", 1)
    pool.maintain_once()
    thread = start_step()
    until(lambda: indexed(app) == ["alpha"])
    with app.app_context():
        db.session.execute(update(Task).values(lease_until=soon(-1)))
        db.session.commit()
        assert leases.reap() == 1
    gate.touch()
    thread.join()
    assert indexed(app) == ["alpha"]  # the worker that lost its lease writes nothing

    assert pool.run_one()

    assert indexed(app) == ["alpha", "beta"]
    (task,) = index_tasks(client)
    assert (task["status"], task["attempt"]) == ("succeeded", 2)


@SQLITE
def test_an_indexing_is_cancelled(gate, own, app, client, pool, start_step, monkeypatch):
    monkeypatch.setattr("catalogs.indexing.SLICE", 1)
    pool.maintain_once()
    thread = start_step()
    until(lambda: indexed(app) == ["alpha"])

    task_id = index_tasks(client)[0]["id"]
    assert client.post(f"/api/v1/task/{task_id}/cancel").status_code == 202
    thread.join()

    assert index_tasks(client)[0]["status"] == "cancelled"
    assert (indexed(app), search(client, "alpha")[0]["version"]) == (["alpha"], None)


@SQLITE
def test_an_evaluation_of_an_index_has_little_memory_and_the_lowest_priority(
    replace_program, own, app, pool, tmp_path
):
    told = f'echo "$GC_MAXIMUM_HEAP_SIZE $(cut -d " " -f 19 /proc/$$/stat)" >>{tmp_path}/told'
    is_ours = 'case "$*" in *"--attr survey"|*"--attr members")'
    replace_program("nix-instantiate", f'{is_ours} sleep 0.2; {told};; esac; exec $real "$@"')
    pool.maintain_once()

    assert pool.run_one()

    assert set((tmp_path / "told").read_text().splitlines()) == {f"{2**30} 19"}
    assert indexed(app) == ["alpha", "beta"]


@SQLITE
def test_a_store_that_is_away_fails_no_attribute(replace_program, own, app, client, pool, tmp_path):
    away = tmp_path / "away"
    breaks = f'case "$*" in *"--attr survey") touch {away}; exit 1;; esac'
    replace_program("nix-instantiate", f'{breaks}; exec $real "$@"')
    fails = f"[ -e {away} ] && echo error: no store >&2 && exit 1"
    replace_program("nix-store", f'{fails}; exec $real "$@"')
    pool.maintain_once()

    assert pool.run_one()

    (task,) = index_tasks(client)
    assert (task["status"], task["attempt"]) == ("queued", 0)
    with app.app_context():
        assert db.session.scalars(select(CatalogIndex)).one().failures == {}


@SQLITE
def test_a_cancel_is_heard_where_rows_are_written(
    gate, own, app, client, pool, start_step, monkeypatch
):
    monkeypatch.setattr("catalogs.indexing.SLICE", 1)
    monkeypatch.setattr("attempts.FLUSH_SECONDS", 99)
    pool.maintain_once()
    thread = start_step()
    until(lambda: indexed(app) == ["alpha"])

    client.post(f"/api/v1/task/{index_tasks(client)[0]['id']}/cancel")
    gate.touch()
    thread.join()

    assert index_tasks(client)[0]["status"] == "cancelled"
    assert indexed(app) == ["alpha", "beta"]


# --- What it is for ---


@pytest.fixture
def asked(replace_program, tmp_path):
    """Return a function that returns how nix-instantiate was called since it was last asked."""
    path = tmp_path / "asked"
    replace_program("nix-instantiate", f'echo "$*" >>{path}; exec $real "$@"')

    def asked():
        found = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return found

    return asked


def test_the_versions_of_a_name_come_from_the_index_with_descriptions(asked, client, index):
    index()
    asked()

    answer = client.get("/api/v1/catalog/compiler").json

    assert [(one["version"], one["description"]) for one in answer["versions"]] == [
        ("13.0.0", "The program compiler-wrapper"),
        ("12.3.0", "The program compiler-wrapper"),
        ("4.0.0", "The program compiler"),
    ]
    assert asked() == []


@SQLITE
def test_a_name_that_no_index_has_is_looked_for_by_evaluation(asked, client, index):
    index()
    asked()

    answer = client.get("/api/v1/catalog/nodde")

    assert (answer.status_code, answer.json["near"][0]) == (404, "node")
    assert asked() != []


@pytest.mark.parametrize(("name", "is_known"), [("alpha", True), ("broken", False)])
def test_a_download_asks_the_catalog_that_its_index_names(
    asked, settings, catalog, make_app, name, is_known
):
    first = catalog(packages("beta", "broken").replace("{ ", "{ broken_2 = abort ''x''; "), "first")
    second = catalog(packages("alpha", "broken"), "second")
    app = make_app(CATALOGS=f"{first} {second}")
    step(app)
    asked()

    with app.app_context():
        best = services.get(Catalogs).best_for(name, "1.0.0").catalogs
        missing = services.get(Catalogs).best_for("alpha", "2.0.0").catalogs

    assert [one.name for one in missing] == [str(first), str(second)]
    assert (best[0].name == str(second)) == is_known


UNFREE = "Package 'dep-1' in x.nix:1 has an unfree license ('x'), refusing to evaluate."


@pytest.mark.parametrize(
    ("said", "reason"), [("no such compiler", "evaluation_failed"), (UNFREE, "unfree")]
)
def test_a_version_that_a_download_found_impossible_is_offered_no_more(
    own, client, index, run_task, said, reason
):
    own.write_text(packages("alpha", "beta").replace("''builtin:none''", f'throw "{said}"'))
    index()
    assert client.get("/api/v1/catalog/alpha").json["versions"][0]["available"]

    task = run_task("alpha", "1.0.0")

    assert task["error"]["message"].endswith(said) or task["error"]["reason"] == reason
    (offer,) = client.get("/api/v1/catalog/alpha").json["versions"]
    assert (offer["available"], offer["reason"]) == (False, reason)
    assert [one["version"] for one in search(client, "alpha") + search(client, "beta")] == [
        None,
        "1.0.0",
    ]
    assert client.get(f"/api/v1/package/{task['package_id']}").json["attr"] == "alpha"


@SQLITE
def test_what_a_catalog_that_fails_as_a_whole_has_is_not_noted(own, client, index, run_task):
    own.write_text(packages("alpha"))
    index()
    own.write_text('throw "on purpose"')

    task = run_task("alpha", "1.0.0")

    assert task["error"]["code"] == "evaluation_failed"
    assert client.get(f"/api/v1/package/{task['package_id']}").json["attr"] is None
