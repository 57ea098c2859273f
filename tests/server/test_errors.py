"""Errors: each is a problem document, says what to do, and leaves everything as it was."""

import json

import pytest
from sqlalchemy import text
from support import POSTGRESQL, SQLITE, bearing, no_descriptors

from models import db

DATABASE_UNAVAILABLE = "urn:pkgd:problem:database-unavailable"
PACKAGE = {"name": "hello", "version": "2.12.1"}


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
def test_an_unknown_url_or_method_is_a_problem(client, method, path, status, title):
    answer = client.open(path, method=method)

    assert answer.status_code == status
    assert answer.content_type == "application/problem+json"
    assert (answer.json["status"], answer.json["title"]) == (status, title)
    assert answer.json["instance"] == answer.headers["X-Request-ID"]


@SQLITE
@pytest.mark.parametrize("path", ["/nope", "/hello", "/api/v1/packages?colour=red"])
def test_every_answer_is_one_line_of_compact_json(client, path):
    text = client.get(path).get_data(as_text=True)

    assert text == json.dumps(json.loads(text), separators=(",", ":")) + "\n"


@SQLITE
def test_a_wrong_method_is_answered_with_the_allowed_ones(client):
    answer = client.put("/api/v1/packages")

    assert set(answer.headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS", "POST"}


@SQLITE
@pytest.mark.parametrize("body", [b"{", b"\xff\xfe", b'{"name": "hello"', b"nothing"])
def test_invalid_json_is_a_problem(client, body):
    answer = client.post("/api/v1/packages", data=body, content_type="application/json")

    assert answer.status_code == 400
    assert answer.json["errors"] == {"body": ["Invalid JSON body."]}
    assert answer.json["detail"] == "body: Invalid JSON body."


@SQLITE
def test_the_detail_names_each_invalid_field(client):
    answer = client.get("/api/v1/packages?limit=0&colour=red")

    assert answer.status_code == 422
    assert answer.json["type"] == "about:blank"
    assert answer.json["detail"].startswith("limit: Must be greater than or equal to 1")
    assert answer.json["detail"].endswith("; colour: Unknown field.")


# --- The database ---


@pytest.fixture
def read_only(make_app, database_url):
    """An application on the same database, which accepts no writes, as after a failover."""
    file = database_url.removeprefix("sqlite:///")
    if file != database_url:
        return make_app(DATABASE_URL=f"sqlite:///file:{file}?mode=ro&uri=true")
    return make_app(DATABASE_URL=f"{database_url}&options=-c%20default_transaction_read_only%3Don")


def test_while_the_database_is_down_a_request_is_a_503_with_retry_after(tmp_path, create_app):
    url = "postgresql://nobody@/nothing?host=/nonexistent"
    app = create_app({"DATA_DIR": tmp_path, "DATABASE_URL": url})

    answer = app.test_client().get("/api/v1/packages", headers={"Authorization": "Token x"})

    assert (answer.status_code, answer.json["type"]) == (503, DATABASE_UNAVAILABLE)
    assert answer.content_type == "application/problem+json"
    assert answer.headers["Retry-After"] == "2"


def test_a_table_that_another_version_has_not_made_is_a_503(postgres, tmp_path, create_app):
    url = postgres.url("postgres")  # which is there, and has no tables
    app = create_app({"DATA_DIR": tmp_path, "DATABASE_URL": url, "METRICS_PUBLIC": "true"})

    answer = bearing(app, "any").get("/api/v1/packages")

    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
    assert answer.json["type"] == DATABASE_UNAVAILABLE
    assert answer.json["detail"].startswith("the schema is None, not ")
    assert app.test_client().get("/metrics").status_code == 200


@POSTGRESQL
def test_a_wrong_statement_is_a_fault_of_the_server(app, client, make_app):
    other = make_app()
    other.add_url_rule("/wrong", view_func=lambda: db.session.execute(text("SELECT nothing")))

    assert bearing(other, client.secret).get("/wrong").status_code == 500


def test_a_read_is_answered_while_the_use_of_its_token_can_not_be_recorded(
    client, read_only, caplog
):
    answer = bearing(read_only, client.secret).get("/api/v1/packages")

    assert (answer.status_code, answer.json) == (200, [])
    assert "the use of token 1 was not noted" in caplog.text


def test_a_write_to_a_read_only_database_is_a_503(client, read_only):
    answer = bearing(read_only, client.secret).post("/api/v1/packages", json=PACKAGE)

    assert (answer.status_code, answer.json["type"]) == (503, DATABASE_UNAVAILABLE)
    assert client.get("/api/v1/packages").json == []


@pytest.mark.parametrize("name", ["%00", "a%00b", "%0A"])
def test_a_control_character_in_a_query_is_refused(client, name):
    answer = client.get(f"/api/v1/packages?name={name}")

    assert (answer.status_code, list(answer.json["errors"])) == (422, ["name"])


@SQLITE
@pytest.mark.parametrize("path", ["package/%D9%A1", "generation/%D9%A1/activate"])
def test_digits_of_other_scripts_are_no_number_in_a_path(client, activated, path):
    activated()

    answer = client.open(f"/api/v1/{path}", method="POST" if "activate" in path else "GET")

    assert answer.status_code == 404


@SQLITE
def test_a_request_for_which_the_host_has_no_descriptors_is_answered_503(client):
    client.get("/api/v1/tokens")

    with no_descriptors():
        answer = client.post("/api/v1/generations/rollback")

    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert answer.json["detail"] == "the host is at a limit: Too many open files; try again"


@SQLITE
@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("changes.lock", "generations/rollback"),
        ("changes.lock", "package/1/deactivate"),
        ("tmp", "package/1/activate"),
        ("tmp", "package/1/activate?dry_run=true"),
    ],
)
def test_a_file_that_can_not_be_used_is_named(app, client, downloaded, name, url, caplog):
    downloaded()
    path = app.config["DATA_DIR"] / name
    if path.is_dir():
        path.rename(path.with_name("away"))
        path.touch()
    else:
        path.mkdir()

    answer = client.post(f"/api/v1/{url}")

    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert answer.json["type"] == "urn:pkgd:problem:file-unusable"
    assert f"'{path}'" in answer.json["detail"]
    assert f"file: {answer.json['detail']}" in caplog.text
