"""The greetings, which need no token, no database and no Nix."""

import pytest

from app import create_app

CHROME = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"
PLACES = {"api": "/api/v1", "docs": "/docs", "openapi": "/openapi.json", "health": "/readyz"}


@pytest.fixture
def anonymous(tmp_path):
    """A client without a token."""
    return create_app({"DATA_DIR": tmp_path}).test_client()


def test_hello_greets_without_a_token(anonymous):
    answer = anonymous.get("/hello")

    assert (answer.status_code, answer.json) == (200, {"message": "Welcome to Package API"})


@pytest.mark.parametrize(
    "accept",
    [
        *("*/*", "", "application/json", "application/*", "text/html;q=0", "text/html;q=nan"),
        *("text/html;q=0.5,application/json", "application/json,text/html", "\xff;=,;"),
    ],
)
def test_a_program_is_told_where_the_api_is(anonymous, accept):
    answer = anonymous.get("/", environ_overrides={"HTTP_ACCEPT": accept})

    assert (answer.status_code, answer.json) == (200, PLACES)
    assert answer.headers["Vary"] == "Accept"


def test_a_program_that_accepts_whatever_comes_is_told_where_the_api_is(anonymous):
    assert anonymous.get("/").json == PLACES


@pytest.mark.parametrize("accept", [CHROME, "text/html", "text/*", "text/html,*/*;q=0.1"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_browser_is_sent_to_the_dashboard(anonymous, accept, method):
    answer = anonymous.open("/", method=method, headers={"Accept": accept})

    assert (answer.status_code, answer.headers["Location"]) == (303, "/now")
    assert answer.headers["Vary"] == "Accept"


def test_the_place_of_the_api_can_be_asked_for_in_every_way(anonymous):
    assert anonymous.head("/").data == b""
    assert anonymous.options("/").allow.as_set() == {"get", "head", "options"}
    assert anonymous.post("/").status_code == 405
    assert anonymous.get("/?colour=red").status_code == 200


@pytest.mark.parametrize("place", ["docs", "openapi"])
def test_the_places_need_no_token(anonymous, place):
    assert anonymous.get(anonymous.get("/").json[place]).status_code == 200
