"""Signing in to the dashboard: what a session is, how it ends, and that it can't be misused."""

from itertools import product

import pytest
from sqlalchemy import func, select, update
from support import SQLITE

from models import Token, db, soon
from session_models import Session

PROXIED = {
    "X-Forwarded-For": "10.1.2.3",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Prefix": "/pkgd",
    "Origin": "https://localhost",
}
FOREIGN = [
    {},
    {"Origin": "null"},
    {"Origin": "https://evil.example"},
    {"Origin": "http://localhost:8000"},
    {"Origin": "https://localhost"},
    {"Origin": "http://localhost", "Sec-Fetch-Site": "cross-site"},
    {"Origin": "http://localhost", "Sec-Fetch-Site": "same-site"},
]

ELSEWHERE = [
    *("//evil.example", "/\\evil.example", "https://evil.example/now", "/%2f/evil.example"),
    *("/sign-out", "/sign-in", "/docs", "/nope", "javascript:alert(1)", "//[", "now", "/a\nb"),
    *("/\t/evil.example/now", "/now?a=\nb"),
]


def cookie(browser, path="/"):
    """Return the cookie of the session."""
    return browser.client.get_cookie("pkgd_session", path=path)


def sessions(app):
    """Return how many sessions the database holds."""
    with app.app_context():
        return db.session.scalar(select(func.count(Session.id)))


def is_asked_to_sign_in(browser):
    """Tell whether the browser is sent to the form."""
    answer = browser.client.get("/now")
    return (answer.status_code, answer.location) == (303, "/sign-in?next=/now")


# --- Beginning ---


def test_who_signs_in_with_a_token_sees_the_page_that_was_asked_for(client, stranger):
    page = stranger.get("/tasks?status=failed")
    assert page.request.path == "/sign-in"

    wanted = page.tree.css_first("input[name=next]").attributes["value"]
    answer = stranger.post("/sign-in", token=f" {client.secret} ", next=wanted)

    assert (answer.status_code, answer.location) == (303, "/tasks?status=failed")
    assert "Sign out" in stranger.get(answer.location).tree.body.text()


@SQLITE
def test_a_token_that_is_not_live_is_refused_on_the_form(app, stranger):
    for token in ("", "pkgd_wrong", "größer", "a\0b"):
        answer = stranger.sign_in(token)

        assert answer.status_code == 401
        assert "No live token" in answer.tree.css_first("[role=alert]").text()
    assert cookie(stranger) is None
    assert sessions(app) == 0


@SQLITE
def test_wrong_tokens_are_slowed_and_a_live_one_is_not(client, stranger):
    for _ in range(60):
        stranger.sign_in("pkgd_wrong")
    answer = stranger.sign_in("pkgd_wrong")

    assert answer.status_code == 429
    assert int(answer.headers["Retry-After"]) > 0
    assert "Wait, then send a live token." in answer.said
    assert stranger.sign_in(client.secret).status_code == 303


@SQLITE
def test_a_machine_can_not_sign_in(app, mint, stranger):
    answer = stranger.sign_in(mint(scope="sync")["token"])

    assert answer.status_code == 403
    assert "is a machine's" in answer.said
    assert sessions(app) == 0


@SQLITE
def test_the_cookie_is_kept_from_scripts_and_from_other_sites(browser):
    kept = cookie(browser)

    assert (kept.http_only, kept.same_site, kept.path) == (True, "Strict", "/")
    assert not kept.secure
    assert 43_000 < kept.max_age <= 43_200


@SQLITE
def test_the_cookie_ends_no_later_than_the_token(mint, stranger):
    stranger.sign_in(mint(expires_in=60)["token"])

    assert cookie(stranger).max_age <= 60


@SQLITE
def test_behind_tls_and_a_prefix_the_cookie_is_for_these_alone(make_app, stranger, client):
    proxied = make_app(TRUSTED_PROXIES=1).test_client()
    form = {"token": client.secret, "next": "/tasks"}

    answer = proxied.post("/sign-in", data=form, headers=PROXIED)

    assert answer.location == "/pkgd/tasks"
    flags = answer.headers["Set-Cookie"].split("; ")
    assert {"Secure", "HttpOnly", "Path=/pkgd", "SameSite=Strict"} <= set(flags)


@SQLITE
def test_signing_in_gives_a_new_session_and_ends_a_planted_one(app, client, browser):
    planted = cookie(browser).value

    browser.sign_in(client.secret)

    assert cookie(browser).value != planted
    assert sessions(app) == 1
    browser.client.set_cookie("pkgd_session", planted)
    assert is_asked_to_sign_in(browser)


@SQLITE
def test_who_is_signed_in_goes_on_from_the_form(browser):
    answer = browser.client.get("/sign-in?next=/tasks")

    assert (answer.status_code, answer.location) == (303, "/tasks")


@SQLITE
def test_after_signing_in_nobody_is_led_elsewhere(client, stranger):
    for wanted in ELSEWHERE:
        answer = stranger.post("/sign-in", token=client.secret, next=wanted)

        assert (answer.status_code, answer.location) == (303, "/now"), wanted


# --- Ending ---


def test_signing_out_ends_the_session_for_a_copy_of_the_cookie_too(app, browser, stranger):
    stolen = cookie(browser).value
    answer = browser.press(browser.get("/now"), "Sign out")

    assert answer.request.path == "/sign-in"
    assert cookie(browser) is None
    stranger.client.set_cookie("pkgd_session", stolen)
    assert is_asked_to_sign_in(stranger)
    assert sessions(app) == 0


def test_a_session_ends_with_the_revocation_of_its_token(client, browser_of):
    browser = browser_of("read")
    assert browser.get("/now").request.path == "/now"

    client.delete(f"/api/v1/token/{browser.token['id']}")

    assert is_asked_to_sign_in(browser)


@SQLITE
def test_a_session_ends_when_its_token_expires(expire, browser_of):
    browser = browser_of("read")
    expire(browser.token["id"])

    assert is_asked_to_sign_in(browser)


@SQLITE
def test_a_session_ends_by_its_time_and_is_deleted(app, pool, browser):
    with app.app_context():
        db.session.execute(update(Session).values(expires_at=soon(-1)))
        db.session.commit()
    assert is_asked_to_sign_in(browser)

    pool.maintain_once()

    assert sessions(app) == 0


@SQLITE
def test_a_part_of_a_page_has_the_page_loaded_anew_when_the_session_is_over(stranger):
    answer = stranger.client.get("/now/work", headers={"HX-Request": "true"})

    assert (answer.status_code, answer.headers["HX-Refresh"]) == (401, "true")
    assert answer.data == b""


@SQLITE
def test_a_form_that_is_sent_after_the_end_leads_to_the_first_page(stranger):
    answer = stranger.post("/tasks/0b9f2c1e-7d43-4c5a-9a52-6f1f0f6f8f2d/cancel")

    assert (answer.status_code, answer.location) == (303, "/sign-in")


# --- The cookie ---


@SQLITE
def test_a_cookie_that_our_key_has_not_signed_is_none(browser):
    value, _, signature = cookie(browser).value.rpartition(".")

    for forged in (value, f"{value}.", f"{value[:-1]}x.{signature}", "", "é.é"):
        browser.client.set_cookie("pkgd_session", forged)
        assert is_asked_to_sign_in(browser)


@SQLITE
@pytest.mark.parametrize("fallbacks", ["", "for-tests-only-and-long-enough-for-production"])
def test_a_cookie_outlives_a_change_of_the_key_as_tokens_do(make_app, browser, fallbacks):
    other = make_app(SECRET_KEY="another-key-" * 4, SECRET_KEY_FALLBACKS=fallbacks).test_client()
    other.set_cookie("pkgd_session", cookie(browser).value)

    assert other.get("/now").status_code == (200 if fallbacks else 303)


@SQLITE
def test_the_cookie_counts_for_the_dashboard_alone(browser):
    assert browser.client.get("/api/v1/packages").status_code == 401
    assert browser.client.post("/api/v1/tokens", json={}).status_code == 401
    assert browser.client.get("/metrics").status_code == 401


@SQLITE
def test_a_token_in_a_header_does_not_count_for_the_dashboard(client):
    assert client.get("/now").status_code == 303


@SQLITE
def test_a_session_notes_the_use_of_its_token(app, client, browser):
    with app.app_context():
        db.session.execute(update(Token).values(last_used_at=soon(-120)))
        db.session.commit()
    browser.get("/now")

    with app.app_context():
        assert db.session.scalar(select(Token.last_used_at)) > soon(-60)


# --- Other sites ---


@SQLITE
def test_a_form_of_another_site_changes_nothing(browser, schedule, get_task):
    task_id = schedule()

    for headers in FOREIGN:
        answer = browser.post(f"/tasks/{task_id}/cancel", headers=headers)

        assert answer.status_code == 403
        assert "does not come from a page of http://localhost" in answer.said
    assert get_task(task_id)["status"] == "queued"


@SQLITE
def test_another_site_can_sign_nobody_in_or_out(client, browser):
    mine = cookie(browser).value

    for headers in FOREIGN:
        assert browser.post("/sign-in", headers=headers, token=client.secret).status_code == 403
        assert browser.post("/sign-out", headers=headers).status_code == 403
    assert cookie(browser).value == mine
    assert browser.get("/now").request.path == "/now"


@SQLITE
def test_no_page_can_be_framed_or_run_what_is_not_ours(browser, stranger):
    for one, path in product((browser, stranger), ("/now", "/now/work", "/sign-in", "/tasks/no")):
        headers = one.client.get(path).headers
        rules = dict(rule.split(" ", 1) for rule in headers["Content-Security-Policy"].split("; "))
        assert rules["frame-ancestors"] == rules["default-src"] == rules["base-uri"] == "'none'"
        assert rules["script-src"] == rules["style-src"] == rules["form-action"] == "'self'"
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Cache-Control"] == "no-store"


# --- Read-only ---


@SQLITE
def test_while_nothing_may_be_written_sessions_go_on_and_none_begins(make_app, client, browser):
    frozen = make_app(READ_ONLY="true").test_client()
    form = {"token": client.secret}

    refused = frozen.post("/sign-in", data=form, headers={"Origin": "http://localhost"})
    frozen.set_cookie("pkgd_session", cookie(browser).value)

    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "30")
    assert frozen.get("/now").status_code == 200
