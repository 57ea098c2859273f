"""What holds for every request: its id, its body, the headers of its answer."""

from uuid import UUID

import pytest
from flask import request_finished, session
from support import SQLITE, bearing

pytestmark = SQLITE

PLAIN = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


@pytest.mark.parametrize("given", ["abc-123", "X_9", "x" * 64])
def test_a_clients_request_id_is_kept(anonymous, given):
    answer = anonymous.get("/nope", headers={"X-Request-ID": given})

    assert answer.headers["X-Request-ID"] == answer.json["instance"] == given


@pytest.mark.parametrize("given", ["", "a b", "x" * 65, "a\tb", "é", "<script>"])
def test_a_request_id_with_other_characters_or_too_many_is_replaced(anonymous, given):
    answer = anonymous.get("/hello", headers={"X-Request-ID": given.encode().decode("latin-1")})

    assert UUID(answer.headers["X-Request-ID"]).version == 4


def test_each_request_without_an_id_gets_another_one(anonymous):
    ids = {anonymous.get("/hello").headers["X-Request-ID"] for _ in range(20)}

    assert len(ids) == 20
    assert {str(UUID(one)) for one in ids} == ids


def test_a_body_that_is_not_json_is_refused(client):
    answer = client.post("/api/v1/tokens", data={"scope": "read"})

    assert answer.status_code == 415
    assert answer.json["detail"].startswith("the body must be JSON")
    assert len(client.get("/api/v1/tokens").json) == 1


def test_a_body_without_an_announced_length_is_refused(client):
    answer = client.post("/api/v1/packages", headers={"Transfer-Encoding": "chunked"})

    assert (answer.status_code, answer.json["title"]) == (411, "Length Required")


@pytest.mark.parametrize("size", [65_537, 1_000_000])
def test_a_body_over_the_limit_is_refused(client, size):
    body = b'"' + b"a" * size + b'"'

    answer = client.post("/api/v1/packages", data=body, content_type="application/json")

    assert answer.status_code == 413
    assert answer.content_type == "application/problem+json"


@pytest.mark.parametrize(
    "path",
    ["/hello", "/nope", "/metrics"]
    + [f"/api/v1/{path}" for path in ("packages", "package/9", "tasks", "catalogs", "profiles")]
    + [f"/api/v1/{path}" for path in ("profile/default", "generations", "machines", "tokens")],
)
def test_browsers_may_neither_store_frame_nor_interpret_an_answer(client, path):
    headers = client.get(path).headers

    assert {name: headers.getlist(name) for name in PLAIN} == {
        name: [value] for name, value in PLAIN.items()
    }


@pytest.mark.parametrize("path", ["/hello", "/api/v1/package/1"])
def test_a_header_of_one_answer_does_not_get_into_the_next(app, client, register, path):
    register()

    def add_cookie(_app, response):
        response.headers["Set-Cookie"] = "of=one"

    with request_finished.connected_to(add_cookie, app):
        assert client.get(path).status_code == 200

    assert "Set-Cookie" not in client.get(path).headers


def test_no_session_can_be_written(app):
    with app.test_request_context(), pytest.raises(RuntimeError, match="session is unavailable"):
        session["user"] = 1


@pytest.fixture
def proxied(make_app, request):
    """A client of an application behind so many proxies."""
    return bearing(make_app(TRUSTED_PROXIES=request.param), "pkgd_guess")


@pytest.mark.parametrize(
    ("proxied", "address"), [(0, "127.0.0.1"), (1, "192.0.2.7")], indirect=["proxied"]
)
def test_the_log_has_the_address_that_a_trusted_proxy_forwards(proxied, address, caplog):
    proxied.get("/nope", headers={"X-Forwarded-For": "192.0.2.7"})

    assert [one.address for one in caplog.records if one.name == "pkgd.requests"] == [address]
