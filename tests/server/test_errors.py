"""Every refusal is a problem document, and changes nothing."""

import pytest
from support import SQLITE, bearing


@SQLITE
@pytest.mark.parametrize(
    ("method", "path", "status", "title"),
    [
        ("GET", "/nope", 404, "Not Found"),
        ("GET", "/api/v1/package/one", 404, "Not Found"),
        ("GET", "/api/v1/package/-1", 404, "Not Found"),
        ("GET", "/api/v1/package/99999999999999999999", 404, "Not Found"),
        ("GET", "/api/v1/task/1", 404, "Not Found"),
        ("GET", "/api/v1/task/00000000-0000-0000-0000-000000000000", 404, "Not Found"),
        ("PUT", "/api/v1/packages", 405, "Method Not Allowed"),
        ("DELETE", "/hello", 405, "Method Not Allowed"),
    ],
)
def test_a_wrong_address_is_a_problem(client, method, path, status, title):
    answer = client.open(path, method=method)

    assert answer.status_code == status
    assert answer.content_type == "application/problem+json"
    assert (answer.json["status"], answer.json["title"]) == (status, title)
    assert answer.json["instance"] == answer.headers["X-Request-ID"]


@pytest.fixture
def standby(make_app, database_url):
    """An application on the same database, which takes no writes, as after a failover."""
    file = database_url.removeprefix("sqlite:///")
    if file != database_url:
        return make_app(DATABASE_URL=f"sqlite:///file:{file}?mode=ro&uri=true")
    return make_app(DATABASE_URL=f"{database_url}&options=-c%20default_transaction_read_only%3Don")


def test_a_wrong_method_says_which_are_right(client):
    answer = client.put("/api/v1/packages")

    assert set(answer.headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS", "POST"}


def test_an_unknown_address_tells_a_stranger_nothing(anonymous):
    assert anonymous.get("/nope").status_code == 401


@SQLITE
@pytest.mark.parametrize("body", [b"{", b"\xff\xfe", b'{"name": "hello"', b"nothing"])
def test_broken_json_is_a_problem(client, body):
    answer = client.post("/api/v1/packages", data=body, content_type="application/json")

    assert answer.status_code == 400
    assert answer.json["errors"] == {"body": ["Invalid JSON body."]}


@SQLITE
def test_a_body_that_is_not_json_is_refused(client):
    answer = client.post("/api/v1/tokens", data={"scope": "read"})

    assert answer.status_code == 415
    assert answer.json["detail"].startswith("the body must be JSON")
    assert len(client.get("/api/v1/tokens").json) == 1


@SQLITE
def test_a_body_of_unannounced_length_is_refused(client):
    answer = client.post("/api/v1/packages", headers={"Transfer-Encoding": "chunked"})

    assert (answer.status_code, answer.json["title"]) == (411, "Length Required")


@SQLITE
@pytest.mark.parametrize("size", [65_537, 1_000_000])
def test_a_body_over_the_limit_is_refused(client, size):
    body = b'"' + b"a" * size + b'"'

    answer = client.post("/api/v1/packages", data=body, content_type="application/json")

    assert answer.status_code == 413
    assert answer.content_type == "application/problem+json"


@SQLITE
@pytest.mark.parametrize("given", ["abc-123", "X_9"])
def test_a_clients_request_id_is_kept(anonymous, given):
    answer = anonymous.get("/nope", headers={"X-Request-ID": given})

    assert answer.headers["X-Request-ID"] == answer.json["instance"] == given


@SQLITE
@pytest.mark.parametrize("given", ["a b", "x" * 65, "a\tb", "é", "<script>"])
def test_a_request_id_that_is_not_plain_is_replaced(anonymous, given):
    answer = anonymous.get("/hello", headers={"X-Request-ID": given.encode().decode("latin-1")})

    assert len(answer.headers["X-Request-ID"]) == 36


def test_a_database_that_is_away_is_a_503_that_says_when_to_come_back(tmp_path, create_app):
    url = "postgresql://nobody@/nothing?host=/nonexistent"
    app = create_app({"DATA_DIR": tmp_path, "DATABASE_URL": url})

    answer = app.test_client().get("/api/v1/packages", headers={"Authorization": "Token x"})

    assert answer.status_code == 503
    assert answer.content_type == "application/problem+json"
    assert answer.json["type"] == "urn:pkgd:problem:database-unavailable"
    assert answer.headers["Retry-After"] == "2"


def test_a_reader_is_answered_though_its_use_cannot_be_noted(client, standby, caplog):
    answer = bearing(standby, client.secret).get("/api/v1/packages")

    assert (answer.status_code, answer.json) == (200, [])
    assert "the use of token 1 was not noted" in caplog.text


def test_a_change_to_a_database_that_takes_no_writes_is_a_503(client, standby):
    package = {"name": "hello", "version": "2.12.1"}

    answer = bearing(standby, client.secret).post("/api/v1/packages", json=package)

    assert answer.status_code == 503
    assert answer.json["type"] == "urn:pkgd:problem:database-unavailable"
    assert client.get("/api/v1/packages").json == []
