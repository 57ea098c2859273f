"""Webhooks: who may add them and how, what they are told, and when they are tried again."""

import base64
import itertools
import threading

import pytest
from receiver import Receiver, answer
from sqlalchemy import select, update
from standardwebhooks.webhooks import Webhook as Verifier
from support import SQLITE, bearing, until

import event_log
import services
from event_log import Event, EventType
from models import db, soon, utcnow
from webhooks import deliveries
from webhooks import routes as webhooks
from webhooks.models import Webhook

WEBHOOKS = "/api/v1/webhooks"
SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
URL = "https://example.org/hook"
ENDLESS = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n"


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
    for body in ({}, {"from": "now"}):
        assert client.post("/api/v1/webhook/1/enable", json=body).status_code == 200
    assert client.delete("/api/v1/webhook/1").json == {}
    assert client.get(WEBHOOKS).json == []
    with app.app_context():
        told = db.session.scalars(select(Event).where(Event.type.like("webhook.%"))).all()
        assert [(one.type, one.data) for one in told] == [
            (f"webhook.{what}", {"url": "https://example.org"})
            for what in ("added", "enabled", "removed")
        ]


def test_a_secret_is_made_and_shown_once(client, add):
    added = add()

    assert len(base64.b64decode(added["secret"].removeprefix("whsec_"))) == 32
    assert added["secret"] not in client.get(WEBHOOKS).text
    assert added["secret"] not in client.get(f"/api/v1/webhook/{added['id']}").text
    assert add(secret=SECRET)["secret"] == SECRET


BROKEN = [
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
]


@SQLITE
def test_a_webhook_that_breaks_a_rule_is_refused(client):
    for fields, field in BROKEN:
        refused = client.post(WEBHOOKS, json=fields)
        assert (refused.status_code, [*refused.json["errors"]]) == (422, [field]), fields

    assert client.get(WEBHOOKS).json == []


@SQLITE
def test_a_private_address_is_refused_when_it_is_added(client):
    for host in ("10.0.0.1", "127.2", "0x7f000002", "[::1]", "[fe80::1]", "169.254.169.254"):
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


@pytest.mark.parametrize(
    ("method", "path"), [("GET", ""), ("DELETE", ""), ("POST", "/test"), ("POST", "/enable")]
)
@SQLITE
def test_an_unknown_webhook_is_not_found(client, method, path):
    answered = client.open(f"/api/v1/webhook/7{path}", method=method)

    assert (answered.status_code, answered.json["detail"]) == (404, "there is no webhook 7")


@SQLITE
def test_webhooks_are_for_admins_alone(app, mint):
    for scope in ("sync", "read", "operate"):
        caller = bearing(app, mint(scope=scope)["token"])
        assert caller.get(WEBHOOKS).status_code == 403
        assert caller.post(WEBHOOKS, json={"url": URL}).status_code == 403
        assert caller.post("/api/v1/webhook/1/test").status_code == 403


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


def test_a_name_that_was_private_when_it_was_resolved_is_not_posted_to(make_app, client, add):
    strict = make_app(WEBHOOK_PRIVATE="")
    added = add("http://localhost:1/")

    tested = bearing(strict, client.secret).post(f"/api/v1/webhook/{added['id']}/test").json

    assert tested["error"].endswith("is no public address, and WEBHOOK_PRIVATE doesn't name it")


@pytest.mark.parametrize(
    ("failures", "header", "shortest", "longest"),
    [
        (0, "", 5, 6.3),
        (3, "", 40, 50.1),
        (40, "", 86_400 / 1.25, 86_400),
        (0, "Retry-After: 600", 600, 601),
        (0, "Retry-After: 99999999999", 86_400, 86_401),
        (0, "Retry-After: Fri, 31 Dec 2199 23:59:59 GMT", 86_400, 86_401),
        (3, "Retry-After: 1", 40, 50.1),
        (0, "Retry-After: soon", 5, 6.3),
        (0, f"Retry-After: Fri, 31 Dec {10**20} 23:59:59 GMT", 5, 6.3),
    ],
)
@SQLITE
def test_the_pauses_grow_up_to_a_day(
    app, add, receiver, tell, pool, change, failures, header, shortest, longest
):
    added = add()
    change(added["id"], failures=failures, next_at=utcnow())
    tell()
    receiver.says(answer(503, "", *filter(None, [header])))

    began = utcnow()
    assert pool.deliver_one()

    with app.app_context():
        pause = (db.session.get_one(Webhook, added["id"]).next_at - began).total_seconds()
    assert shortest <= pause <= longest + (utcnow() - began).total_seconds()


# --- Disabling and enabling ---


def test_a_receiver_that_is_gone_is_told_no_more(add, receiver, tell, send, shown):
    added = add(types=["package.*"])
    with Receiver() as other:
        add(other.url, types=["webhook.disabled"])
        receiver.says(answer(410))
        tell("package.registered", "package.removed")
        send()

    disabled = shown(added["id"])
    assert (len(receiver.messages), disabled["state"]) == (1, "disabled")
    assert disabled["disabled_reason"] == "the receiver answered 410: it wants no more"
    (told,) = other.messages
    assert told.json["data"]["subject"] == {"kind": "webhook", "id": 1, "name": "127.0.0.1"}
    assert told.json["data"]["data"] == {
        "url": receiver.url,
        "reason": disabled["disabled_reason"],
    }
    assert told.json["data"]["by"]["kind"] == "service"


@SQLITE
def test_a_webhook_that_fails_for_five_days_is_disabled(
    add, receiver, tell, pool, shown, change, caplog
):
    added = add()
    tell()
    receiver.says(answer(500), answer(500))
    change(added["id"], failures=9, failing_since=soon(-5 * 86_400 + 60), next_at=utcnow())
    pool.deliver_one()
    assert shown(added["id"])["state"] == "failing"

    change(added["id"], failing_since=soon(-5 * 86_400), next_at=utcnow())
    pool.deliver_one()

    assert shown(added["id"])["disabled_reason"] == "all deliveries have failed for 5 days"
    assert "webhook 1: delivery failed: HTTP 500; all deliveries have failed" in caplog.text


def test_an_enabled_webhook_goes_on_where_it_was(client, add, receiver, tell, send, change):
    added = add(types=["package.*"])
    change(added["id"], disabled_at=utcnow(), disabled_reason="why", failures=3)
    seqs = tell("package.registered", "package.removed")
    assert (send(), receiver.messages) == (0, [])

    enabled = client.post(f"/api/v1/webhook/{added['id']}/enable").json
    send()

    assert (enabled["state"], enabled["disabled_reason"], enabled["failures"]) == (
        "active",
        None,
        0,
    )
    assert receiver.seqs == seqs


def test_an_enabled_webhook_may_pass_over_what_it_lacks(client, add, receiver, tell, send, change):
    added = add(types=["package.*"])
    change(added["id"], disabled_at=utcnow())
    tell("package.registered")

    client.post(f"/api/v1/webhook/{added['id']}/enable", json={"from": "now"})
    (later,) = tell("package.removed")
    send()

    assert receiver.seqs == [later]


# --- Tests ---


def test_a_test_is_sent_now_and_changes_nothing(client, add, receiver, shown, change):
    added = add(types=["task.failed"], secret=SECRET)
    change(added["id"], disabled_at=utcnow())
    receiver.says(answer(204), answer(500, "no"))

    first, second = (client.post(f"/api/v1/webhook/{added['id']}/test").json for _ in range(2))

    verified = Verifier(SECRET).verify(receiver.messages[0].body, receiver.messages[0].headers)
    assert (verified["type"], verified["data"]["seq"]) == ("webhook.test", None)
    assert verified["data"]["by"] == {"kind": "token", "id": 1, "name": None}
    assert (first["succeeded"], first["status"], first["seq"]) == (True, 204, None)
    assert (second["succeeded"], second["error"]) == (False, "HTTP 500: no")
    whole = shown(added["id"])
    assert whole["deliveries"] == [second, first]
    assert (whole["state"], whole["failures"]) == ("disabled", 0)
    assert whole["delivered_seq"] == added["delivered_seq"]


@SQLITE
def test_a_redirect_is_a_failure_and_leads_nowhere(client, add, receiver):
    with Receiver() as elsewhere:
        receiver.says(answer(302, "", f"Location: {elsewhere.url}/"))

        tested = client.post(f"/api/v1/webhook/{add()['id']}/test").json

    assert (tested["succeeded"], tested["status"], elsewhere.messages) == (False, 302, [])
    assert tested["error"] == "HTTP 302: a redirect, which is not followed"


@SQLITE
def test_an_endless_answer_is_a_failure(client, add, receiver):
    receiver.answer = lambda _message: itertools.chain([ENDLESS], itertools.repeat(bytes(4096)))

    tested = client.post(f"/api/v1/webhook/{add()['id']}/test").json

    assert (tested["succeeded"], tested["status"]) == (False, 200)
    assert tested["error"] == "the answer is longer than 64 KiB"


@SQLITE
def test_few_tests_are_sent_at_once_and_none_at_a_stop(app, client, add, receiver, pool):
    path = f"/api/v1/webhook/{add()['id']}/test"
    slots = services.get(webhooks.TestSlots, app)
    for _ in range(webhooks.TESTS_AT_ONCE):
        slots.acquire()
    busy = client.post(path)
    slots.release()
    pool.stopping.set()
    stopped = client.post(path)

    assert (busy.status_code, stopped.status_code, receiver.messages) == (503, 503, [])
    assert busy.headers["Retry-After"] == stopped.headers["Retry-After"] == "5"


# --- Senders ---


def test_a_webhook_is_sent_one_event_at_a_time(app, add, receiver, tell, send):
    add()
    tell()
    others = []

    def answer_later(_message):
        with app.app_context():
            others.append(deliveries.deliver_next("another", threading.Event()))
        yield answer(204)

    receiver.answer = answer_later

    send()

    assert set(others) == {False}
    assert len(set(receiver.seqs)) == len(receiver.seqs) > 1


@pytest.mark.parametrize("status", [204, 500])
def test_what_a_sender_without_a_lease_found_out_does_not_count(
    add, receiver, tell, pool, change, shown, status
):
    added = add()
    tell()

    def answer_late(_message):
        change(added["id"], lease_until=soon(60), lease_holder="another")
        yield answer(status)

    receiver.answer = answer_late

    assert pool.deliver_one()

    whole = shown(added["id"])
    assert (whole["deliveries"], whole["failures"]) == ([], 0)
    assert whole["delivered_seq"] == added["delivered_seq"]


def test_a_webhook_whose_sender_died_is_told_again(app, add, receiver, tell, pool, send, change):
    added = add()
    change(added["id"], lease_holder="dead", lease_until=soon(50))
    tell()
    assert send() == 0

    (app.config["DATA_DIR"] / "holders").mkdir(exist_ok=True)
    (app.config["DATA_DIR"] / "holders" / "dead").touch()
    with app.app_context():
        pool.reap()

    assert send() >= 1


@SQLITE
@pytest.mark.parametrize(
    "values",
    [
        {"lease_holder": "far away", "lease_until": soon(-1)},
        {"lease_holder": "far away", "lease_until": soon(86_400)},
        {"next_at": soon(86_400)},
    ],
    ids=["lease ran out", "clock set back", "clock set back between two"],
)
def test_neither_a_lease_that_ran_out_nor_a_clock_holds_a_webhook_up(
    add, tell, pool, change, values
):
    change(add()["id"], **values)
    tell()

    assert pool.deliver_one()


def test_a_stop_of_the_service_counts_as_no_failure(app, add, receiver, tell, pool, shown):
    added = add()
    tell()
    receiver.answer = lambda _message: (pool.stopping.set() or b"HTTP" for _ in range(1))

    assert not pool.deliver_one()

    whole = shown(added["id"])
    assert (whole["failures"], whole["deliveries"], len(receiver.messages)) == (0, [], 1)
    with app.app_context():
        assert db.session.get_one(Webhook, added["id"]).lease_holder is None


@SQLITE
def test_a_pool_sees_to_it_that_webhooks_are_told(add, receiver, tell, pool):
    add()
    (seq,) = tell()

    pool.start()

    until(lambda: seq in receiver.seqs)
    assert pool.fault() is None or "thread" not in pool.fault()


@SQLITE
def test_with_another_versions_schema_nothing_is_sent(app, add, receiver, tell, pool):
    add()
    tell()
    with app.app_context():
        db.session.execute(db.text("UPDATE alembic_version SET version_num = '9999'"))
        db.session.commit()

    pool.maintain_once()

    assert (pool.deliver_one(), receiver.messages) == (False, [])


def test_the_last_100_deliveries_are_kept(app, add, tell, send, shown):
    added, other = add(), add()
    ended = deliveries.Attempt(0.5, 204, None)
    with app.app_context():
        for webhook in (other, added):
            for number in range(100):
                deliveries.note(webhook["id"], "task.failed", ended, seq=number)
        db.session.commit()
    tell("package.removed")

    send()

    kept = shown(added["id"])["deliveries"]
    assert (len(kept), kept[0]["type"]) == (100, "package.removed")
    assert len(shown(other["id"])["deliveries"]) == 100


def test_webhooks_and_deliveries_are_measured(
    client, scrape, add, receiver, tell, send, change, app
):
    before = scrape()
    added, failing, disabled = add(types=["task.*"]), add(), add()
    change(failing["id"], failures=1, next_at=soon(3600))
    change(disabled["id"], disabled_at=utcnow())
    tell("task.failed", "task.failed")
    receiver.says(answer(204), answer(500))
    send()
    with app.app_context():
        db.session.execute(update(Event).values(at=soon(-100)))
        db.session.commit()

    found = scrape()

    states = [found["pkgd_webhooks", state] for state in ("active", "failing", "disabled")]
    assert (before["pkgd_webhooks", "active"], states) == (0, [0, 2, 1])
    outcomes = [found["pkgd_webhook_deliveries_total", one] for one in ("succeeded", "failed")]
    assert outcomes == [1, 1]
    assert before["pkgd_webhook_lag_seconds",] == 0
    assert 100 <= found["pkgd_webhook_lag_seconds",] < 130
    client.delete(f"/api/v1/webhook/{added['id']}")
    assert scrape()["pkgd_webhook_deliveries_total", "failed"] == 1
