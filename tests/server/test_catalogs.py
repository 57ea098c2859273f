"""The routes of catalogs."""

import pytest
from support import BUNDLED, CATALOGS, SQLITE, bearing, until
from tarballs import REVISION, catalog, tarball

import services
from catalogs import offers
from catalogs.models import CatalogIndex
from catalogs.state import Catalogs
from config import BUNDLED_CATALOG
from models import Task, TaskKind, TaskStatus, db, utcnow

ONE = '{{ app = {{ type = "derivation"; name = "app-{0}"; pname = "app"; version = "{0}"; }}; }}'


OFFER = {
    "version": "2.12.1",
    "spelled": "2.12.1",
    "prerelease": False,
    "available": True,
    "reason": None,
    "message": None,
    "description": None,
    "pinned_at": None,
}


def versions(client, name):
    """Return what the catalogs offer of a name, as (version, attribute)."""
    answer = client.get(f"/api/v1/catalog/{name}")
    assert answer.status_code == 200, answer.json
    return [(offer["version"], offer["attr"]) for offer in answer.json["versions"]]


def test_every_offered_version_is_shown_newest_first(client, settings):
    answer = client.get("/api/v1/catalog/hello")

    assert answer.status_code == 200
    bundled = settings["CATALOGS"].split()[0]
    assert answer.json == {
        "name": "hello",
        "versions": [
            OFFER | {"catalog": bundled, "attr": "hello"},
            OFFER
            | {"version": "2.10.0", "spelled": "2.10.0", "catalog": bundled, "attr": "hello_2_10"},
        ],
        "failures": [],
    }


def test_an_unknown_name_is_a_404_with_similar_names(client):
    answer = client.get("/api/v1/catalog/helo")

    assert answer.status_code == 404
    assert answer.json["near"][0] == "hello"
    assert "did you mean hello" in answer.json["detail"]
    assert answer.json["type"] == "urn:pkgd:problem:name-unknown"


@SQLITE
@pytest.mark.parametrize("name", ["x y", "1a", "$(id)", "é", "a%00b", "<nixpkgs>", "a" * 129])
def test_an_invalid_name_is_a_404_without_an_evaluation(replace_program, client, name):
    replace_program("nix-instantiate", "exit 1")

    answer = client.get(f"/api/v1/catalog/{name}")

    assert (answer.status_code, answer.json["near"]) == (404, [])


def test_the_message_of_a_faulty_catalog_can_not_control_a_terminal(make_app, client, tmp_path):
    broken = tmp_path / "broken.nix"
    broken.write_text("throw ''a\x1b[1mb\x9b31m\u202ec\x85''")
    app = make_app(CATALOGS=f"{BUNDLED_CATALOG} {broken}")

    answer = bearing(app, client.secret).get("/api/v1/catalog/hello")

    (failure,) = answer.json["failures"]
    assert "abc" in failure["message"]
    assert failure["message"].replace("\n", "").isprintable()


def test_a_version_in_a_catalog_can_not_control_a_terminal(make_app, client, tmp_path):
    odd = tmp_path / "odd.nix"
    odd.write_text(ONE.format("1.0\x1b[31m\u202e"))
    app = make_app(CATALOGS=str(odd))

    (offer,) = bearing(app, client.secret).get("/api/v1/catalog/app").json["versions"]

    assert offer["version"] in ("1.0", "1.0.0")


def test_a_faulty_catalog_is_reported_and_does_not_hide_the_others(make_app, client, tmp_path):
    broken = tmp_path / "broken.nix"
    broken.write_text("{ app = ")
    app = make_app(CATALOGS=f"{broken} {client.application.config['CATALOGS'][0]}")
    client.application = app

    answer = client.get("/api/v1/catalog/hello")

    assert [offer["version"] for offer in answer.json["versions"]] == ["2.12.1", "2.10.0"]
    (failure,) = answer.json["failures"]
    assert (failure["catalog"], failure["code"]) == (str(broken), "evaluation_failed")
    assert "syntax error" in failure["message"]


@pytest.fixture
def refusing(make_app, client):
    """Return a function that has the client ask an application whose catalog refuses packages."""

    def refusing(**settings):
        client.application = make_app(CATALOGS=CATALOGS / "refusals.nix", **settings)
        return client

    return refusing


def test_a_refused_version_is_shown_with_the_reason(refusing):
    answer = refusing().get("/api/v1/catalog/unfree")

    (offer,) = answer.json["versions"]
    assert (offer["available"], offer["reason"]) == (False, "unfree")


@pytest.mark.parametrize(
    ("setting", "value", "name"),
    [
        ("ALLOW_UNFREE", "true", "unfree"),
        ("ALLOW_BROKEN", "true", "broken"),
        ("ALLOW_INSECURE", "openssl-1.0.2u insecure-1.0", "insecure"),
    ],
)
def test_a_setting_allows_what_the_catalog_refuses(refusing, setting, value, name):
    answer = refusing(**{setting: value}).get(f"/api/v1/catalog/{name}")

    (offer,) = answer.json["versions"]
    assert (offer["available"], offer["reason"]) == (True, None)


def test_a_removed_name_is_a_failure_with_the_reason(refusing):
    (failure,) = refusing().get("/api/v1/catalog/gone").json["failures"]

    assert (failure["code"], failure["reason"]) == ("refused", "removed")
    assert failure["message"].startswith("gone was removed")


def test_a_set_of_packages_is_told_to_be_one(make_app, client, tmp_path):
    (tmp_path / "sets.nix").write_text("{ lib = { a = 1; }; }")
    client.application = make_app(CATALOGS=tmp_path / "sets.nix")

    answer = client.get("/api/v1/catalog/lib")

    assert answer.status_code == 404
    assert answer.json["detail"] == "lib is a set of packages, which are named lib.NAME"


# --- All catalogs ---


@pytest.fixture
def listed(make_app, client, tmp_path):
    """Return a function that lists the catalogs of an application with these of them."""

    def listed(*places):
        client.application = make_app(CATALOGS=" ".join(map(str, places)))
        return client.get("/api/v1/catalogs").json

    return listed


UNKNOWN = {"index": "none", "verification": "none"} | dict.fromkeys(
    (
        "sha256",
        "revision",
        "dated_at",
        "added_at",
        "nix",
        "packages",
        "indexed_at",
        "index_task_id",
        "index_progress",
        "index_error",
        "verification_task_id",
        "verified",
        "verified_at",
    )
)


def test_the_configured_catalogs_are_listed_in_order(listed):
    state = {"state": "not looked at yet"}

    assert listed(BUNDLED, "<nowhere>") == [
        {"name": str(BUNDLED), "source": str(BUNDLED)} | UNKNOWN | state,
        {"name": "<nowhere>", "source": "<nowhere>"} | UNKNOWN | state,
    ]


def test_the_state_of_each_catalog_is_told(listed, client, tmp_path):
    broken = tmp_path / "broken.nix"
    broken.write_text("throw ''on purpose''")
    listed(BUNDLED, broken)
    services.get(Catalogs, client.application).look()

    def states():
        return [one["state"] for one in client.get("/api/v1/catalogs").json]

    until(lambda: "not looked at yet" not in states())
    assert states() == ["ok", "evaluation_failed: on purpose"]
    broken.write_text("{ }")
    assert states() == ["ok", "not looked at yet"]


@pytest.mark.parametrize(
    ("file", "text", "wanted"),
    [
        ("minver.nix", '"2.3.17"', "2.3.17"),
        ("minfeatures.nix", 'if nix then "2.18" else "2.4"', "2.18"),
        ("other.nix", '"2.3.17"', None),
    ],
)
def test_the_nix_that_a_catalog_wants_is_told(listed, tmp_path, file, text, wanted):
    (tmp_path / "nixpkgs" / "lib").mkdir(parents=True)
    (tmp_path / "nixpkgs" / "lib" / file).write_text(text)

    (one,) = listed(tmp_path / "nixpkgs")

    assert one["nix"] == wanted


def test_a_pin_is_listed_with_what_its_tarball_tells(app, client, tmp_path):
    url = tarball(tmp_path / "a.tar.gz", default_nix=catalog(app="1.0.0"), revision=REVISION)
    done = app.test_cli_runner().invoke(args=["catalog", "add", "old", url, "--first"])
    assert done.exit_code == 0, done.output

    first, *_ = client.get("/api/v1/catalogs").json

    assert (first["name"], first["source"], first["revision"]) == ("old", url, REVISION)
    assert first["dated_at"] == "2024-05-31T12:00:00.000Z"
    assert first["added_at"] > first["dated_at"]
    assert f"sha256: {first['sha256']}\n" in done.output
    listed = app.test_cli_runner().invoke(args=["catalog", "list"]).output.splitlines()
    assert listed[0].split() == [
        *("old", url, REVISION, "2024-05-31T12:00:00.000Z", f"sha256:{first['sha256']}")
    ]
    assert listed[1].split() == [str(BUNDLED), "in", "CATALOGS"]


@pytest.fixture
def add_index(make_app, client):
    """Return a function that adds an index of a catalog, with a task of this status."""
    client.application = make_app(INDEX_BYTES=2**30)

    def add_index(catalog, signature, task=TaskStatus.SUCCEEDED, rows=0):
        finished = utcnow() if task is TaskStatus.SUCCEEDED else None
        index = CatalogIndex(catalog=catalog, signature=signature, finished_at=finished)
        db.session.add(index)
        db.session.flush()
        if task is not None:
            error = "no memory" if task is TaskStatus.FAILED else None
            of_index = {"kind": TaskKind.INDEX, "index_id": index.id, "error_message": error}
            db.session.add(Task(status=task, **of_index))
        row = dict.fromkeys(("attr", "pname", "name", "spelled", "version"), "1.0.0")
        offers.add([{**row, "index_id": index.id, "description": None}] * rows)
        db.session.commit()

    return add_index


@pytest.mark.parametrize(
    ("present", "old", "status", "packages"),
    [
        (TaskStatus.SUCCEEDED, True, "current", 2),
        (TaskStatus.QUEUED, True, "in_progress", 3),
        (TaskStatus.RUNNING, False, "in_progress", None),
        (TaskStatus.FAILED, True, "failed", 3),
        (TaskStatus.CANCELLED, False, "cancelled", None),
        (None, True, "stale", 3),
        (None, False, "none", None),
    ],
)
def test_it_is_told_how_the_index_of_a_catalog_stands(
    client, add_index, present, old, status, packages
):
    with client.application.app_context():
        (state, *_) = services.get(Catalogs).states()
        if present is not None:
            add_index(state.catalog.name, state.signature, present, rows=2)
        if old:  # made after the current one: of another state, which came and went
            add_index(state.catalog.name, "another", rows=3)

    first, second, *_ = client.get("/api/v1/catalogs").json

    assert (first["index"], first["packages"]) == (status, packages)
    assert (first["indexed_at"] is None) == (packages is None)
    assert (first["index_task_id"] is None) == (present is None)
    assert (second["index"], second["packages"]) == ("none", None)
    assert (first["index_progress"] is not None) == (status == "in_progress")
    assert first["index_error"] == ("no memory" if status == "failed" else None)
    assert status != "current" or first["state"] == "ok"


def test_an_unfinished_index_without_a_task_is_none(client, add_index):
    with client.application.app_context():
        (state, *_) = services.get(Catalogs).states()
        add_index(state.catalog.name, state.signature, None)

    assert client.get("/api/v1/catalogs").json[0]["index"] == "none"
