"""Tokens: the first one, scopes, minting, revoking, and secrets that are kept nowhere."""

import logging
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import bearing
from sqlalchemy import text, update

from models import Token, db, soon

UNAUTHORIZED = ["Bearer realm=pkgd", "Token realm=pkgd"]


def mint(client, **fields):
    """Mint a token and return the whole answer."""
    answer = client.post("/api/v1/tokens", json=fields)
    assert answer.status_code == 201, answer.json
    return answer.json


def test_the_first_token_needs_none_and_is_an_admins(anonymous):
    answer = anonymous.post("/api/v1/tokens")

    assert answer.status_code == 201
    assert answer.json["scope"] == "admin"
    assert answer.json["token"].startswith("pkgd_")
    assert len(answer.json["token"]) == len("pkgd_") + 43


def test_the_second_token_needs_one(anonymous):
    anonymous.post("/api/v1/tokens")

    answer = anonymous.post("/api/v1/tokens")

    assert answer.status_code == 401
    assert answer.headers.getlist("WWW-Authenticate") == UNAUTHORIZED


def test_of_many_asking_for_the_first_token_at_once_one_gets_it(app):
    def post(_):
        return app.test_client().post("/api/v1/tokens").status_code

    with ThreadPoolExecutor(16) as threads:
        statuses = sorted(threads.map(post, range(30)))

    assert statuses == [201] + [401] * 29


def test_the_first_token_cannot_be_less_than_an_admins(anonymous):
    answer = anonymous.post("/api/v1/tokens", json={"scope": "read"})

    assert answer.status_code == 422
    assert answer.json["errors"] == {"scope": ["The first token is an admin's."]}


def test_a_bad_token_does_not_pass_for_a_missing_first_one(app):
    assert bearing(app, "pkgd_made-up").post("/api/v1/tokens").status_code == 401


def test_production_never_gives_a_token_away(make_app):
    app = make_app(APP_ENV="production")

    assert app.test_client().post("/api/v1/tokens").status_code == 401


def test_once_all_tokens_are_revoked_the_first_rule_stays_closed(client, anonymous):
    client.delete("/api/v1/token/1")

    assert anonymous.post("/api/v1/tokens").status_code == 401


@pytest.mark.parametrize("scheme", ["Token", "token", "Bearer", "bearer"])
def test_both_schemes_are_understood(anonymous, client, scheme):
    headers = {"Authorization": f"{scheme} {client.secret}"}

    assert anonymous.get("/api/v1/version", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "header", ["", "Token", "Token ", "Token pkgd_x", "Basic dTpw", "Bearer a b c", "Digest x=y"]
)
def test_anything_else_is_the_same_401(anonymous, client, header):
    answer = anonymous.get("/api/v1/packages", headers={"Authorization": header})

    assert answer.status_code == 401
    assert answer.json["detail"] == "a live token is needed"
    assert answer.headers.getlist("WWW-Authenticate") == UNAUTHORIZED


def test_a_token_is_minted_with_what_was_asked_for(client):
    minted = mint(client, name="robot", scope="read", expires_in=60)

    assert (minted["name"], minted["scope"], minted["current"]) == ("robot", "read", False)
    assert minted["last_used_at"] is None
    listed = client.get("/api/v1/tokens").json
    assert [token["token"] for token in listed] == ["pkgd_********"] * 2
    assert [token["current"] for token in listed] == [True, False]


def test_a_token_is_like_its_maker_by_default(client):
    assert mint(client)["scope"] == "admin"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"scope": "root"}, "scope"),
        ({"expires_in": 0}, "expires_in"),
        ({"expires_in": 10**12}, "expires_in"),
        ({"expires_in": "60"}, "expires_in"),
        ({"expires_in": True}, "expires_in"),
        ({"name": ""}, "name"),
        ({"name": "a\x00b"}, "name"),
        ({"name": "\ud800"}, "name"),
        ({"name": "n" * 101}, "name"),
        ({"admin": True}, "admin"),
    ],
)
def test_a_token_that_makes_no_sense_is_refused(client, body, field):
    answer = client.post("/api/v1/tokens", json=body)

    assert answer.status_code == 422
    assert list(answer.json["errors"]) == [field]
    assert len(client.get("/api/v1/tokens").json) == 1


@pytest.mark.parametrize(
    ("scope", "method", "path", "status"),
    [
        ("read", "GET", "/api/v1/packages", 200),
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
def test_a_scope_allows_what_it_says(app, client, scope, method, path, status):
    scoped = bearing(app, mint(client, scope=scope)["token"])

    assert scoped.open(path, method=method).status_code == status


def test_a_revoked_token_is_refused_at_once(app, client):
    minted = mint(client)
    revoked = bearing(app, minted["token"])
    assert revoked.get("/api/v1/version").status_code == 200

    answer = client.delete(f"/api/v1/token/{minted['id']}")

    assert (answer.status_code, answer.json) == (200, {})
    assert revoked.get("/api/v1/version").status_code == 401


def test_a_token_is_revoked_once(client):
    minted = mint(client)
    client.delete(f"/api/v1/token/{minted['id']}")

    answer = client.delete(f"/api/v1/token/{minted['id']}")

    assert answer.status_code == 404
    assert answer.json["detail"] == f"there is no live token {minted['id']}"


def test_all_others_are_revoked_and_the_callers_stays(app, client):
    others = [bearing(app, mint(client)["token"]) for _ in range(3)]

    assert client.delete("/api/v1/tokens/all").json == {}

    assert {other.get("/api/v1/version").status_code for other in others} == {401}
    assert [token["current"] for token in client.get("/api/v1/tokens").json] == [True]


def test_an_expired_token_is_refused(app, client):
    minted = mint(client, expires_in=60)
    expired = bearing(app, minted["token"])
    with app.app_context():
        db.session.execute(
            update(Token).where(Token.id == minted["id"]).values(expires_at=soon(-1))
        )
        db.session.commit()

    assert expired.get("/api/v1/version").status_code == 401
    assert len(client.get("/api/v1/tokens").json) == 1


def test_use_is_noted(client):
    client.get("/api/v1/version")

    (token,) = client.get("/api/v1/tokens").json
    assert token["last_used_at"] > token["created_at"]


def test_no_secret_is_in_the_database_or_the_log(app, client, caplog):
    caplog.set_level(logging.DEBUG)
    minted = mint(client, name="robot")
    bearing(app, minted["token"]).get("/api/v1/packages")

    with app.app_context():
        rows = [str(row) for row in db.session.execute(text("SELECT * FROM tokens"))]
    secret = minted["token"].removeprefix("pkgd_")
    assert secret not in "".join([*rows, caplog.text])
    assert secret not in client.get("/api/v1/tokens").text


def test_a_token_that_is_used_while_keys_change_outlives_the_old_key(make_app, settings, client):
    old, new = settings["SECRET_KEY"], "another-key-that-is-just-as-long-as-it-must-be"
    rotating = make_app(SECRET_KEY=new, SECRET_KEY_FALLBACKS=f"other {old}")
    rotated = make_app(SECRET_KEY=new)
    assert bearing(rotated, client.secret).get("/api/v1/version").status_code == 401

    assert bearing(rotating, client.secret).get("/api/v1/version").status_code == 200

    assert bearing(rotated, client.secret).get("/api/v1/version").status_code == 200


def test_pages_of_tokens_follow_one_another(client):
    for _ in range(2):
        mint(client)

    first = client.get("/api/v1/tokens?limit=2")
    second = client.get("/api/v1/tokens?limit=2&after=2")

    assert [token["id"] for token in first.json + second.json] == [1, 2, 3]
    assert first.headers["Link"] == '</api/v1/tokens?limit=2&after=2>; rel="next"'
