"""The service's log: for people or in JSON, with the ids of request and task."""

import json
import logging
import logging.config
import re

import pytest
from service import Service
from support import SQLITE, bearing, until

import log_config
from auth import FAILURES


@pytest.fixture
def log_line(capsys):
    """Return a function that logs with a configuration and returns the line."""

    def log_line(*, production, logger="pkgd.test", said="so", **more):
        logging.config.dictConfig(log_config.config(production=production))
        logging.getLogger(logger).warning("it is %s", said, **more)
        return capsys.readouterr().err

    yield log_line
    logging.getLogger().handlers.clear()


def test_production_logs_one_json_object_a_line(log_line):
    line = log_line(production=True)

    assert line.count("\n") == 1
    event = json.loads(line)
    assert (event["level"], event["logger"], event["message"]) == (
        "WARNING",
        "pkgd.test",
        "it is so",
    )
    assert event["time"].endswith("Z")


def test_development_logs_for_people(log_line):
    assert log_line(production=False).endswith("WARNING pkgd.test it is so\n")


HOSTILE = "/a\n2026-11-26 ERROR forged\r\x1b[31m\x7f\x9b31m\u202e"


@pytest.mark.parametrize("logger", ["pkgd.test", "gunicorn.error", "werkzeug"])
@pytest.mark.parametrize("production", [False, True])
def test_a_line_holds_no_control_characters(log_line, production, logger):
    line = log_line(production=production, logger=logger, said=HOSTILE)

    assert line.removesuffix("\n").isprintable()
    assert "31m" in line
    assert "\\u202e" in line


@pytest.mark.parametrize("production", [False, True])
def test_a_traceback_can_not_forge_a_line(log_line, production):
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        lines = log_line(production=production, exc_info=True)

    assert "ValueError: /a" in lines
    assert not [line for line in lines.splitlines() if line.startswith("2026-11-26 ERROR")]
    assert "".join(lines.split("\n")).isprintable()


@SQLITE
def test_a_path_can_not_forge_a_line(settings):
    with Service(settings | {"WEB_PROCESSES": 1}, measured=False) as service:
        service.init_db()
        service.start()
        service.session.post(f"{service.url}/x%0A2026-11-26%20ERROR%20forged%1B%5B31m%C2%9B%7F")
        until(lambda: "forged" in service.said())

    (line,) = [line for line in service.said().splitlines() if "forged" in line]
    assert "POST /x\\n2026-11-26 ERROR forged\\x1b[31m\\x9b\\x7f 401" in line


@SQLITE
def test_changes_and_errors_are_logged_and_successful_reads_are_not(client, caplog):
    client.get("/api/v1/packages")
    client.post("/api/v1/packages", json={"name": "hello", "version": "1.0.0"})
    client.get("/nope")

    lines = [record.getMessage() for record in caplog.records if record.name == "pkgd.requests"]
    assert [re.sub(r" [0-9.]+ ms", "", line) for line in lines] == [
        "POST /api/v1/packages 201, hello 1.0.0, token 1",
        "GET /nope 404, token 1",
    ]


@SQLITE
def test_a_change_of_a_package_names_it_and_the_token(app, mint, downloaded, caplog):
    package_id = downloaded()
    robot = bearing(app, mint(name="robot")["token"])

    for change in ("activate", "deactivate"):
        assert robot.post(f"/api/v1/package/{package_id}/{change}").status_code == 200
        said = caplog.records[-1]
        assert said.getMessage().endswith(" ms, hello 2.12.1, token 2 (robot)")
        assert (said.package, said.version, said.token_name) == ("hello", "2.12.1", "robot")


@pytest.fixture
def refused(app, caplog):
    """Return a function that sends a request, with a token or none, and returns its log lines."""

    def refused(secret=None, method="GET"):
        caplog.clear()
        client = bearing(app, secret) if secret else app.test_client()
        client.open("/api/v1/packages", method=method)
        lines = [record for record in caplog.records if record.name == "pkgd.requests"]
        return [(line.levelname, re.sub(r" [0-9.]+ ms", "", line.getMessage())) for line in lines]

    return refused


@SQLITE
def test_a_token_that_is_refused_is_a_warning_with_its_id_and_name(refused, mint, expire):
    expired, reader = mint(name="ci"), mint(scope="read")
    expire(expired["id"])

    request = "/api/v1/packages"
    assert refused(expired["token"]) == [
        ("WARNING", f"GET {request} 401, token 2 (ci), refused: expired")
    ]
    assert refused(reader["token"], "POST") == [
        ("WARNING", f"POST {request} 403, token 3, refused: scope")
    ]
    assert refused("pkgd_guess") == [("WARNING", f"GET {request} 401, refused: unknown")]


@SQLITE
def test_a_request_without_a_token_is_no_warning(refused):
    assert refused() == [("INFO", "GET /api/v1/packages 401, refused: missing")]


@SQLITE
def test_of_a_flood_of_bad_tokens_few_lines_are_logged(refused):
    lines = [line for _ in range(FAILURES.amount + 20) for line in refused("pkgd_guess")]

    assert len(lines) == FAILURES.amount + 1
    assert lines[-1] == ("WARNING", "GET /api/v1/packages 429, refused: throttled")


@SQLITE
def test_a_failed_build_is_a_warning_and_a_good_one_is_none(schedule, pool, caplog):
    schedule()
    schedule("nosuch", "1.0.0")

    while pool.run_one():
        pass

    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [(one.getMessage(), one.package, one.version) for one in warnings] == [
        ("nosuch 1.0.0: failed: name_unknown", "nosuch", "1.0.0")
    ]


@SQLITE
def test_the_log_lines_of_a_request_and_of_its_task_have_their_ids(settings):
    settings |= {"APP_ENV": "production", "WEB_PROCESSES": 1}
    with Service(settings, measured=False) as service:
        service.init_db()
        secret = service.command("create-token").stdout.strip()
        service.start()
        service.session.headers["Authorization"] = f"Token {secret}"
        package_id = service.register("nosuch", "1.0.0")
        answer = service.request(
            "POST", f"package/{package_id}/download", headers={"X-Request-ID": "abc-1"}
        )
        task = service.ended(answer.json()["task_id"])
        until(lambda: "abc-1" in service.said())
        lines = [json.loads(line) for line in service.said().splitlines()]

    assert (answer.headers["X-Request-ID"], task["request_id"]) == ("abc-1", "abc-1")
    (event,) = [line for line in lines if line.get("request_id") == "abc-1"]
    assert (event["method"], event["status"], event["token"]) == ("POST", 202, 1)
    (failed,) = [line for line in lines if line["level"] == "WARNING"]
    assert (failed["task_id"], failed["package"]) == (task["id"], "nosuch")
    assert secret not in service.said()
