"""The routes of tokens: the first one, minting, listing, revoking."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from support import SQLITE, bearing


def test_the_first_token_needs_none_and_is_an_admins(anonymous):
    answer = anonymous.post("/api/v1/tokens")

    assert answer.status_code == 201
    assert answer.json["scope"] == "admin"
    assert answer.json["token"].startswith("pkgd_")
    assert len(answer.json["token"]) == len("pkgd_") + 43


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
    client.delete("/api/v1/token/1")

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
