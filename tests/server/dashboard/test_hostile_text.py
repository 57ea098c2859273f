"""Texts from outside on every page: markup, escape sequences and bidi overrides stay text."""

import uuid
from urllib.parse import quote

import pytest
from sqlalchemy import update
from support import CATALOGS, SQLITE, until

import build_logs
import event_log
import services
from catalogs import indexes, offers
from catalogs.models import CatalogIndex, Pin
from catalogs.state import Catalogs
from machines.models import Machine, ReportedState
from models import Package, PackageStatus, Task, TaskKind, TaskStatus, Token, db, utcnow
from nix.terminal import CONTROL
from profiles.history import Profile
from profiles.models import Change, Generation, Membership, Reason
from webhooks.models import Delivery, Webhook

MARKUP = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'>{{ 7 * 7 }}"
# NUL is among them: a database that is not ours to trust could hold it.
SIGNS = "\x1b[31mred\x1b[0m \x9b31m \x00\x07\x7f \u202etxt.exe\u202c \u2066one\u2069 \u200f"
TEXT = f"{MARKUP} {SIGNS} {'w' * 300}"
TASK, LIVE = (uuid.UUID(int=number) for number in (1, 2))
PATH = f"/nix/store/{MARKUP}"  # programs are called with it, which take no NUL
FILLED = {
    "task_id": TASK,
    "package_id": 1,
    "name": "default",
    "machine_name": "web-1",
    "number": 1,
    "token_id": 1,
    "webhook_id": 1,
}
PARAMETERS = {
    "dashboard.offers.search": "?search=evil",
    "dashboard.offers.plan": "?name=evil&version=1.0.0",
    "dashboard.profiles.plan_promotion": "?from=team",
    "dashboard.tasks.show": "?find=alert",
}
# Where what is shown comes from outside, beside who is signed in.
SHOWN = {
    *("now.index", "now.work", "packages.index", "packages.show", "packages.state"),
    *("packages.plan_activation", "packages.plan_removal", "profiles.show", "profiles.state"),
    *("machines.index", "machines.listed", "machines.show", "machines.state", "catalogs.index"),
    *("catalogs.listed", "access.tokens.index", "access.tokens.ask", "access.webhooks.index"),
    *("access.webhooks.listed", "access.webhooks.show", "access.webhooks.state"),
    *("access.webhooks.ask", "access.events.index", "access.events.listed", "offers.search"),
    *("offers.versions", "tasks.index", "tasks.show", "tasks.state", "tasks.more"),
}
ADDRESSES = [
    *("/machines/{}", "/parts/machine/{}", "/profiles/{}", "/tasks/{}", "/catalog/{}"),
    *("/catalog?search={}", "/catalog/evil?version={}", "/install?name={}&version={}"),
    *("/machines?state={}", "/machines?{}=1", "/access/events?type={}", "/tasks?status={}"),
]
FORMS = [
    ("/access/tokens", {"name": TEXT, "scope": TEXT, "newest": "1"}),
    ("/access/webhooks", {"url": TEXT, "types": [TEXT], "secret": TEXT, "newest": "1"}),
    ("/rollouts/default", {"percent": TEXT}),
    ("/profiles", {"name": TEXT}),
    ("/profiles/default/plan", {"manifest": TEXT}),
    ("/profiles/default/plan", {"manifest": f'[packages]\n"{MARKUP[:9]}" = "1"'}),
    ("/install", {"name": TEXT, "version": TEXT}),
    ("/sign-in", {"token": TEXT, "next": TEXT}),
]

pytestmark = SQLITE


@pytest.fixture
def settings(settings, tmp_path):
    """The settings: a catalog with an index, and one that fails with a text of its own."""
    told = TEXT.replace("\x00", "").replace('"', '\\"')
    (tmp_path / "bad.nix").write_text(f'throw "{told}"')
    catalogs = f"{CATALOGS / 'tools.nix'} {tmp_path}/bad.nix"
    return settings | {"INDEX_BYTES": 2**30, "CATALOGS": catalogs}


@pytest.fixture
def hostile(app, browser):
    """A browser of a service that is full of such texts."""
    with app.app_context():
        add_packages()
        add_catalogs()
        add_machines_and_webhooks()
        event_log.add(
            event_log.EventType.PACKAGE_REMOVED,
            event_log.subject("package", 7, TEXT),
            {"version": TEXT, "reason": TEXT},
            by={"kind": "token", "id": 1, "name": TEXT, "from": TEXT},
            request_id=TEXT,
        )
        db.session.execute(update(Token).values(name=TEXT))
        db.session.commit()
    browser.get("/catalogs")
    until(lambda: services.get(Catalogs, app)._last_look)
    return browser


def add_packages():
    error = {f"error_{name}": TEXT for name in ("code", "message", "hint", "reason")}
    texts = dict.fromkeys(("catalog", "attr", "spelled", "catalog_sha256"), TEXT)
    texts |= {"drv_path": PATH, "store_path": PATH, "store_paths": [PATH], "closure_size": 1}
    for number, status in enumerate((PackageStatus.DOWNLOADED, PackageStatus.ACTIVATED), 1):
        package = Package(id=number, name=TEXT, version=f"{number}", status=status, **texts)
        db.session.add(package)
    db.session.add_all(
        [
            Task(id=TASK, package_id=1, status=TaskStatus.FAILED, **error),
            Task(id=LIVE, package_id=2, status=TaskStatus.RUNNING, phase=TEXT, attempt=1),
            Task(kind=TaskKind.DOWNLOAD, package_id=1, waiting=TEXT),
        ]
    )
    db.session.flush()
    for task in db.session.query(Task):
        build_logs.append(task.seq, max(task.attempt, 1), 0, TEXT.encode())
    held = {"id": 2, "name": TEXT, "version": TEXT, "store_path": PATH}
    held["store_paths"] = [PATH]
    profile = db.session.query(Profile).one()
    db.session.add(Membership(profile_id=profile.id, package_id=2))
    generation = Generation(
        profile_id=profile.id, number=1, store_path=PATH, packages=[held], published_at=utcnow()
    )
    db.session.add(generation)
    db.session.flush()
    db.session.add(Change(generation_id=generation.id, reason=Reason.APPLY, by=TEXT))
    db.session.commit()


def add_catalogs():
    indexes.schedule(services.get(Catalogs).states())
    db.session.query(CatalogIndex).update({"finished_at": utcnow()})
    told = {"spelled": "1.0", "version": "1.0.0", "description": TEXT, "homepage": TEXT}
    offer = {"index_id": 1, "attr": "evil", "pname": "evil", "name": "evil", "reason": None}
    offers.add([{**offer, **told, "license": TEXT}])
    db.session.query(Task).filter(Task.index_id.is_not(None)).update(
        {"status": TaskStatus.FAILED, "error_message": TEXT}
    )
    pin = dict.fromkeys(("url", "sha256", "revision"), TEXT)
    db.session.add(Pin(name="pin", store_path="/nix/store/pin", rank=0, **pin))


def add_machines_and_webhooks():
    profile = db.session.query(Profile).one()
    reported = {"reported": ReportedState.FAILED, "error": TEXT, "store_path": TEXT}
    machine = Machine(name="web-1", profile_id=profile.id, place=1, seen_at=utcnow(), **reported)
    webhook = Webhook(url=TEXT, types=[TEXT], secret="whsec_", cursor=0, disabled_at=utcnow())
    webhook.disabled_reason = TEXT
    db.session.add_all([machine, webhook])
    db.session.flush()
    sent = {"type": TEXT, "error": TEXT, "attempt": 1, "seconds": 1.0, "succeeded": False}
    db.session.add(Delivery(webhook_id=webhook.id, status=500, **sent))


def pages(app):
    """Return the path of each page and part by its endpoint, filled in."""
    found = {}
    for rule in app.url_map.iter_rules():
        if rule.endpoint.startswith("dashboard.") and "GET" in rule.methods:
            values = {name: FILLED[name] for name in rule.arguments if name in FILLED}
            if values.keys() == rule.arguments:
                path = rule.build(values)[1]
                name = rule.endpoint.removeprefix("dashboard.")
                found[name] = path + PARAMETERS.get(rule.endpoint, "")
    found["offers.versions"] = "/catalog/evil"
    return found


def faults(answer):
    """Return what is wrong with a page: code, or characters that deceive."""
    tree, found = answer.tree, []
    scripts = tree.css("script")
    found += [
        one.html for one in scripts if not one.attributes.get("src", "").startswith("/dashboard/")
    ]
    found += [one.html for one in tree.css("img, iframe, object, embed, base, style, svg")]
    for node in tree.css("*"):
        names = [name for name in node.attributes if name.startswith("on") or name == "style"]
        links = [node.attributes.get(name) or "" for name in ("href", "action", "src", "hx-get")]
        found += names + [link for link in links if link.startswith(("javascript:", "data:"))]
    # Between the parts of a text, a character that a browser would hide or obey.
    return found + CONTROL.findall(answer.text)


def test_no_page_takes_a_text_for_code_or_lets_it_deceive(app, hostile):
    wrong, silent = {}, []
    for name, path in pages(app).items():
        answer = hostile.get(path)
        if answer.mimetype == "text/html":
            assert answer.status_code != 500, name
            wrong |= {name: found} if (found := faults(answer)) else {}
            silent += [name] if MARKUP not in answer.said else []

    assert wrong == {}
    assert SHOWN.isdisjoint(silent), SHOWN & {*silent}


def test_control_characters_and_bidi_overrides_are_shown_as_signs(app, browser):
    with app.app_context():
        db.session.execute(update(Token).values(name=TEXT))
        db.session.commit()

    said = browser.get("/access/tokens").said

    assert "␛[31mred␛[0m" in said
    assert "␀␇⟨U+007F⟩" in said
    assert "⟨U+202E⟩txt.exe⟨U+202C⟩" in said


def test_a_log_is_sent_as_plain_text_that_no_browser_takes_for_a_page(app, browser):
    with app.app_context():
        add_packages()

    answer = browser.get(f"/tasks/{TASK}/log.txt")

    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_what_an_address_says_is_shown_as_text_too(browser):
    said = quote(TEXT.replace("/", ""), safe="")

    for path in ADDRESSES:
        answer = browser.get(path.replace("{}", said))
        assert answer.status_code in (200, 404, 422), path
        assert faults(answer) == [], path


def test_what_a_form_says_is_shown_as_text_too(browser):
    for path, fields in FORMS:
        answer = browser.post(path, **fields)
        assert answer.status_code in (401, 409, 422), path
        assert faults(answer) == [], path
