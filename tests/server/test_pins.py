"""Pins: catalogs that the host adds, updates and removes by `flask catalog`."""

import fcntl
import re
import tarfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from sqlalchemy import select
from support import BUNDLED, SQLITE, until
from tarballs import DATE, REVISION, catalog, tarball

import nix
import services
from catalogs import pins
from catalogs.models import CatalogIndex, Pin
from catalogs.state import Catalogs
from models import Task, TaskKind, TaskStatus, db

TEXT = catalog(app="1.0.0", tool="1.0.0")
NEWER = catalog(app="2.0.0")

pytestmark = pytest.mark.usefixtures("own_store")


@pytest.fixture
def flask(app):
    """Return a function that runs `flask catalog …`, and returns what it prints.

    Where a rejection is expected, it returns the one line that tells why.
    """

    def flask(*words, refused=False):
        done = app.test_cli_runner().invoke(args=["catalog", *map(str, words)])
        assert done.exit_code == (1 if refused else 0), done.output
        if not refused:
            return done.output
        assert done.output.count("\n") == 1, done.output
        return done.output.removeprefix("Error: ").strip()

    return flask


@pytest.fixture
def url(tmp_path):
    """The URL of a tarball with a catalog of two packages."""
    return tarball(tmp_path / "pin.tar.gz", default_nix=TEXT, revision=REVISION)


@pytest.fixture
def newer(tmp_path):
    """The URL of a tarball with a newer catalog."""
    return tarball(tmp_path / "newer.tar.gz", default_nix=NEWER)


@pytest.fixture
def names(app):
    """Return a function that returns the names of all catalogs, `-` for a configured one."""

    def names():
        with app.app_context():
            catalogs = services.get(Catalogs)
            configured = catalogs.configured
            return " ".join("-" if c in configured else c.name for c in catalogs.in_order())

    return names


@pytest.fixture
def left(app):
    """Return a function that returns all that is in the store and among the roots of pins."""

    def left():
        store = services.get(nix.Store, app).directory.glob("*-*")
        roots = (app.config["DATA_DIR"] / "pins").glob("*")
        found = [path.name[33:] for path in store], [path.name for path in roots]
        return [sorted(name for name in names if name != ".lock") for names in found]

    return left


@pytest.fixture
def demonstration(tmp_path):
    """The URL of a tarball with the bundled catalog."""
    with tarfile.open(tmp_path / "bundled.tar.xz", "w:xz") as archive:
        archive.add(BUNDLED, "catalog")
    return (tmp_path / "bundled.tar.xz").as_uri()


@pytest.fixture
def pin(app):
    """Return a function that returns the row of a pin."""

    def pin(name="old"):
        with app.app_context():
            return pins.known().get(name)

    return pin


def test_a_version_of_a_pin_has_the_date_of_the_pin(flask, url, client):
    flask("add", "old", url)

    (offer,) = client.get("/api/v1/catalog/tool?version=^1").json["versions"]

    assert (offer["catalog"], offer["pinned_at"]) == ("old", "2024-05-31T12:00:00.000Z")


# --- Adding ---


def test_a_tarball_becomes_a_catalog(flask, url, pin, left, names):
    said = flask("add", "old", url)

    row = pin()
    assert (row.url, row.revision, row.dated_at) == (url, REVISION, DATE)
    assert f"old: {row.store_path}\nrevision: {REVISION}\ndate: 2024-05-31T12:00:00.000Z\n" in said
    assert f"sha256: {row.sha256}\nattributes: 2\nseconds: " in said
    assert left() == [["old"], ["old"]]
    assert names() == "- - - old"


def test_the_root_of_a_pin_keeps_it(flask, url, pin, app):
    flask("add", "old", url)

    app.test_cli_runner().invoke(args=["gc"], catch_exceptions=False)

    with app.app_context():
        assert nix.valid_paths(services.get(nix.Store), [pin().store_path])


def test_a_pin_is_fetched_by_http_and_its_packages_can_be_downloaded(
    flask, demonstration, web, tmp_path, run_task, client, read_log
):
    web.content = (tmp_path / "bundled.tar.xz").read_bytes()
    flask("add", "old", f"{web.url}/200/bundled.tar.xz", "--first")

    task = run_task("hello", "2.10.0")

    assert task["status"] == "succeeded", task
    package = client.get(f"/api/v1/package/{task['package_id']}").json
    assert (package["catalog"], package["attr"]) == ("old", "hello_2_10")
    assert "found as hello_2_10 in old: " in read_log(task["id"])


def test_a_running_server_offers_what_is_added_and_no_more_what_is_removed(flask, url, client):
    def catalogs():
        answer = client.get("/api/v1/catalog/tool")
        return [offer["catalog"] for offer in answer.json.get("versions", [])]

    assert catalogs() == []
    flask("add", "old", url)
    assert catalogs() == ["old"]
    flask("remove", "old")
    assert catalogs() == []


@SQLITE
@pytest.mark.parametrize("form", ["{}", "sha256:{}"])
def test_the_hash_may_be_given(flask, url, pin, form):
    flask("add", "old", url)
    sha256 = pin().sha256

    flask("add", "again", url, "--sha256", form.format(sha256))

    assert pin("again").sha256 == sha256


@SQLITE
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "a - - - b new"),
        (["--first"], "new a - - - b"),
        (["--after", "a"], "a new - - - b"),
        (["--after", "b"], "a - - - b new"),
        (["--after", BUNDLED], "a - new - - b"),
    ],
)
def test_a_pin_takes_its_place_among_the_catalogs(flask, url, names, words, expected):
    flask("add", "a", url, "--first")
    flask("add", "b", url)

    flask("add", "new", url, *words)

    assert names() == expected


def test_a_pin_comes_between_two_others(flask, url, names):
    for name in "ace":
        flask("add", name, url)

    flask("add", "b", url, "--after", "a")
    flask("add", "d", url, "--after", "c")

    assert names() == "- - - a b c d e"


def garbled(tmp_path, _web):
    path = tmp_path / "pin.tar.gz"
    path.write_bytes(path.read_bytes()[:200])
    return path.as_uri()


def a_link(tmp_path, name, to):
    """Return the URL of a tarball with nothing but a link in it."""
    with tarfile.open(tmp_path / "link.tar", "w") as archive:
        link = tarfile.TarInfo(name)
        link.type, link.linkname = tarfile.SYMTYPE, str(to)
        archive.addfile(link)
    return (tmp_path / "link.tar").as_uri()


def leading_out(tmp_path, name="default.nix"):
    """Return the URL of a tarball with a link out of it to a catalog, under this name."""
    (tmp_path / "outside.nix").write_text(catalog(app="1.0.0"))
    return a_link(tmp_path, f"catalog/{name}", tmp_path / "outside.nix")


def leading_out_whole(tmp_path):
    """Return the URL of a tarball that is a link to the folder of a catalog."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "default.nix").write_text(catalog(app="1.0.0"))
    return a_link(tmp_path, "catalog", folder)


# How adding goes wrong: the arguments after the name, and what is told.
FAILURES = {
    "another hash": (lambda url, *_: [url, "--sha256", "0" * 52], "has the hash .*, and not 000"),
    "404": (lambda _url, _tmp, web: [f"{web.url}/404/a"], r"nothing there \(HTTP 404\)$"),
    "no such file": (lambda *_: ["file:///nowhere/a.tar"], "there is no such file$"),
    "truncated": (lambda _url, tmp, web: [garbled(tmp, web)], "is no tarball, or a damaged one"),
    "no catalog": (lambda _url, tmp, _: [tarball(tmp / "a.tar", x="1")], "is no catalog: "),
    "no set": (
        lambda _url, tmp, _: [tarball(tmp / "a.tar", default_nix="[ 1 ]")],
        "is no catalog: .*not a set",
    ),
    "a way out": (lambda _url, tmp, _: [leading_out(tmp)], "its default.nix leads out"),
    "all of it out": (lambda _url, tmp, _: [leading_out_whole(tmp)], "its default.nix leads out"),
    "a way to itself": (
        lambda _url, tmp, _: [a_link(tmp, "catalog/default.nix", "default.nix")],
        "is no catalog: ",
    ),
    "a path out": (lambda _url, tmp, _: [leading_out(tmp, "../out")], "no tarball, or a damaged"),
    "no such place": (lambda url, *_: [url, "--after", "z"], "no catalog z for new to follow"),
}


@SQLITE
@pytest.mark.parametrize("case", FAILURES)
def test_what_can_not_be_added_is_told_in_a_line_and_leaves_nothing(
    flask, url, tmp_path, web, left, pin, case
):
    arguments, told = FAILURES[case]

    said = flask("add", "new", *arguments(url, tmp_path, web), refused=True)

    assert re.search(told, said), said
    assert (left(), pin("new")) == ([[], []], None)


@SQLITE
@pytest.mark.parametrize("name", ["Old", "-x", ".x", "", "x" * 65, "a/b", "é", "a.drv", "a b"])
def test_a_name_that_is_none_is_refused(flask, url, name, left):
    assert "is no name for a catalog" in flask("add", "--", name, url, refused=True)
    assert left() == [[], []]


def test_a_name_is_given_once(flask, url, newer, left, pin):
    flask("add", "old", url)

    said = flask("add", "old", newer, refused=True)

    assert said.startswith("there is a catalog old already")
    assert (left(), pin().url) == ([["old"], ["old"]], url)


def test_a_name_that_another_host_gives_meanwhile_is_told(flask, url, newer, app, tmp_path, left):
    flask("add", "old", url)
    with app.app_context():
        row = dict(pins.known()["old"]._mapping) | {"id": 9, "name": "new"}

    def steal(*_):
        with app.app_context():
            db.session.add(Pin(**row))
            db.session.commit()

    with app.app_context(), pytest.raises(pins.PinError, match="there is a pin new already"):
        pins.add("new", pins.Source(newer, report=once(steal)))

    assert left() == [["old"], ["old"]]


def once(function):
    """Return a function that calls another one the first time that it is called."""
    calls = []

    def call(*arguments):
        if not calls:
            calls.append(True)
            function(*arguments)

    return call


@SQLITE
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["add", "x", "ftp://example.org/a"], "the URL begins with none of"),
        (["add", "x", "https://example.org/a", "--sha256", "abc"], "no SHA-256"),
        (["add", "x", "https://example.org/a", "--first", "--after", "y"], "exclude each other"),
    ],
)
def test_wrong_arguments_are_told(app, words, told):
    done = app.test_cli_runner().invoke(args=["catalog", *words])

    assert (done.exit_code, told in done.output) == (2, True), done.output


def test_a_catalog_for_a_newer_nix_is_added_with_a_warning(flask, app, tmp_path, left):
    text = 'throw "This version of Nixpkgs requires Nix >= 99.1"'
    url = tarball(tmp_path / "new.tar", default_nix=text)

    said = flask("add", "new", url)

    assert re.search(r"warning: new can't be used with this Nix: .*wants Nix 99\.1", said)
    assert "attributes: unknown\n" in said
    assert left() == [["new"], ["new"]]


def test_two_commands_add_one_after_the_other(url, app, tmp_path, names):
    other = tarball(tmp_path / "other.tar.gz", default_nix=NEWER)

    def add(name, where):
        with app.app_context():
            pins.add(name, pins.Source(where))

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(add, "ab", (url, other)))

    assert names() in ("- - - a b", "- - - b a")


@contextmanager
def another_command(app):
    """Hold the lock that a command takes to change pins."""
    folder = app.config["DATA_DIR"] / "pins"
    folder.mkdir()
    with (folder / ".lock").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@SQLITE
def test_a_command_does_not_wait_for_another_without_a_bound(app, flask, url, monkeypatch):
    monkeypatch.setattr("catalogs.pins.LOCK_SECONDS", 0.2)

    with another_command(app):
        said = flask("add", "old", url, refused=True)

    assert said.startswith("another command is changing the pins")


# --- Updating ---


def test_an_update_keeps_name_and_place(flask, url, newer, pin, names, left, client):
    flask("add", "old", url, "--first")
    before = pin()

    said = flask("update", "old", newer)

    after = pin()
    assert (after.url, after.revision, after.dated_at) == (newer, None, DATE)
    assert after.store_path != before.store_path
    assert after.added_at > before.added_at
    assert (names(), "attributes: 1\n" in said) == ("old - - -", True)
    assert left() == [["old", "old"], ["old"]]
    versions = client.get("/api/v1/catalog/app").json["versions"]
    assert ("2.0.0", "old") in [(offer["version"], offer["catalog"]) for offer in versions]


def test_a_failed_update_keeps_the_pin(flask, url, pin, left, tmp_path):
    flask("add", "old", url)
    before = pin()

    said = flask("update", "old", tarball(tmp_path / "a.tar", x="1"), refused=True)

    assert "is no catalog: " in said
    assert (pin(), left()) == (before, [["old"], ["old"]])


def test_only_a_pin_can_be_updated_or_removed(flask, url):
    flask("add", "old", url)

    told = "no catalog new was added; those that were: old"
    assert flask("update", "new", url, refused=True) == told
    assert flask("remove", "new", refused=True) == told


def test_an_update_of_what_is_removed_meanwhile_leaves_nothing(flask, url, newer, app, left):
    flask("add", "old", url)

    def steal(*_):
        with app.app_context():
            db.session.execute(pins.delete(Pin))
            db.session.commit()

    with app.app_context(), pytest.raises(pins.PinError, match="was removed meanwhile"):
        pins.change("old", pins.Source(newer, report=once(steal)))

    assert left() == [["old"], ["old"]]


# --- Removing ---


def test_a_removed_pin_leaves_its_packages_and_garbage(flask, url, downloaded, client, left, app):
    flask("add", "old", url)
    package_id = downloaded("tool", "1.0.0")

    flask("remove", "old")

    assert left()[1] == []
    app.test_cli_runner().invoke(args=["gc"], catch_exceptions=False)
    assert "old" not in left()[0]
    assert client.get(f"/api/v1/package/{package_id}").json["status"] == "downloaded"


def test_a_pin_of_active_packages_is_removed_by_force_alone(flask, demonstration, activated, pin):
    flask("add", "old", demonstration, "--first")
    activated("hello", "2.12.1")

    said = flask("remove", "old", refused=True)

    assert said == "activated packages came from old (--force removes it): hello 2.12.1"
    assert pin() is not None
    flask("remove", "old", "--force")
    assert pin() is None


def test_the_task_that_indexes_a_removed_pin_ends(flask, url, app, client):
    flask("add", "old", url)
    with app.app_context():
        index = CatalogIndex(catalog="old", signature="0" * 64)
        other = CatalogIndex(catalog="-", signature="0" * 64)
        db.session.add_all([index, other])
        db.session.flush()
        kind = TaskKind.INDEX
        db.session.add_all([Task(kind=kind, index_id=index.id), Task(kind=kind, index_id=other.id)])
        db.session.commit()

    flask("remove", "old")

    with app.app_context():
        statuses = db.session.execute(
            select(CatalogIndex.catalog, Task.status).join_from(
                Task, CatalogIndex, Task.index_id == CatalogIndex.id
            )
        ).all()
    assert dict(map(tuple, statuses)) == {"old": TaskStatus.CANCELLED, "-": TaskStatus.QUEUED}


# --- Roots ---


@pytest.fixture
def reconcile(app):
    """Return a function that runs `flask reconcile` and returns what it says."""
    return lambda: app.test_cli_runner().invoke(args=["reconcile"], catch_exceptions=False).output


def test_a_pin_without_its_root_is_rooted_again(flask, url, app, pin, reconcile):
    flask("add", "old", url)
    root = app.config["DATA_DIR"] / "pins" / "old"
    root.unlink()

    assert reconcile() == "the catalog old had lost its GC root\n"
    assert str(root.readlink()) == pin().store_path
    assert reconcile() == "all as it should be\n"


@SQLITE
def test_a_pin_that_is_gone_is_named_by_readyz(flask, url, app, make_app, monkeypatch):
    monkeypatch.setattr("catalogs.state.LOOK_SECONDS", 0)
    anonymous = make_app(WORKER_THREADS=0).test_client()
    flask("add", "old", url)

    def state():
        checks = anonymous.get("/readyz").json
        return (checks.get("checks") or checks["errors"])["catalogs"]

    until(lambda: state() == "ok")
    (app.config["DATA_DIR"] / "pins" / "old").unlink()
    with app.app_context():
        nix.collect_garbage(services.get(nix.Store))

    until(lambda: state() != "ok")
    assert state().startswith("ok, but old fails: evaluation_failed: ")


def test_how_to_fetch_a_pin_again_that_is_gone_is_told_and_works(flask, url, pin, app, reconcile):
    flask("add", "old", url)
    (app.config["DATA_DIR"] / "pins" / "old").unlink()
    with app.app_context():
        nix.collect_garbage(services.get(nix.Store))

    command = f"flask catalog update old {url} --sha256 {pin().sha256}"
    assert (
        reconcile() == f"the catalog old is no longer in the store: fetch it again by {command}\n"
    )

    flask(*command.split()[2:])
    assert reconcile() == "all as it should be\n"


@SQLITE
def test_the_root_that_a_killed_command_left_is_removed_by_gc(flask, url, app, left):
    flask("add", "old", url)
    with app.app_context():
        path = pins.known()["old"].store_path
        db.session.execute(pins.delete(Pin))
        db.session.commit()
        nix.add_root(services.get(nix.Store), path, pins.link(".old.next"))
    gc = lambda *words: app.test_cli_runner().invoke(args=["gc", *words]).output  # noqa: E731

    assert "roots would be removed: 2\n" in gc("--dry-run")
    assert left() == [["old"], [".old.next", "old"]]
    assert "roots removed: 2\n" in gc()
    assert left() == [[], []]


@SQLITE
def test_gc_leaves_the_roots_alone_that_a_command_is_making(app, left):
    with another_command(app):
        (app.config["DATA_DIR"] / "pins" / "new").symlink_to("/nowhere")
        done = app.test_cli_runner().invoke(args=["gc"], catch_exceptions=False)

    assert "roots removed: 0\n" in done.output
    assert left()[1] == ["new"]


# --- What a package came from ---


@SQLITE
def test_a_package_keeps_the_hash_of_the_pin_that_it_came_from(
    flask, url, newer, pin, downloaded, client
):
    flask("add", "old", url, "--first")
    hashed = pin().sha256

    package_id = downloaded("app", "1.0.0")
    flask("update", "old", newer)

    assert client.get(f"/api/v1/package/{package_id}").json["catalog_sha256"] == hashed
    assert pin().sha256 != hashed


# --- Events ---


def test_pins_are_told_without_what_may_be_secret_in_a_url(flask, url, newer, pin, client):
    flask("add", "own", f"{url}?token=secret")
    first = pin("own").sha256
    flask("update", "own", newer)
    second = pin("own").sha256
    flask("remove", "own")

    told = client.get("/api/v1/events?type=catalog.*").json

    assert [one["type"].partition(".")[2] for one in told] == ["added", "updated", "removed"]
    data = {"url": url, "sha256": first, "revision": REVISION}
    assert (told[0]["data"], told[0]["by"]["kind"]) == (data, "host")
    assert (told[0]["subject"]["kind"], told[0]["subject"]["name"]) == ("catalog", "own")
    assert [one["data"]["sha256"] for one in told[1:]] == [second, second]
