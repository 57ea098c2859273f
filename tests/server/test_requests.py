"""Requests with any text in them: each is a 4xx with a problem document, and changes nothing."""

from uuid import UUID

import pytest
from support import POSTGRESQL, SQLITE

import registration
from profiles import activation

DEEP = 30_000
INVALID_JSON = {"body": ["Invalid JSON body."]}


def send(client, method, path, body):
    """Send bytes as JSON."""
    return client.open(path, method=method, data=body, content_type="application/json")


@pytest.fixture
def http_client(client):
    """A client for which the application answers an unforeseen error by 500, as in production."""
    client.application.config["PROPAGATE_EXCEPTIONS"] = False
    return client


@SQLITE
@pytest.mark.parametrize(
    "body",
    [
        b"[" * DEEP,
        b"[" * DEEP + b"]" * DEEP,
        b'{"a":' * (DEEP // 3),
        b'{"a":' * (DEEP // 3) + b"1" + b"}" * (DEEP // 3),
        b'{"expires_in": ' + b"9" * 5000 + b"}",
        b'{"expires_in": -' + b"9" * 5000 + b"}",
        b'"\xed\xa0\x80"',
        b'{"name": "\xff"}',
        '{"name": "robot"}'.encode("utf-16"),
        b'{"expires_in": NaN}',
        b"{",
        b" ",
    ],
    ids=range(12),
)
@pytest.mark.parametrize("path", ["tokens", "package/1/download"])
def test_a_body_that_can_not_be_read_is_a_400(http_client, register, path, body):
    register()

    answer = send(http_client, "POST", f"/api/v1/{path}", body)

    assert (answer.status_code, answer.json["errors"]) == (400, INVALID_JSON)
    assert answer.content_type == "application/problem+json"
    assert http_client.get("/api/v1/package/1").json["task"] is None


@SQLITE
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/v1/packages"),
        ("POST", "/api/v1/package/1/activate"),
        ("POST", "/api/v1/generation/1/activate"),
        ("DELETE", "/api/v1/package/1"),
        ("DELETE", "/api/v1/tokens/all"),
        ("GET", "/api/v1/packages"),
        ("GET", "/hello"),
    ],
)
def test_every_route_refuses_a_malformed_body(http_client, method, path):
    answer = send(http_client, method, path, b"{")

    assert (answer.status_code, answer.json["errors"]) == (400, INVALID_JSON)


@SQLITE
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/v1/package/1/download"),
        ("POST", "/api/v1/package/1/activate"),
        ("POST", "/api/v1/package/1/deactivate"),
        ("DELETE", "/api/v1/package/1"),
        ("DELETE", "/api/v1/token/1"),
        ("POST", "/api/v1/generations/rollback"),
    ],
)
@pytest.mark.parametrize(
    ("body", "errors"),
    [
        (b'{"dry_run": true}', {"dry_run": ["Unknown field."]}),
        (b"[1]", {"body": ["Invalid input type."]}),
        (b"null", {"body": ["Invalid input type."]}),
    ],
)
def test_a_field_for_a_route_that_takes_none_is_refused(
    http_client, register, method, path, body, errors
):
    register()

    answer = send(http_client, method, path, body)

    assert (answer.status_code, answer.json["errors"]) == (422, errors)
    assert http_client.get("/api/v1/package/1").json["status"] == "created"


@SQLITE
def test_an_empty_object_is_no_body(client, register):
    answer = send(client, "POST", f"/api/v1/package/{register()}/download", b"{}")

    assert answer.status_code == 202


@SQLITE
@pytest.mark.parametrize(
    "header",
    [
        "Basic \xff",
        "Basic \xe9\xe9\xe9",
        "Basic !!!",
        "Basic bm9jb2xvbg==",
        "Digest username*=nope''%ff",
        "Token \xff",
        "Bearer a=b, c",
        "Bearer",
        "\xff",
    ],
)
def test_authorization_in_any_bytes_is_a_401(http_client, header):
    answer = http_client.get("/api/v1/packages", environ_overrides={"HTTP_AUTHORIZATION": header})

    assert (answer.status_code, answer.json["title"]) == (401, "Unauthorized")


@pytest.mark.parametrize("name", ["%00", "a%00b", "%1b%5b31m", "a%0ab", "%c2%9b", "%e2%80%ae"])
def test_a_control_character_in_a_query_is_refused_by_both_databases(http_client, name):
    answer = http_client.get(f"/api/v1/packages?name={name}")

    assert answer.status_code == 422
    assert answer.json["errors"] == {"name": ["Must hold no control characters."]}


@pytest.mark.parametrize("path", ["%00", "catalog/%00", "catalog/a%00b", "package/%00", "task/%00"])
def test_a_nul_in_a_path_is_a_404(http_client, path):
    assert http_client.get(f"/api/v1/{path}").status_code == 404


@SQLITE
@pytest.mark.parametrize("one", ["%D9%A1", "%EF%BC%91", "%E0%A5%A7"])
def test_an_id_in_a_path_is_ascii_digits(http_client, mint, activated, one):
    activated()
    mint()

    answers = [
        http_client.get(f"/api/v1/package/{one}"),
        http_client.delete(f"/api/v1/package/{one}"),
        http_client.post(f"/api/v1/generation/{one}/activate"),
        http_client.delete(f"/api/v1/token/{one}"),
    ]

    assert {answer.status_code for answer in answers} == {404}
    assert len(http_client.get("/api/v1/tokens").json) == 2


# --- Two changes at the same moment ---


@pytest.fixture
def between(monkeypatch):
    """Return a function that has a change happen just before the profile is locked."""

    def between(change):
        lock = activation.locked

        def changed_first(*arguments):
            monkeypatch.setattr(activation, "locked", lock)
            change()
            return lock(*arguments)

        monkeypatch.setattr(activation, "locked", changed_first)

    return between


@SQLITE
@pytest.mark.parametrize("noun", ["package", "webhook", "token"])
def test_a_number_beyond_all_ids_is_a_404_for_each_method(http_client, noun):
    path = f"/api/v1/{noun}/{2**31}"

    assert {http_client.open(path, method=one).status_code for one in ("GET", "DELETE")} == {404}


@pytest.mark.parametrize("action", ["activate", "deactivate"])
def test_a_package_that_is_forgotten_meanwhile_is_a_404(http_client, downloaded, between, action):
    path = f"/api/v1/package/{downloaded()}"
    between(lambda: http_client.delete(path))

    assert http_client.post(f"{path}/{action}").status_code == 404


@pytest.fixture
def keep_one_generation(own_store, settings):
    """Have `flask gc` keep only the active generation, in a store of the test's own."""
    settings["KEEP_GENERATIONS"] = 1


@pytest.mark.usefixtures("keep_one_generation")
def test_a_generation_that_is_collected_right_after_a_switch_to_it_is_a_404(
    http_client, app, activated, monkeypatch
):
    package_id = activated()
    switch = activation.switch

    def collected_after(profile, number, **how):
        switch(profile, number, **how)
        http_client.post(f"/api/v1/package/{package_id}/deactivate")
        collected = app.test_cli_runner().invoke(args=["gc"])
        assert "generations removed: 1" in collected.output

    monkeypatch.setattr(activation, "switch", collected_after)

    assert http_client.post("/api/v1/generation/1/activate").status_code == 404


@POSTGRESQL
def test_a_package_that_is_registered_while_a_rollback_takes_it_up_again_is_no_conflict(
    client, activated, race
):
    first = activated("app", "1.0.0")
    activated("hello", "2.12.1")
    for action in ("1/activate", "2/deactivate", "1/deactivate"):
        client.post(f"/api/v1/package/{action}")
    client.delete(f"/api/v1/package/{first}")

    package, number = race(
        lambda: registration.register("app", "1.0.0"),
        lambda: activation.rollback(activation.find("default"), by=None),
    )

    held = client.get("/api/v1/generations").json
    assert [one["active"] for one in held if one["number"] == number] == [True]
    assert client.get(f"/api/v1/package/{package.id}").json["status"] == "activated"


@pytest.mark.parametrize("name", ["n" * 101, "", "a\x1bb", "\udcff"])
def test_create_token_refuses_an_invalid_name_in_one_line(app, name):
    result = app.test_cli_runner().invoke(args=["create-token", "--name", name])

    assert result.exit_code == 2
    assert "Invalid value for '--name': " in result.output
    assert "Traceback" not in result.output


# --- Query parameters ---


@SQLITE
@pytest.mark.parametrize("rule", ["/api/v1/packages", "/api/v1/tokens", "/api/v1/version"])
def test_an_unknown_query_parameter_is_refused(http_client, rule):
    answer = http_client.get(f"{rule}?colour=red")

    assert (answer.status_code, answer.json["errors"]) == (422, {"colour": ["Unknown field."]})


@SQLITE
def test_every_route_of_the_api_refuses_an_unknown_query_parameter(http_client):
    values = {"package_id": 1, "token_id": 1, "number": 1, "task_id": UUID(int=0), "name": "hello"}
    values |= {"profile_name": "default", "machine_name": "web-1", "webhook_id": 1}
    adapter = http_client.application.url_map.bind("localhost")
    answers = {
        (method, rule.rule): http_client.open(
            adapter.build(rule.endpoint, values, append_unknown=False) + "?colour=red",
            method=method,
            json={} if method == "POST" else None,
        ).status_code
        for rule in http_client.application.url_map.iter_rules()
        for method in rule.methods - {"OPTIONS"}
        if rule.rule.startswith("/api/")
    }

    assert len(answers) > 25
    assert {route for route, status in answers.items() if status != 422} == set()


@SQLITE
@pytest.mark.parametrize("path", ["/hello", "/livez", "/docs", "/openapi.json", "/metrics"])
def test_outside_of_the_api_an_unknown_query_parameter_is_ignored(http_client, path):
    assert http_client.get(f"{path}?colour=red").status_code == 200


@SQLITE
def test_an_unknown_path_with_a_query_is_a_404_and_another_method_a_405(http_client):
    assert http_client.get("/api/v1/nope?colour=red").status_code == 404
    assert http_client.put("/api/v1/packages?colour=red").status_code == 405


# --- Details ---


def test_a_body_that_is_too_large_is_answered_with_the_limit(http_client):
    answer = send(http_client, "POST", "/api/v1/packages", b"x" * 65_537)

    assert answer.status_code == 413
    assert answer.json["detail"] == "a body may have 65536 bytes at most"


def test_a_401_says_how_to_get_a_token(anonymous):
    answer = anonymous.get("/api/v1/packages")

    assert "flask create-token on the host" in answer.json["detail"]


@SQLITE
def test_a_401_names_the_pages_of_the_api_and_not_which_urls_there_are(anonymous):
    paths = ("/nope", "/api/v1/nope", "/api/v1/packages", "/api/v1/package/1", "/metrics")

    (detail,) = {anonymous.get(path).json["detail"] for path in paths}

    assert "/docs shows the API" in detail


@SQLITE
@pytest.mark.parametrize(
    "date",
    [
        "Fri, 31 Dec 1999 23:59:59 GMT",
        f"Fri, 31 Dec {10**20} 23:59:59 GMT",
        f"1 Jan 2020 00:00 +{10**16}",
    ],
)
def test_a_date_is_passed_over_even_one_of_too_many_digits(http_client, date):
    sent = {"If-Modified-Since": date, "If-Range": date, "Range": "bytes=0-1"}

    answer = http_client.get("/docs", headers=sent)

    assert answer.status_code == 200
    assert "swagger" in answer.text
