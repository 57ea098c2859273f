"""The gate in front of every URL: tokens, scopes, secrets, and the throttle of failures."""

import logging

import pytest
from sqlalchemy import select, text, update
from support import POSTGRESQL, bearing

from auth import FAILURES, digest
from models import Token, db, soon

CHALLENGES = ["Bearer realm=pkgd", "Token realm=pkgd"]


# --- Tokens ---


@pytest.mark.parametrize("scheme", ["Token", "token", "Bearer", "bearer"])
def test_both_schemes_are_accepted_in_any_case(anonymous, client, scheme):
    headers = {"Authorization": f"{scheme} {client.secret}"}

    assert anonymous.get("/api/v1/version", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "header", ["", "Token", "Token ", "Token pkgd_x", "Basic dTpw", "Bearer a b c", "Digest x=y"]
)
def test_any_other_authorization_is_answered_by_the_same_401(anonymous, client, header):
    answer = anonymous.get("/api/v1/packages", headers={"Authorization": header})

    assert answer.status_code == 401
    assert answer.json["detail"].startswith("a live token is needed")
    assert answer.headers.getlist("WWW-Authenticate") == CHALLENGES


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/nope"), ("PUT", "/api/v1/packages"), ("DELETE", "/metrics")]
)
def test_without_a_token_an_unknown_url_or_method_is_a_401(anonymous, method, path):
    assert anonymous.open(path, method=method).status_code == 401


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/openapi.json", "/hello"])
def test_a_wrong_method_is_a_405_where_no_token_is_needed(anonymous, path):
    answer = anonymous.delete(path)

    assert answer.status_code == 405
    assert set(answer.headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS"}


def test_an_expired_token_is_refused(app, client, mint):
    minted = mint(expires_in=60)
    expired = bearing(app, minted["token"])
    assert expired.get("/api/v1/version").status_code == 200

    write(app, minted["id"], expires_at=soon(-1))

    assert expired.get("/api/v1/version").status_code == 401
    assert [token["id"] for token in client.get("/api/v1/tokens").json] == [1]


def test_a_revoked_token_is_refused_at_once(app, client, mint):
    minted = mint()
    revoked = bearing(app, minted["token"])
    assert revoked.get("/api/v1/version").status_code == 200

    client.delete(f"/api/v1/token/{minted['id']}")

    assert revoked.get("/api/v1/version").status_code == 401


def write(app, token_id, **values):
    """Change columns of a token."""
    with app.app_context():
        db.session.execute(update(Token).where(Token.id == token_id).values(**values))
        db.session.commit()


def last_used(app, token_id):
    """Return when a token was last used, according to the database."""
    with app.app_context():
        return db.session.scalar(select(Token.last_used_at).where(Token.id == token_id))


def test_the_first_use_of_a_token_is_recorded(client):
    client.get("/api/v1/version")

    (token,) = client.get("/api/v1/tokens").json
    assert token["last_used_at"] > token["created_at"]


def test_a_use_is_recorded_once_a_minute(app, client):
    recent, outdated = soon(-50), soon(-70)

    write(app, 1, last_used_at=recent)
    client.get("/api/v1/version")
    assert last_used(app, 1) == recent

    write(app, 1, last_used_at=outdated)
    client.get("/api/v1/version")
    assert last_used(app, 1) > recent


# --- Scopes ---


@pytest.mark.parametrize(
    ("scope", "method", "path", "status"),
    [
        ("read", "GET", "/api/v1/packages", 200),
        ("read", "HEAD", "/api/v1/packages", 200),
        ("read", "OPTIONS", "/api/v1/packages", 200),
        ("read", "POST", "/api/v1/packages", 403),
        ("read", "POST", "/api/v1/package/1/download", 403),
        ("read", "GET", "/api/v1/tokens", 403),
        ("operate", "POST", "/api/v1/package/1/download", 404),
        ("operate", "POST", "/api/v1/tokens", 403),
        ("operate", "DELETE", "/api/v1/tokens/all", 403),
        ("admin", "GET", "/api/v1/tokens", 200),
        ("admin", "POST", "/api/v1/package/1/download", 404),
    ],
)
def test_a_scope_allows_its_methods_and_those_of_the_scopes_below(
    app, mint, scope, method, path, status
):
    scoped = bearing(app, mint(scope=scope)["token"])

    assert scoped.open(path, method=method).status_code == status


def test_a_403_names_the_scope_that_is_needed(app, mint):
    reader = bearing(app, mint(scope="read")["token"])

    answer = reader.post("/api/v1/packages")

    assert answer.json["detail"] == "this needs scope operate; the token's is read"


# --- Secrets ---


def test_no_secret_is_in_the_database_the_list_or_the_log(app, client, mint, caplog):
    caplog.set_level(logging.DEBUG)
    minted = mint(name="robot")
    bearing(app, minted["token"]).get("/api/v1/packages")

    with app.app_context():
        rows = [str(row) for row in db.session.execute(text("SELECT * FROM tokens"))]

    secret = minted["token"].removeprefix("pkgd_")
    assert len(rows) == 2
    assert secret not in "".join([*rows, caplog.text])
    assert secret not in client.get("/api/v1/tokens").text


def test_a_token_that_is_used_while_keys_change_outlives_the_old_key(make_app, settings, client):
    old, new = settings["SECRET_KEY"], "another-key-that-is-just-as-long-as-it-must-be"
    rotating = make_app(SECRET_KEY=new, SECRET_KEY_FALLBACKS=f"other {old}")
    rotated = make_app(SECRET_KEY=new)
    assert bearing(rotated, client.secret).get("/api/v1/version").status_code == 401

    assert bearing(rotating, client.secret).get("/api/v1/version").status_code == 200

    assert bearing(rotated, client.secret).get("/api/v1/version").status_code == 200


def test_a_token_under_a_key_that_had_a_newline_stays_valid_and_moves_to_the_key_without(
    make_app, settings, app, client
):
    key, secret = settings["SECRET_KEY"], client.secret
    with app.app_context():  # as an earlier version kept it
        db.session.execute(update(Token).values(digest=digest(secret, f"{key}\n")))
        db.session.commit()
    assert client.get("/api/v1/version").status_code == 401

    upgraded = bearing(make_app(SECRET_KEY=f"{key}\n"), secret)
    assert upgraded.get("/api/v1/version").status_code == 200

    assert client.get("/api/v1/version").status_code == 200


# --- The end of a token ---

DAY, HOUR = 86_400, 3600


@pytest.fixture
def aged(app, mint):
    """Return a function that makes a token of a life, in seconds, with some left of it.

    It returns a client with the token, and the token's id.
    """

    def aged(life, left, last_used=None):
        token = mint(name="robot")
        used_at = None if last_used is None else soon(-last_used)
        times = {"created_at": soon(left - life), "expires_at": soon(left), "last_used_at": used_at}
        write(app, token["id"], **times)
        return bearing(app, token["token"]), token["id"]

    return aged


@pytest.mark.parametrize(
    ("life", "left", "is_soon"),
    [
        (90 * DAY, 8 * DAY, False),
        (90 * DAY, 6 * DAY, True),
        (7 * DAY, 2 * DAY, False),
        (7 * DAY, DAY / 2, True),
        (HOUR, 1000, False),
        (HOUR, 300, True),
    ],
)
def test_answers_say_when_a_token_expires_that_is_at_the_end_of_its_life(
    client, aged, life, left, is_soon
):
    robot, token_id = aged(life, left)

    answers = [robot.get("/api/v1/packages"), robot.get("/api/v1/package/7"), robot.get("/nope")]

    said = {answer.headers.get("X-Token-Expires") for answer in answers}
    listed = client.get("/api/v1/tokens").json[token_id - 1]["expires_at"]
    assert said == {listed if is_soon else None}
    assert "X-Token-Expires" not in client.get("/api/v1/packages").headers


def announced(caplog):
    """Return the log's lines about tokens that expire."""
    return [record.message for record in caplog.records if "expires at" in record.message]


def test_the_log_names_a_token_that_expires_once_a_day(app, aged, caplog):
    robot, token_id = aged(90 * DAY, 6 * DAY)

    for _ in range(3):
        robot.get("/api/v1/packages")
    (line,) = announced(caplog)
    assert line.startswith(f"token {token_id} (robot) expires at 20")

    write(app, token_id, last_used_at=soon(-DAY))
    robot.get("/api/v1/packages")
    robot.get("/api/v1/packages")
    assert len(announced(caplog)) == 2


def test_the_log_names_a_token_that_was_used_just_before_its_last_days(aged, caplog):
    robot, _ = aged(HOUR, HOUR / 7 - 10, last_used=20)

    robot.get("/api/v1/packages")

    assert len(announced(caplog)) == 1


def test_the_log_does_not_name_a_token_whose_end_is_far(client, caplog):
    client.get("/api/v1/packages")

    assert announced(caplog) == []


@POSTGRESQL
def test_of_two_requests_at_once_one_logs_that_the_token_expires(aged, race, caplog):
    robot, _ = aged(90 * DAY, 6 * DAY)

    statuses = race(*[lambda: robot.get("/api/v1/version").status_code] * 2)

    assert (statuses, len(announced(caplog))) == ((200, 200), 1)


# --- Throttle ---


@pytest.fixture
def ask(app):
    """Return a function that sends a token from an address and returns the answer."""

    def ask(address, secret="pkgd_guess"):
        environ = {"REMOTE_ADDR": address}
        return bearing(app, secret).get("/api/v1/version", environ_overrides=environ)

    return ask


def test_failures_are_throttled_for_each_address(ask):
    statuses = [ask("192.0.2.1").status_code for _ in range(FAILURES.amount + 5)]

    assert statuses == [401] * FAILURES.amount + [429] * 5
    assert ask("192.0.2.2").status_code == 401


def test_a_throttled_client_is_told_when_to_try_again(ask):
    for _ in range(FAILURES.amount):
        ask("192.0.2.1")

    answer = ask("192.0.2.1")

    assert 1 <= int(answer.headers["Retry-After"]) <= 60
    assert answer.json["type"] == "urn:pkgd:problem:too-many-failures"


def test_a_live_token_is_accepted_from_a_throttled_address(client, ask):
    for _ in range(FAILURES.amount + 1):
        ask("192.0.2.1")

    assert ask("192.0.2.1", client.secret).status_code == 200


@pytest.mark.parametrize(("proxies", "statuses"), [(0, {401, 429}), (1, {401})])
def test_the_address_is_that_of_x_forwarded_for_behind_a_trusted_proxy(make_app, proxies, statuses):
    client = bearing(make_app(TRUSTED_PROXIES=proxies), "pkgd_guess")

    answers = {
        client.get("/hello/x", headers={"X-Forwarded-For": f"192.0.2.{n}"}).status_code
        for n in range(FAILURES.amount + 1)
    }

    assert answers == statuses
