"""The route of catalogs, and the cache of what they offer."""

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from support import CATALOGS, SQLITE, at, bearing, until

import nix
from catalogs import EVALUATIONS, LANDMARKS, WATCHED_FILES, Catalogs
from config import BUNDLED_CATALOG

ONE = '{{ app = {{ type = "derivation"; name = "app-{0}"; pname = "app"; version = "{0}"; }}; }}'


OFFER = {
    "version": "2.12.1",
    "spelled": "2.12.1",
    "prerelease": False,
    "available": True,
    "reason": None,
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
@pytest.mark.parametrize("name", ["x y", "1a", "$(id)", "é", "a%00b", "<nixpkgs>"])
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


@pytest.fixture
def own(store, tmp_path):
    """The file of a catalog for this test alone, and the catalogs that it is one of."""
    path = tmp_path / "own" / "catalog.nix"
    path.parent.mkdir()
    path.write_text(ONE.format("1.0.0"))
    return path, Catalogs(store, [str(path)])


def test_offers_are_cached(own):
    _, catalogs = own

    assert catalogs.offers("app") is catalogs.offers("app")


def test_a_catalog_that_has_changed_is_evaluated_again(own):
    path, catalogs = own
    assert catalogs.offers("app").versions[0].version == "1.0.0"

    path.write_text(ONE.format("1.10.0"))

    assert catalogs.offers("app").versions[0].version == "1.10.0"


def test_a_change_of_a_file_beside_the_catalog_is_noticed(own):
    path, catalogs = own
    before = catalogs.signature()

    (path.parent / "more.nix").write_text("{ }")

    assert catalogs.signature() != before


def test_a_deleted_catalog_is_a_failure_each_time(own):
    path, catalogs = own
    catalogs.offers("app")

    shutil.rmtree(path.parent)

    (failure,) = catalogs.offers("app").failures
    assert (failure.catalog, failure.code) == (str(path), "evaluation_failed")
    assert failure.message
    assert catalogs.offers("app").failures


@pytest.mark.parametrize("mark", LANDMARKS[1:])
def test_of_a_large_tree_only_the_landmarks_are_watched(store, tmp_path, mark):
    tree = tmp_path / "nixpkgs"
    (tree / ".git").mkdir(parents=True)
    for n in range(WATCHED_FILES + 1):
        (tree / f"{n}.nix").touch()
    catalogs = Catalogs(store, [str(tree)])
    before = catalogs.signature()

    (tree / "7.nix").write_text("1")
    assert catalogs.signature() == before

    (tree / mark).write_text("updated")
    assert catalogs.signature() != before


def test_the_least_recent_name_is_dropped_from_a_full_cache(own, monkeypatch):
    _, catalogs = own
    monkeypatch.setattr("catalogs.REMEMBERED_NAMES", 1)
    first = catalogs.offers("app")

    catalogs.offers("other")

    assert catalogs.offers("app") is not first


def test_a_channel_is_watched_where_nix_finds_it(store, tmp_path):
    pin = tmp_path / "pin"
    pin.mkdir()
    (pin / "default.nix").write_text(ONE.format("3.0.0"))
    there = nix.Store({**store.environ, "NIX_PATH": f"nixpkgs={pin}"})

    catalogs = Catalogs(there, [])

    assert catalogs.configured == tuple(at("<nixpkgs>"))
    assert catalogs.paths == (pin,)
    assert catalogs.offers("app").versions[0].version == "3.0.0"


def test_a_channel_that_nix_does_not_find_is_not_watched(store, tmp_path):
    catalogs = Catalogs(store, ["<nowhere>", str(tmp_path)])

    assert catalogs.paths == (tmp_path,)


def test_without_nixpkgs_the_bundled_catalog_is_the_default(store):
    catalogs = Catalogs(store, [])

    assert catalogs.configured == tuple(at(BUNDLED_CATALOG))
    assert catalogs.paths == (BUNDLED_CATALOG,)
    assert (BUNDLED_CATALOG / "default.nix").is_file()


@SQLITE
def test_a_search_that_waits_too_long_for_its_turn_is_a_503(
    replace_program, app, client, tmp_path, monkeypatch
):
    started, gate = tmp_path / "started", tmp_path / "gate"
    wait = f'echo >>{started}; until [ -e {gate} ]; do sleep 0.05; done; exec $real "$@"'
    replace_program("nix-instantiate", wait)
    monkeypatch.setattr("catalogs.WAIT_SECONDS", 0.1)

    with ThreadPoolExecutor(EVALUATIONS) as threads:
        searches = [
            threads.submit(bearing(app, client.secret).get, f"/api/v1/catalog/hello{n}")
            for n in range(EVALUATIONS)
        ]
        until(lambda: started.exists() and len(started.read_text()) == EVALUATIONS)
        refused = client.get("/api/v1/catalog/hello")
        gate.touch()

    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
    assert refused.json["type"] == "urn:pkgd:problem:busy"
    assert [search.result().status_code for search in searches] == [404] * EVALUATIONS


@SQLITE
def test_a_search_that_takes_too_long_is_a_503(replace_program, client, monkeypatch):
    replace_program("nix-instantiate", "exec sleep 60")
    monkeypatch.setattr("catalogs.SEARCH_SECONDS", 0.1)

    refused = client.get("/api/v1/catalog/hello")

    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
    assert refused.json["detail"] == "the catalogs take too long to evaluate; try again"


# --- Catalogs that fail ---


@pytest.fixture
def looked(monkeypatch):
    """Return a function that looks at catalogs to the end, and returns their state."""
    monkeypatch.setattr("catalogs.LOOK_SECONDS", 0)

    def looked(catalogs):
        catalogs.look()
        until(lambda: all(thread.name != "catalogs" for thread in threading.enumerate()))
        with monkeypatch.context() as patch:
            patch.setattr(catalogs, "look", lambda: None)
            return catalogs.state()

    return looked


def test_catalogs_that_work_are_ok(own, looked):
    _, catalogs = own

    assert looked(catalogs) == "ok"


def test_the_start_does_not_wait_for_the_catalogs(store, tmp_path):
    endless = tmp_path / "endless.nix"
    endless.write_text("let f = x: f (x + 1); in f 0")
    catalogs = Catalogs(nix.Store({**store.environ, "PATH": "/nonexistent"}), [str(endless)])

    assert catalogs.state() == "ok, not looked at yet"


def test_a_catalog_that_fails_is_named_beside_one_that_works(own, store, looked, tmp_path, caplog):
    path, _ = own
    broken = tmp_path / "broken.nix"
    broken.write_text("throw ''broken\n\ton\u009b31m purpose''")
    catalogs = Catalogs(store, [str(broken), str(path), str(tmp_path / "none")])

    state = looked(catalogs)

    assert state.startswith(f"ok, but {broken} fails: ")
    assert "broken on purpose; " in state
    assert f"{tmp_path}/none fails: " in state
    assert caplog.text.count(f"catalog {broken} fails: ") == 1


def test_when_all_catalogs_fail_the_state_is_no_ok_until_one_is_corrected(own, looked, caplog):
    path, catalogs = own
    for text in ("{ app = ", "{ app = 1 "):
        path.write_text(text)
        assert looked(catalogs).startswith(f"{path} fails: ")
    assert caplog.text.count("fails: ") == 1

    path.write_text(ONE.format("1.0.0"))

    assert looked(catalogs) == "ok"


def test_a_catalog_that_failed_is_evaluated_again_later_and_another_is_not(
    own, looked, monkeypatch, tmp_path
):
    path, catalogs = own
    outside = tmp_path / "outside.nix"
    path.write_text(f"import {outside}")
    before = looked(catalogs)
    outside.write_text(ONE.format("1.0.0"))
    assert (before.startswith(f"{path} fails: "), looked(catalogs)) == (True, before)

    monkeypatch.setattr("catalogs.LOOK_AGAIN_SECONDS", 0)
    assert looked(catalogs) == "ok"

    outside.unlink()
    assert looked(catalogs) == "ok"


def test_without_nix_the_catalogs_are_not_looked_at(store, tmp_path, looked, caplog):
    catalogs = Catalogs(nix.Store({**store.environ, "PATH": "/nonexistent"}), [str(tmp_path)])

    assert looked(catalogs) == "ok, not looked at yet"
    assert "the catalogs could not be looked at: " in caplog.text


def test_a_catalog_that_is_a_loop_of_links_fails_in_place_of_the_request(
    make_app, client, tmp_path
):
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    client.application = make_app(CATALOGS=f"{loop} {BUNDLED_CATALOG}")

    answer = client.get("/api/v1/catalog/hello")

    assert answer.status_code == 200
    assert [failure["catalog"] for failure in answer.json["failures"]] == [str(loop)]
