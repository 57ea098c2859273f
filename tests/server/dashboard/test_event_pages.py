"""The page of events: who did what, when, to what."""

import pytest
from support import SQLITE

import event_log
from event_log import EventType
from models import db

EVENTS = "/access/events"
PACKAGE = {"id": 1, "name": "hello", "version": "2.12.1"}
TASK = "0b9f2c1e-7d43-4c5a-9a52-6f1f0f6f8f2d"
# Of each kind of subject: a type of event, its subject and data, and what the row says of it.
TOLD = [
    ("package.removed", ("package", 1, "hello"), {"version": "2.12.1"}, "hello 2.12.1"),
    (
        "task.failed",
        ("task", TASK, "hello 2.12.1"),
        {"kind": "download", "error": {"code": "timed_out", "message": "too slow"}},
        "download hello 2.12.1 timed_out too slow",
    ),
    (
        "profile.changed",
        ("profile", 1, "team"),
        {"reason": "apply", "added": [PACKAGE], "removed": [PACKAGE | {"version": "2.10.0"}]},
        "profile team added hello 2.12.1 removed hello 2.10.0 reason apply",
    ),
    (
        "catalog.added",
        ("catalog", None, "pin"),
        {"url": "https://example.org/", "revision": None},
        "catalog pin url https://example.org/",
    ),
    ("machine.silent", ("machine", None, "web-1"), {"error": "no answer"}, "web-1 no answer"),
    ("machine.removed", ("machine", None, "web-1"), {"error": None}, "machine web-1"),
    ("webhook.disabled", ("webhook", 1, None), {"reason": "410"}, "webhook 1 reason 410"),
]

pytestmark = SQLITE


@pytest.fixture
def tell(app):
    """Return a function that writes an event."""

    def tell(kind, subject=("profile", 1, "team"), data=None, **more):
        with app.app_context():
            about = event_log.subject(*subject)
            event_log.add(EventType(kind), about, data, by=event_log.service(), **more)
            db.session.execute(db.text("SELECT 1"))
            db.session.commit()

    return tell


def rows(page):
    return [" ".join(row.text(separator=" ").split()) for row in page.tree.css("tbody tr")]


def test_who_did_what_is_told_newest_first(browser, mint):
    mint(name="robot", scope="read")

    newest, oldest = rows(browser.get(EVENTS))

    assert "token 1 from 127.0.0.1 token.minted token robot scope read" in newest
    assert "on the host from 127.0.0.1 token.minted" in oldest


@pytest.mark.parametrize(("kind", "subject", "data", "said"), TOLD)
def test_each_type_is_told_in_words(browser, tell, kind, subject, data, said):
    tell(kind, subject, data)

    row = rows(browser.get(f"{EVENTS}?type={kind}"))[0]

    assert f"pkgd {kind} {said}" in row


def test_the_whole_event_is_there_too(browser, tell):
    tell("profile.removed", request_id="request-7")

    details = browser.get(EVENTS).tree.css_first("details").text()

    assert '"request_id": "request-7"' in details


def test_events_are_shown_by_type_group_and_page(browser, tell):
    for _ in range(3):
        tell("profile.changed")

    page = browser.get(f"{EVENTS}?type=profile.*&limit=2")
    older = browser.get(page.tree.css_first("a[rel=next]").attributes["href"])

    assert (len(rows(page)), len(rows(older))) == (2, 1)
    assert browser.get(f"{EVENTS}?type=webhook.*").said.endswith("No event matches.")
    assert browser.get(f"{EVENTS}?type=made.up").status_code == 422


def test_a_new_event_changes_the_part_that_is_asked_for_anew(app, browser, tell):
    part = browser.get(EVENTS).tree.css_first(".live").attributes
    seen = {"If-None-Match": f'"{part["data-etag"]}"'}

    assert browser.get(part["hx-get"], headers=seen).status_code == 304
    tell("profile.changed")
    assert browser.get(EVENTS).tree.css_first(".live").attributes["data-etag"] != part["data-etag"]
