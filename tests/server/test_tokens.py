"""The routes of tokens: the first one, minting, listing, revoking."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import update
from support import POSTGRESQL, SQLITE, bearing

from models import Token, db, soon


def test_the_first_token_needs_none_and_is_an_admins(anonymous):
    answer = anonymous.post("/api/v1/tokens")

    assert answer.status_code == 201
    assert answer.json["scope"] == "admin"
    assert answer.json["token"].startswith("pkgd_")
    assert len(answer.json["token"]) == len("pkgd_") + 43


@pytest.mark.parametrize("scope", ["read", "operate", "admin"])
def test_every_token_may_learn_what_it_is(app, mint, scope):
    minted = mint(name="robot", scope=scope)

    answer = bearing(app, minted["token"]).get("/api/v1/token")

    shown = minted | {"token": "pkgd_********", "current": True}
    assert answer.json | {"last_used_at": None} == shown | {"last_used_at": None}


def test_what_a_token_is_is_told_to_nobody_else(anonymous):
    assert anonymous.get("/api/v1/token").status_code == 401


def test_the_second_token_needs_a_token(anonymous):
    anonymous.post("/api/v1/tokens")

    assert anonymous.post("/api/v1/tokens").status_code == 401


def test_of_many_requests_for_the_first_token_one_succeeds(app):
    def post(_):
        return app.test_client().post("/api/v1/tokens").status_code

    with ThreadPoolExecutor(16) as threads:
        statuses = sorted(threads.map(post, range(30)))

    assert statuses == [201] + [401] * 29


def test_the_first_token_must_be_an_admins(anonymous):
    answer = anonymous.post("/api/v1/tokens", json={"scope": "read"})

    assert answer.status_code == 422
    assert answer.json["errors"] == {"scope": ["The first token is an admin's."]}


def test_a_request_with_an_invalid_token_does_not_mint_the_first_one(app):
    assert bearing(app, "pkgd_made-up").post("/api/v1/tokens").status_code == 401


def test_in_production_the_first_token_needs_a_token_too(make_app):
    app = make_app(APP_ENV="production")

    assert app.test_client().post("/api/v1/tokens").status_code == 401


@pytest.mark.parametrize(
    ("proxies", "peer", "forwarded", "status"),
    [
        (0, "127.0.0.1", {}, 201),
        (0, "127.8.8.8", {}, 201),
        (0, "::1", {}, 201),
        (0, "::ffff:127.0.0.1", {}, 201),
        (0, "", {}, 201),  # a Unix socket
        (0, "192.0.2.1", {}, 401),
        (0, "2001:db8::1", {}, 401),
        (0, "127.0.0.1", {"X-Forwarded-For": "127.0.0.1"}, 401),
        (0, "", {"Forwarded": "for=127.0.0.1"}, 401),
        (1, "127.0.0.1", {"X-Forwarded-For": "127.0.0.1"}, 201),
        (1, "", {"X-Forwarded-For": "127.0.0.1"}, 201),
        (1, "127.0.0.1", {"X-Forwarded-For": "192.0.2.1"}, 401),
        (1, "127.0.0.1", {"X-Forwarded-For": "made up"}, 401),
        (1, "192.0.2.1", {"X-Forwarded-For": "127.0.0.1"}, 401),
    ],
)
@SQLITE
def test_the_first_token_is_for_this_machine_alone(make_app, proxies, peer, forwarded, status):
    client = make_app(TRUSTED_PROXIES=proxies).test_client()

    answer = client.post("/api/v1/tokens", headers=forwarded, environ_base={"REMOTE_ADDR": peer})

    assert answer.status_code == status
    assert status == 201 or "flask --app app create-token" in answer.json["detail"]


def test_revoking_all_tokens_does_not_allow_another_first_one(client, anonymous):
    client.delete("/api/v1/token/1?force=true")

    assert anonymous.post("/api/v1/tokens").status_code == 401


def test_a_token_is_minted_with_the_requested_fields(client, mint):
    minted = mint(name="robot", scope="read", expires_in=60)

    assert (minted["name"], minted["scope"], minted["current"]) == ("robot", "read", False)
    assert minted["last_used_at"] is None
    listed = client.get("/api/v1/tokens").json
    assert [token["token"] for token in listed] == ["pkgd_********"] * 2
    assert [token["current"] for token in listed] == [True, False]


def test_by_default_a_token_has_the_scope_of_the_token_that_minted_it(mint):
    assert mint()["scope"] == "admin"


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
def test_an_invalid_field_is_refused_and_mints_nothing(client, body, field):
    answer = client.post("/api/v1/tokens", json=body)

    assert answer.status_code == 422
    assert list(answer.json["errors"]) == [field]
    assert len(client.get("/api/v1/tokens").json) == 1


def test_a_revoked_token_is_not_listed(client, mint):
    minted = mint()

    answer = client.delete(f"/api/v1/token/{minted['id']}")

    assert (answer.status_code, answer.json) == (200, {})
    assert [token["id"] for token in client.get("/api/v1/tokens").json] == [1]


def test_a_token_is_revoked_once(client, mint):
    minted = mint()
    client.delete(f"/api/v1/token/{minted['id']}")

    answer = client.delete(f"/api/v1/token/{minted['id']}")

    assert answer.status_code == 404
    assert answer.json["detail"] == f"there is no live token {minted['id']}"


def test_revoking_all_tokens_spares_the_callers(app, client, mint):
    others = [bearing(app, mint()["token"]) for _ in range(3)]

    assert client.delete("/api/v1/tokens/all").json == {}

    assert {other.get("/api/v1/version").status_code for other in others} == {401}
    assert [token["current"] for token in client.get("/api/v1/tokens").json] == [True]


def test_tokens_are_listed_a_page_at_a_time(client, mint):
    for _ in range(2):
        mint()

    first = client.get("/api/v1/tokens?limit=2")
    second = client.get("/api/v1/tokens?limit=2&after=2")

    assert [token["id"] for token in first.json + second.json] == [1, 2, 3]
    assert first.headers["Link"] == '</api/v1/tokens?limit=2&after=2>; rel="next"'


def test_the_next_page_is_there_though_the_token_before_it_was_revoked(client, mint):
    for _ in range(2):
        mint()
    url = client.get("/api/v1/tokens?limit=2").headers["Link"].split(">")[0].lstrip("<")

    client.delete("/api/v1/token/2")

    assert [token["id"] for token in client.get(url).json] == [3]


# --- No token outlives the one that mints it ---


@pytest.fixture
def short(app, mint):
    """A token of an admin that lives for an hour, and a client with it."""
    token = mint(scope="admin", expires_in=3600)
    return token, bearing(app, token["token"])


def test_a_token_mints_none_that_outlives_it(client, short):
    token, minter = short

    answer = minter.post("/api/v1/tokens", json={"expires_in": 7200})

    assert answer.status_code == 403
    assert answer.json["type"] == "urn:pkgd:problem:long-life"
    assert f"which expires at {token['expires_at']}" in answer.json["detail"]
    assert len(client.get("/api/v1/tokens").json) == 2


@pytest.mark.parametrize("body", [{}, {"expires_in": None}])
def test_by_default_a_token_lives_as_long_as_the_one_that_mints_it_at_most(short, body):
    token, minter = short

    assert minter.post("/api/v1/tokens", json=body).json["expires_at"] == token["expires_at"]


def test_a_token_lives_for_token_days_where_its_minter_lives_longer(make_app, client):
    minter = bearing(make_app(TOKEN_DAYS=1), client.secret)

    minted = minter.post("/api/v1/tokens").json

    assert minted["expires_at"] < client.get("/api/v1/tokens").json[0]["expires_at"]


def test_a_token_may_mint_one_of_a_shorter_life(short):
    token, minter = short

    answer = minter.post("/api/v1/tokens", json={"expires_in": 1800})

    assert answer.status_code == 201
    assert answer.json["expires_at"] < token["expires_at"]


# --- The last admin's token ---


def test_the_last_live_token_of_an_admin_is_revoked_only_with_force(app, client, mint):
    mint(scope="operate")
    mint(scope="admin", expires_in=60)
    with app.app_context():
        db.session.execute(update(Token).where(Token.id == 3).values(expires_at=soon(-1)))
        db.session.commit()

    refused = client.delete("/api/v1/token/1")
    assert (refused.status_code, refused.json["type"]) == (409, "urn:pkgd:problem:last-admin")
    assert [token["id"] for token in client.get("/api/v1/tokens").json] == [1, 2]

    assert client.delete("/api/v1/token/1?force=true").status_code == 200
    assert client.get("/api/v1/version").status_code == 401


def test_a_token_of_an_admin_is_revoked_while_there_is_another(app, client, mint):
    other = bearing(app, mint()["token"])

    assert client.delete("/api/v1/token/1").status_code == 200

    assert [token["id"] for token in other.get("/api/v1/tokens").json] == [2]


@pytest.mark.parametrize("force", ["1", "yes", ""])
def test_force_is_true_or_false(client, force):
    assert client.delete(f"/api/v1/token/1?force={force}").status_code == 422


@POSTGRESQL
@pytest.mark.parametrize("path", ["token/{}", "tokens/all"])
def test_two_admins_that_revoke_each_other_at_once_leave_one(app, client, mint, race, path):
    other = bearing(app, mint()["token"])
    mint(scope="read")
    for one in (client, other):
        one.get("/api/v1/version")  # so that no later request writes that the token is used

    first, second = race(
        lambda: client.delete(f"/api/v1/{path.format(2)}").status_code,
        lambda: other.delete(f"/api/v1/{path.format(1)}").status_code,
    )

    assert (first, second) == (200, 409)
    assert [token["id"] for token in client.get("/api/v1/tokens").json][:1] == [1]
