"""The pages of webhooks: a secret is shown once, and what became of deliveries."""

import pytest
from receiver import Receiver, answer
from sqlalchemy import update
from support import SQLITE

from models import db, soon, utcnow
from webhooks.models import Webhook

WEBHOOKS = "/access/webhooks"
URL = "https://example.org/hook"
pytestmark = SQLITE


@pytest.fixture
def settings(settings):
    """The settings: receivers on this machine are allowed."""
    return settings | {"WEBHOOK_PRIVATE": "127.0.0.1"}


@pytest.fixture
def add(browser):
    """Return a function that sends the form for a new webhook, and returns the answer."""

    def add(url=URL, **fields):
        newest = browser.get(WEBHOOKS).tree.css_first("input[name=newest]").attributes["value"]
        return browser.post(WEBHOOKS, **{"newest": newest, "url": url, "secret": "", **fields})

    return add


@pytest.fixture
def change(app):
    """Return a function that changes the columns of the webhook."""

    def change(**values):
        with app.app_context():
            db.session.execute(update(Webhook).values(values))
            db.session.commit()

    return change


def secret_in(page):
    shown = page.tree.css_first("code.copy")
    return shown and shown.text()


def facts(page):
    pairs = page.tree.css("dl div")
    return {one.css_first("dt").text(): one.css_first("dd").text() for one in pairs}


def test_the_answer_that_adds_a_webhook_alone_shows_its_secret(browser, client, add):
    page = add(types=["task.*", "machine.failed"])

    assert page.headers["Cache-Control"] == "no-store"
    assert secret_in(page).startswith("whsec_")
    (listed,) = client.get("/api/v1/webhooks").json
    assert (listed["url"], listed["types"]) == (URL, ["task.*", "machine.failed"])
    for path in (WEBHOOKS, f"{WEBHOOKS}/1", "/parts/webhooks", "/parts/webhook/1"):
        assert "whsec_" not in browser.get(path).text.replace('placeholder="whsec_…"', "")


def test_to_load_the_answer_anew_adds_nothing_and_shows_no_secret(add, client):
    add(newest="0")

    again = add(newest="0")

    assert (again.status_code, secret_in(again)) == (409, None)
    assert len(client.get("/api/v1/webhooks").json) == 1


def test_a_refused_form_says_why_and_keeps_what_was_typed(add):
    page = add("http://10.0.0.1/hook", types=["token.*"])

    assert page.status_code == 422
    assert "url: " in page.tree.css_first("#fault").text()
    assert page.tree.css_first("#url").attributes["value"] == "http://10.0.0.1/hook"
    checked = [one.attributes["value"] for one in page.tree.css("input[checked]")]
    assert checked == ["token.*"]


def test_a_list_shows_no_query(browser, add):
    add(f"{URL}?key=s3cret")

    assert "s3cret" not in browser.get(WEBHOOKS).text
    assert facts(browser.get(f"{WEBHOOKS}/1"))["Events"] == "all"


def test_a_test_is_sent_and_its_outcome_shown(browser, add):
    with Receiver() as receiver:
        receiver.answer = lambda _: [answer(500, "upstream is away")]
        add(receiver.url)

        page = browser.press(browser.get(f"{WEBHOOKS}/1"), "Send a test")

    row = page.tree.css_first("tbody tr").text(separator=" ")
    for told in ("failed", "webhook.test", "500", "upstream is away"):
        assert told in row
    assert page.request.path == f"{WEBHOOKS}/1"


def test_a_failing_webhook_is_tried_again_by_a_button(browser, add, change):
    add()
    assert "Try again now" not in browser.get(f"{WEBHOOKS}/1").said
    change(failures=3, failing_since=soon(-60), next_at=soon(3600))
    page = browser.get(f"{WEBHOOKS}/1")
    assert facts(page)["State"] == "failing"

    after = browser.press(page, "Try again now")

    assert facts(after)["State"] == "active"


def test_a_disabled_webhook_is_enabled_also_from_now_on(browser, client, add, change):
    add()
    change(disabled_at=utcnow(), disabled_reason="410 Gone", cursor=0)
    page = browser.get(f"{WEBHOOKS}/1")
    assert facts(page)["Disabled"].endswith(": 410 Gone")

    after = browser.press(page, "Enable with what happens from now on")

    assert facts(after)["State"] == "active"
    assert client.get("/api/v1/webhook/1").json["delivered_seq"] > 0


def test_a_webhook_is_removed_after_a_question(browser, client, add):
    add()
    link = browser.get(f"{WEBHOOKS}/1").tree.css_first("a.danger").attributes["href"]

    after = browser.press(browser.get(link), "Remove")

    assert after.request.path == WEBHOOKS
    assert client.get("/api/v1/webhooks").json == []
    assert browser.get(f"{WEBHOOKS}/1").status_code == 404
