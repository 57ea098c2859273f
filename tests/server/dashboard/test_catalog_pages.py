"""The page of catalogs: where each comes from, how it is, and how far it is indexed."""

from datetime import UTC, datetime

import pytest
from support import BUNDLED, SQLITE, until

import services
from catalogs import indexes
from catalogs.models import Pin
from catalogs.state import Catalogs
from models import Task, TaskStatus, db, utcnow

PIN = {
    "name": "pinned",
    "url": "https://example.org/pinned.tar.gz",
    "sha256": "0" * 52,
    "store_path": "/nix/store/0cn87r16aqcfv09g9n4nh7wklqiigrrg-pinned",
    "revision": "f00d",
    "dated_at": datetime(2024, 5, 5, tzinfo=UTC),
    "rank": 0,
}

pytestmark = SQLITE


@pytest.fixture
def indexed(settings):
    """Settings by which catalogs are indexed; request it before the application."""
    settings["INDEX_BYTES"] = 2**30
    settings["CATALOGS"] = str(BUNDLED)


def cards(page):
    return [" ".join(card.text(separator=" ").split()) for card in page.tree.css("li.card")]


def test_a_catalog_that_fails_says_how(settings, tmp_path, request):
    (tmp_path / "bad.nix").write_text('throw "the mirror is gone"')
    settings["CATALOGS"] = f"{BUNDLED} {tmp_path}/bad.nix"
    app, browser = request.getfixturevalue("app"), request.getfixturevalue("browser")

    assert "not looked at yet" in cards(browser.get("/catalogs"))[1]
    with app.app_context():
        until(lambda: services.get(Catalogs)._last_look)

    works, fails = cards(browser.get("/catalogs"))
    assert works == f"{BUNDLED} works no index"
    assert "fails no index" in fails
    assert "the mirror is gone" in fails


def test_a_pin_says_where_it_comes_from(app, browser):
    with app.app_context():
        db.session.add(Pin(**PIN))
        db.session.commit()

    *_, pin = cards(browser.get("/catalogs"))

    for told in (PIN["url"], PIN["sha256"], PIN["revision"], "2024-05-05 00:00:00 UTC"):
        assert told in pin


def test_a_catalog_that_is_being_indexed_says_how_far_it_is(indexed, app, browser):
    with app.app_context():
        indexes.schedule(services.get(Catalogs).states())
        task = db.session.query(Task).one()
        task.status, task.done, task.expected, task.phase = TaskStatus.RUNNING, 3, 7, "indexing"
        path = f"/tasks/{task.id}"
        db.session.commit()

    (card,) = browser.get("/catalogs").tree.css("li.card")

    assert "being indexed" in card.text()
    assert card.css_first("progress").attributes == {
        **{"value": "3", "max": "7", "aria-label": "Progress"}
    }
    assert card.css_first("a").attributes["href"] == path


def test_a_catalog_whose_index_failed_says_why(indexed, app, browser):
    with app.app_context():
        indexes.schedule(services.get(Catalogs).states())
        task = db.session.query(Task).one()
        task.status, task.error_message = TaskStatus.FAILED, "out of memory"
        task.finished_at = utcnow()
        db.session.commit()

    (card,) = cards(browser.get("/catalogs"))

    assert "indexing failed" in card
    assert "out of memory" in card


def test_the_list_is_sent_alone(browser):
    assert str(BUNDLED) in browser.get("/parts/catalogs").text
