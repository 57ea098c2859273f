"""Copying a database to one of the other kind, and back."""

import uuid
from datetime import UTC, datetime

import psycopg
import pytest
from sqlalchemy import create_engine, insert, inspect, select
from support import POSTGRESQL, SQLITE, bearing

from cache.publishing import PublishingTotals
from catalogs.models import CatalogIndex, IndexedName, IndexedOffer, Pin
from commands import database_copy
from event_log import Event
from machines.models import Machine, ReportedState, Rollout
from models import (
    Package,
    PackageStatus,
    Scope,
    Task,
    TaskKind,
    TaskLog,
    TaskStatus,
    Token,
    db,
)
from profiles.models import (
    AppliedPackage,
    Apply,
    Change,
    Generation,
    Membership,
    Profile,
    Reason,
)
from session_models import Session
from task_ends import TaskEnd
from webhooks.models import Delivery, DeliveryTotal, Webhook

WHEN = datetime(2026, 2, 3, 4, 5, 6, 789_012, tzinfo=UTC)
ROWS = (
    [Package(id=n, name=f"made-{n}", version="1.0.0") for n in (1, 2, 7)],
    [
        Package(
            id=9,
            name="whole",
            version="1.2.3+ü",
            status=PackageStatus.DOWNLOADED,
            created_at=WHEN,
            catalog="<nixpkgs>",
            store_path="/nix/store/x",
            store_paths=["/nix/store/x", "/nix/store/y ☃"],
            closure_size=2**40,
        )
    ],
    [CatalogIndex(id=3, catalog="c", signature="s", todo=[["", 5]], failures={"a": "why"})],
    [IndexedName(id=6, name="Á", lower="á", descriptions="one\ntwo")],
    [IndexedOffer(id=4, index_id=3, attr="a", pname="a", name_id=6, spelled="1", version="1.0.0")],
    [Pin(id=5, name="p", url="u", sha256="h", store_path="/x", anchor="", rank=0, dated_at=WHEN)],
    [
        Task(seq=1, id=uuid.UUID(int=5), package_id=9, status=TaskStatus.SUCCEEDED, attempt=2),
        Task(seq=2, package_id=1, lease_until=WHEN, waiting="a\nb"),
        Task(seq=3, index_id=3, kind=TaskKind.INDEX, cancel_requested=True),
    ],
    [TaskLog(task_seq=1, attempt=1, start=n * 10**9, data=bytes(range(256))) for n in range(40)],
    [Profile(id=3, name="team", revision=4, changed_at=WHEN)],
    [Task(seq=4, profile_id=3, kind=TaskKind.PUBLISH, waits=2)],
    [Membership(profile_id=3, package_id=9)],
    [Apply(task_seq=2, profile_id=3, by="me", revision=None)],
    [AppliedPackage(task_seq=2, package_id=1)],
    [
        Generation(
            id=1,
            profile_id=3,
            number=6,
            store_path="/g",
            packages=[{"name": "ü", "store_paths": []}],
        )
    ],
    [Change(id=1, generation_id=1, at=WHEN, reason=Reason.ROLLBACK, by="me")],
    [
        Machine(
            name="web-1",
            profile_id=3,
            place=7,
            store_path="/g",
            reported=ReportedState.FAILED,
            error="why",
            seen_at=WHEN,
        )
    ],
    [Rollout(profile_id=3, percent=10, generation_id=1)],
    [TaskEnd(kind="download", status="failed", code="refused", tasks=2, attempts=3, seconds=0.5)],
    [PublishingTotals(id=1, paths=2**40, size=2**50, seconds=0.5, failures=1)],
    [Token(id=8, name="robot", scope=Scope.READ, digest="d" * 64, first=False, expires_at=WHEN)],
    [Session(digest="e" * 64, token_id=8, expires_at=WHEN)],
    [
        Event(
            seq=2**40,
            type="task.failed",
            by={"kind": "token", "id": 8, "name": "ü"},
            subject={"kind": "task", "id": "5", "name": None},
            data={"error": {"message": "a\nb"}},
        )
    ],
    [DeliveryTotal(outcome="failed", deliveries=2**40)],
    [Webhook(id=2, url="https://x/", types=["task.*"], secret="s", cursor=2**40)],
    [
        Delivery(
            id=2**40,
            webhook_id=2,
            event_seq=2**40,
            type="task.failed",
            attempt=3,
            seconds=0.5,
            status=503,
            error="why",
            succeeded=False,
        )
    ],
)


@pytest.fixture
def filled(app, client):
    """The application, whose database has rows in every table, and has had others before."""
    with app.app_context():
        for objects in ROWS:
            rows = [{k: v for k, v in vars(one).items() if k[0] != "_"} for one in objects]
            for row in rows:
                db.session.execute(insert(type(objects[0])).values(**row))
        if db.engine.dialect.name == "postgresql":
            for table, column, last in (("packages", "id", 11), ("tasks", "seq", 4)):
                give_out(table, column, last)
        else:
            db.session.execute(insert(Package).values(id=11, name="gone", version="1.0.0"))
            db.session.delete(db.session.get_one(Package, 11))
        db.session.commit()
    return app


def give_out(table, column, last):
    """Have PostgreSQL have given out ids up to the last one, as inserts without one do."""
    sequence = f"pg_get_serial_sequence('{table}', '{column}')"
    db.session.execute(db.text(f"SELECT setval({sequence}, {last})"))


@pytest.fixture
def other_url(database_url, request, tmp_path):
    """The URL of an empty database of the other kind."""
    if database_url.startswith("postgresql"):
        yield f"sqlite:///{tmp_path}/other.db"
        return
    postgres = request.getfixturevalue("postgres")
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
        connection.execute("CREATE DATABASE other")
        yield postgres.url("other")
        connection.execute("DROP DATABASE other WITH (FORCE)")


@pytest.fixture
def copy(filled, other_url):
    """Return a function that runs `flask copy-db`."""

    def copy(url=other_url):
        return filled.test_cli_runner().invoke(args=["copy-db", url])

    return copy


def contents(engine):
    """Return the rows of every table, and that there are some in each."""
    with engine.connect() as connection:
        found = {
            table.name: connection.execute(select(table).order_by(*table.primary_key)).all()
            for table in db.metadata.sorted_tables
        }
    assert all(found.values())
    return found


def test_a_copy_has_every_row_of_every_table_and_gives_out_no_id_again(
    copy, filled, make_app, other_url, tmp_path, client
):
    done = copy()

    assert done.exit_code == 0, done.output
    assert "packages: 4 of 4\n" in done.output
    assert f" rows of {len(db.metadata.sorted_tables)} tables are in " in done.output
    copied = make_app(DATABASE_URL=other_url, DATA_DIR=tmp_path / "other")
    with filled.app_context():
        before = contents(db.engine)
    with copied.app_context():
        assert contents(db.engine) == before
        assert db.session.scalar(insert(Pin).values(PIN).returning(Pin.id)) == 6
    answer = bearing(copied, client.secret).post("/api/v1/packages", json=HELLO)
    assert (answer.status_code, answer.json["id"]) == (201, 12)
    task = bearing(copied, client.secret).post("/api/v1/package/12/download")
    assert task.status_code == 202


PIN = {"name": "q", "url": "u", "sha256": "h", "store_path": "/x", "rank": 1}
HELLO = {"name": "hello", "version": "2.12.1"}


def test_a_copy_goes_back_to_the_first_kind(copy, make_app, other_url, settings, tmp_path, filled):
    copy()
    back = f"sqlite:///{tmp_path}/back.db"
    copied = make_app(DATABASE_URL=other_url, DATA_DIR=tmp_path / "other")

    done = copied.test_cli_runner().invoke(args=["copy-db", back])

    assert done.exit_code == 0, done.output
    returned = create_engine(back)
    with filled.app_context():
        assert contents(returned) == contents(db.engine)
    returned.dispose()


def test_a_search_finds_what_was_copied(copy, make_app, other_url, tmp_path, client):
    copy()

    copied = make_app(DATABASE_URL=other_url, DATA_DIR=tmp_path / "other")

    with copied.app_context():
        if db.engine.dialect.name == "sqlite":
            matching = "SELECT rowid FROM name_texts WHERE name_texts MATCH 'two'"
            assert db.session.scalars(db.text(matching)).all() == [6]
        else:
            indexes = inspect(db.engine).get_indexes("indexed_names")
            assert "name_texts" in [one["name"] for one in indexes]


def test_a_destination_that_is_not_empty_is_left_as_it_is(copy, other_url):
    copy()

    again = copy()

    assert (again.exit_code, again.stderr.count("\n")) == (1, 2), again.output
    tables = ", ".join(table.name for table in db.metadata.sorted_tables)
    assert f"Error: the destination is not empty: it has {tables}" in again.stderr


def test_a_copy_that_fails_leaves_no_row(filled, other_url, monkeypatch):
    class Failed(Exception):
        """Raised in the middle of the copy."""

    def heard(table, copied, _total):
        if table == "task_logs" and copied:
            raise Failed

    with filled.app_context(), pytest.raises(Failed):
        database_copy.copy(db.engine, other_url, heard)

    other = create_engine(other_url)
    with other.connect() as connection:
        assert not connection.scalars(select(Package.id)).all()
    other.dispose()


def test_what_is_written_during_the_copy_is_not_in_it(filled, other_url, client):
    def heard(table, copied, _total):
        if table == "packages" and not copied:
            assert client.post("/api/v1/packages", json=HELLO).status_code == 201

    with filled.app_context():
        database_copy.copy(db.engine, other_url, heard)

    other = create_engine(other_url)
    with other.connect() as connection:
        assert len(connection.scalars(select(Package.id)).all()) == 4
    other.dispose()


@SQLITE
def test_what_the_other_kind_can_not_hold_is_told_in_a_line(copy, filled):
    with filled.app_context():
        db.session.execute(insert(Package).values(id=12, name="nul\0", version="1.0.0"))
        db.session.commit()

    refused = copy()

    assert refused.exit_code == 1
    last = refused.stderr.splitlines()[-1]
    assert last.startswith("Error: nothing was copied: ")


@SQLITE
@pytest.mark.parametrize(
    ("url", "code", "said"),
    [
        ("", 2, "Invalid value for 'URL': it is no URL"),
        ("mysql://x/y", 2, "not of postgresql or sqlite"),
        ("postgresql://127.0.0.1:1/pkgd", 1, "Error: nothing was copied: "),
        ("{same}", 1, "Error: app.db is this database itself"),
        (
            "sqlite:///{folder}/old.db",
            1,
            "Error: the destination can't be used: the schema is None",
        ),
    ],
)
def test_a_destination_that_can_not_be_used_is_told(
    filled, database_url, tmp_path, url, code, said
):
    engine = create_engine(f"sqlite:///{tmp_path}/old.db")
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE packages (id INTEGER)")
    engine.dispose()
    url = url.format(same=database_url, folder=tmp_path)

    refused = filled.test_cli_runner().invoke(args=["copy-db", url])

    assert refused.exit_code == code
    assert said in refused.stderr.splitlines()[-1]


@POSTGRESQL
def test_rows_that_do_not_arrive_undo_the_copy(filled, other_url, monkeypatch):
    engine = create_engine(other_url)
    with filled.app_context():
        database_copy._prepare(engine)
    with engine.begin() as connection:
        forget = "CREATE TRIGGER t AFTER INSERT ON tokens BEGIN DELETE FROM tokens; END"
        connection.exec_driver_sql(forget)
    engine.dispose()

    refused = filled.test_cli_runner().invoke(args=["copy-db", other_url])

    assert refused.stderr.splitlines()[-1] == "Error: tokens has 2 rows, but 0 arrived"


@SQLITE
def test_without_read_only_it_is_said_that_later_writes_are_not_copied(copy, make_app, other_url):
    assert "what the service writes from now on stays in app.db alone" in copy().stderr

    again = make_app(READ_ONLY="true").test_cli_runner().invoke(args=["copy-db", other_url])

    assert again.stderr.startswith("Error: the destination is not empty")
