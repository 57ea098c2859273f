"""Webhooks: who may add them and how, what they are told, and when they are tried again."""

import base64

import pytest
from receiver import Receiver, answer
from sqlalchemy import select, update
from standardwebhooks.webhooks import Webhook as Verifier
from support import SQLITE, bearing

import event_log
from event_log import Event, EventType
from models import db, utcnow
from webhook_models import Webhook

WEBHOOKS = "/api/v1/webhooks"
SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
URL = "https://example.org/hook"


@pytest.fixture
def settings(settings):
    """The settings: receivers on this machine are allowed."""
    return settings | {"WEBHOOK_PRIVATE": "127.0.0.1"}


@pytest.fixture
def receiver():
    """A receiver that answers 204 to all."""
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def add(client, receiver):
    """Return a function that adds a webhook, and returns what the answer says."""

    def add(url=None, **fields):
        made = client.post(WEBHOOKS, json={"url": url or receiver.url, **fields})
        assert made.status_code == 201, made.json
        return made.json

    return add


@pytest.fixture
def tell(app):
    """Return a function that writes events of these types, and returns their numbers."""

    def tell(*types):
        with app.app_context():
            for kind in types or (EventType.PACKAGE_REGISTERED,):
                # An event is written with a change.
                db.session.execute(select(Webhook.id))
                event_log.add(EventType(kind), event_log.subject("package", 1, "hello"))
            db.session.commit()
            newest = select(Event.seq).order_by(Event.seq.desc()).limit(len(types) or 1)
            return db.session.scalars(newest).all()[::-1]

    return tell


@pytest.fixture
def send(pool):
    """Return a function that sends what is due; it returns how much there was."""

    def send():
        count = 0
        while pool.deliver_one():
            count += 1
        return count

    return send


@pytest.fixture
def change(app):
    """Return a function that changes the row of a webhook."""

    def change(webhook_id, **values):
        with app.app_context():
            db.session.execute(update(Webhook).where(Webhook.id == webhook_id).values(values))
            db.session.commit()

    return change


@pytest.fixture
def shown(client):
    """Return a function that returns a webhook as it is now."""
    return lambda webhook_id: client.get(f"/api/v1/webhook/{webhook_id}").json


# --- Adding, listing, removing ---


def test_a_webhook_is_added_listed_shown_and_removed(client, app):
    added = client.post(WEBHOOKS, json={"url": f"{URL}?key=1", "types": ["task.*"]})

    assert added.status_code == 201
    whole = {key: value for key, value in added.json.items() if key != "secret"}
    assert (whole["url"], whole["types"], whole["state"]) == (f"{URL}?key=1", ["task.*"], "active")
    assert client.get(WEBHOOKS).json == [whole | {"url": f"{URL}?…"}]
    assert client.get("/api/v1/webhook/1").json == whole | {"deliveries": []}
    assert client.delete("/api/v1/webhook/1").json == {}
    assert client.get(WEBHOOKS).json == []
    with app.app_context():
        told = db.session.scalars(select(Event).where(Event.type.like("webhook.%"))).all()
        assert [(one.type, one.data) for one in told] == [
            ("webhook.added", {"url": URL}),
            ("webhook.removed", {"url": URL}),
        ]


def test_a_secret_is_made_and_shown_once(client, add):
    added = add()

    assert len(base64.b64decode(added["secret"].removeprefix("whsec_"))) == 32
    assert added["secret"] not in client.get(WEBHOOKS).text
    assert added["secret"] not in client.get(f"/api/v1/webhook/{added['id']}").text
    assert add(secret=SECRET)["secret"] == SECRET


@SQLITE
@pytest.mark.parametrize(
    ("fields", "field"),
    [
        *(({"url": url}, "url") for url in ("ftp://example.org", "example.org", "http://", "")),
        *(({"url": url}, "url") for url in ("http://u:p@example.org", "http://@example.org")),
        *(({"url": url}, "url") for url in ("http://example.org/#a", "http://exa mple.org")),
        *(({"url": url}, "url") for url in ("http://é.org", "http://a.org:0", "http://a:99999")),
        *(({"url": url}, "url") for url in ("http://[::1", "http://a\\b", "http://a.org/\n", 7)),
        ({"url": f"http://example.org/{'a' * 2048}"}, "url"),
        ({"url": URL, "types": ["task"]}, "types"),
        ({"url": URL, "types": ["task.failed", "task.failed"]}, "types"),
        ({"url": URL, "types": "task.*"}, "types"),
        ({"url": URL, "secret": "whsec_short"}, "secret"),
        ({"url": URL, "secret": SECRET.removeprefix("whsec_")}, "secret"),
        ({"url": URL, "secret": "whsec_" + "A" * 92}, "secret"),
        ({"url": URL, "secret": "whsec_****" + "A" * 40}, "secret"),
        ({"url": URL, "name": "a"}, "name"),
        ({}, "url"),
    ],
)
def test_a_webhook_that_breaks_a_rule_is_refused(client, fields, field):
    refused = client.post(WEBHOOKS, json=fields)

    assert (refused.status_code, [*refused.json["errors"]]) == (422, [field])
    assert client.get(WEBHOOKS).json == []


@SQLITE
@pytest.mark.parametrize("host", ["10.0.0.1", "127.2", "0x7f000002", "[::1]", "[fe80::1]"])
def test_a_private_address_is_refused_when_it_is_added(client, host):
    refused = client.post(WEBHOOKS, json={"url": f"http://{host}/"})

    assert refused.status_code == 422
    assert "is no public address, and WEBHOOK_PRIVATE doesn't name it" in refused.json["detail"]


@SQLITE
def test_there_are_50_webhooks_at_most(client, add):
    for _ in range(50):
        add(URL)

    refused = client.post(WEBHOOKS, json={"url": URL})

    assert (refused.status_code, refused.json["detail"][:23]) == (409, "there are 50 webhooks a")
    assert client.get(f"{WEBHOOKS}?limit=1").headers["X-Total-Count"] == "50"


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_an_unknown_webhook_is_not_found(client, method):
    for path in ("/api/v1/webhook/7", "/api/v1/webhook/7/test", "/api/v1/webhook/7/enable"):
        answered = client.open(path, method="POST" if path[-1] != "7" else method)
        assert (answered.status_code, answered.json["detail"]) == (404, "there is no webhook 7")


@SQLITE
@pytest.mark.parametrize("scope", ["sync", "read", "operate"])
def test_webhooks_are_for_admins_alone(app, mint, scope):
    caller = bearing(app, mint(scope=scope)["token"])

    for path in (WEBHOOKS, "/api/v1/webhook/1", "/api/v1/webhook/1/test"):
        assert caller.open(path, method="POST" if path[-1] == "t" else "GET").status_code == 403


# --- What is sent ---


def test_an_event_is_told_as_standard_webhooks_say(client, add, receiver, send):
    secret = add(f"{receiver.url}/hook?key=1", secret=SECRET)["secret"]
    client.post("/api/v1/tokens", json={"scope": "read"})

    assert send() >= 1

    message = receiver.messages[0]
    verified = Verifier(secret).verify(message.body, message.headers)
    assert verified.keys() == {"type", "timestamp", "data"}
    assert (message.path, verified["type"]) == ("/hook?key=1", "webhook.added")
    assert verified["timestamp"] == verified["data"]["at"]
    assert verified["data"]["by"]["kind"] == "token"
    assert message.headers["content-type"] == "application/json"
    assert message.headers["host"] == receiver.url.removeprefix("http://")
    assert message.headers["user-agent"].startswith("pkgd/")


def test_events_are_told_in_their_order_each_once(add, receiver, tell, send, shown):
    added = add(types=["package.*", "task.failed"])

    seqs = tell("package.registered", "task.queued", "task.failed", "package.removed")
    send()

    assert receiver.seqs == [seqs[0], seqs[2], seqs[3]]
    assert len({message.headers["webhook-id"] for message in receiver.messages}) == 3
    assert shown(added["id"])["delivered_seq"] == seqs[3]
    assert send() == 0


def test_events_of_other_types_are_passed_over(app, add, receiver, tell, send, shown):
    added = add(types=["machine.failed"])
    (seq,) = tell("task.queued")

    assert (send(), send(), receiver.messages) == (1, 0, [])

    assert shown(added["id"])["delivered_seq"] == seq


def test_a_failed_delivery_is_tried_again_before_those_after_it(
    app, add, receiver, tell, send, shown, change
):
    added = add(types=["package.*"])
    first, second = tell("package.registered", "package.removed")
    receiver.says(answer(500, "no \x1b[31mroom\x1b[0m"))

    send()
    failing = shown(added["id"])
    assert send() == 0
    change(added["id"], next_at=utcnow())
    send()

    assert receiver.seqs == [first, first, second]
    assert receiver.messages[0].headers["webhook-id"] == receiver.messages[1].headers["webhook-id"]
    assert receiver.messages[0].body == receiver.messages[1].body
    assert (failing["state"], failing["failures"]) == ("failing", 1)
    assert failing["deliveries"][0]["error"] == "HTTP 500: no room"
    whole = shown(added["id"])
    assert (whole["state"], whole["failing_since"], whole["next_at"]) == ("active", None, None)
    tried = [(one["seq"], one["attempt"], one["status"]) for one in whole["deliveries"]]
    assert tried == [(second, 1, 204), (first, 2, 204), (first, 1, 500)]
