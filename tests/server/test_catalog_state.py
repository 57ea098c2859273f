"""The state of the catalogs: their order, the cache of what they offer, which of them fail."""

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from support import SQLITE, at, bearing, until

import nix
import services
from catalogs.state import EVALUATIONS, Catalogs
from config import BUNDLED_CATALOG
from models import db
from nix.signature import LANDMARKS, WATCHED_FILES

ONE = '{{ app = {{ type = "derivation"; name = "app-{0}"; pname = "app"; version = "{0}"; }}; }}'


def signatures_of(catalogs):
    """Return the signature of each catalog."""
    return [catalogs.signature_of(catalog) for catalog in catalogs.in_order()]


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
    before = signatures_of(catalogs)

    (path.parent / "more.nix").write_text("{ }")

    assert signatures_of(catalogs) != before


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
    before = signatures_of(catalogs)

    (tree / "7.nix").write_text("1")
    assert signatures_of(catalogs) == before

    (tree / mark).write_text("updated")
    assert signatures_of(catalogs) != before


def test_the_least_recent_name_is_dropped_from_a_full_cache(own, monkeypatch):
    _, catalogs = own
    monkeypatch.setattr("catalogs.state.REMEMBERED_NAMES", 1)
    first = catalogs.offers("app")

    catalogs.offers("other")

    assert catalogs.offers("app") is not first


def test_a_channel_is_watched_where_nix_finds_it(store, tmp_path):
    pin = tmp_path / "pin"
    pin.mkdir()
    (pin / "default.nix").write_text(ONE.format("3.0.0"))
    there = nix.Store({**store.environ, "NIX_PATH": f"nixpkgs={pin}"})

    catalogs = Catalogs(there, [])

    assert catalogs.in_order() == tuple(at("<nixpkgs>"))
    assert catalogs.offers("app").versions[0].version == "3.0.0"

    (pin / "default.nix").write_text(ONE.format("3.10.0"))
    assert catalogs.offers("app").versions[0].version == "3.10.0"


def test_a_channel_that_nix_does_not_find_is_not_watched(store, tmp_path):
    catalogs = Catalogs(store, ["<nowhere>"])
    before = signatures_of(catalogs)

    (tmp_path / "default.nix").touch()

    assert signatures_of(catalogs) == before


def test_without_nixpkgs_the_bundled_catalog_is_the_default(store):
    catalogs = Catalogs(store, [])

    assert catalogs.in_order() == tuple(at(BUNDLED_CATALOG))
    assert (BUNDLED_CATALOG / "default.nix").is_file()


@SQLITE
def test_a_search_that_waits_too_long_for_its_turn_is_a_503(
    replace_program, app, client, tmp_path, monkeypatch
):
    started, gate = tmp_path / "started", tmp_path / "gate"
    wait = f'echo >>{started}; until [ -e {gate} ]; do sleep 0.05; done; exec $real "$@"'
    replace_program("nix-instantiate", wait)
    monkeypatch.setattr("catalogs.state.WAIT_SECONDS", 0.1)

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
    monkeypatch.setattr("catalogs.state.SEARCH_SECONDS", 0.1)

    refused = client.get("/api/v1/catalog/hello")

    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
    assert refused.json["detail"] == "the catalogs take too long to evaluate; try again"


# --- Catalogs that fail ---


@pytest.fixture
def looked(monkeypatch):
    """Return a function that looks at catalogs to the end, and returns their state."""
    monkeypatch.setattr("catalogs.state.LOOK_SECONDS", 0)

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

    monkeypatch.setattr("catalogs.state.LOOK_AGAIN_SECONDS", 0)
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


# --- Pins ---


@pytest.fixture
def pinned(store, tmp_path):
    """Return a function that returns the catalogs /one and /two, with pins as (name, anchor)."""

    def pinned(*pins):
        rows = [(name, f"{store.directory}/{'0' * 32}-{name}", anchor) for name, anchor in pins]
        return Catalogs(store, ["/one", "/two"], pins=lambda: rows)

    return pinned


@pytest.mark.parametrize(
    ("anchor", "expected"),
    [
        ("", "a b /one /two"),
        ("/one", "/one a b /two"),
        ("/two", "/one /two a b"),
        (None, "/one /two a b"),
        ("/gone", "/one /two a b"),
    ],
)
def test_pins_follow_their_anchor_by_rank(pinned, anchor, expected):
    catalogs = pinned(("a", anchor), ("b", anchor))

    assert " ".join(one.name for one in catalogs.in_order()) == expected


def test_pins_without_an_anchor_follow_those_whose_anchor_is_gone(pinned):
    catalogs = pinned(("a", None), ("b", "/gone"))

    assert [one.name for one in catalogs.in_order()][2:] == ["b", "a"]


def test_the_signature_of_a_pin_is_that_of_its_path_in_the_store(pinned):
    first, second = pinned(("a", ""), ("b", "")), pinned(("a", ""))

    assert len(set(signatures_of(first))) == 3  # /one and /two are not there
    assert signatures_of(first)[0] == signatures_of(second)[0]
    assert len(signatures_of(first)[0]) == 64


def test_offers_are_evaluated_again_when_a_pin_comes_or_goes(store, own, tmp_path):
    path, _ = own
    (tmp_path / "pin.nix").write_text(ONE.format("2.0.0"))
    rows = []
    catalogs = Catalogs(store, [str(path)], pins=lambda: rows)
    assert [one.version for one in catalogs.offers("app").versions] == ["1.0.0"]

    rows.append(("new", str(tmp_path / "pin.nix"), ""))

    assert [one.catalog for one in catalogs.offers("app").versions] == ["new", str(path)]
    rows.clear()
    assert [one.version for one in catalogs.offers("app").versions] == ["1.0.0"]


@SQLITE
def test_catalogs_are_not_looked_at_while_the_pins_can_not_be_read(make_app, looked, capsys):
    app = make_app()
    with app.app_context():
        db.drop_all()

    assert looked(services.get(Catalogs, app)) == "ok, not looked at yet"
    assert "the catalogs could not be looked at: " in capsys.readouterr().err
