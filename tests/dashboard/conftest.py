"""Fixtures of the dashboard's tests: browsers that are signed in, and what their pages show."""

import pytest
from selectolax.lexbor import LexborHTMLParser
from sqlalchemy import select
from support import bearing

import activation
from models import db, utcnow
from profile_models import Change, Generation, Reason


@pytest.fixture
def client(app):
    """A client of the API with an admin's token, which is also in `client.secret`."""
    return bearing(app, app.test_client().post("/api/v1/tokens").json["token"])


@pytest.fixture
def mint(client):
    """Return a function that mints a token and returns the whole answer."""

    def mint(**fields):
        answer = client.post("/api/v1/tokens", json=fields)
        assert answer.status_code == 201, answer.json
        return answer.json

    return mint


@pytest.fixture
def sign_in(app):
    """Return a function that returns a browser that has signed in with a token."""

    def sign_in(secret):
        browser = app.test_client()
        browser.environ_base["HTTP_ORIGIN"] = "http://localhost"
        answer = browser.post("/sign-in", data={"token": secret})
        assert answer.status_code == 303, answer.text
        return browser

    return sign_in


@pytest.fixture
def admin(client, sign_in):
    """A browser that is signed in with the first token, an admin's."""
    return sign_in(client.secret)


@pytest.fixture
def browser(mint, sign_in):
    """Return a function that returns a browser that is signed in with a new token of a scope."""
    return lambda scope: sign_in(mint(scope=scope)["token"])


@pytest.fixture
def see():
    """Return a function that loads a page and returns it parsed, as a browser does that."""

    def see(browser, path, status=200):
        answer = browser.get(path)
        assert answer.status_code == status, answer.text
        return LexborHTMLParser(answer.text)

    return see


# --- Machines ---


@pytest.fixture
def generation(app):
    """Return a function that records that a profile has become a generation, and published it."""

    def generation(number, profile="default"):
        with app.app_context():
            owner, _ = activation.add(profile)
            key = {"profile_id": owner.id, "number": number}
            row = db.session.scalar(select(Generation).filter_by(**key))
            if row is None:
                row = Generation(**key, store_path=path_of(number), packages=[])
                db.session.add(row)
            row.published_at = utcnow()
            db.session.flush()
            db.session.add(Change(generation_id=row.id, reason=Reason.APPLY))
            db.session.commit()

    return generation


@pytest.fixture
def report(client):
    """Return a function that has a machine report which generation it holds."""

    def report(name="web-1", number=1, **more):
        body = {"profile": "default", "generation": number, "store_path": path_of(number), **more}
        answer = client.put(f"/api/v1/machine/{name}", json={"state": "current", **body})
        assert answer.status_code == 200, answer.json

    return report


def path_of(number):
    return f"/nix/store/{number:0>32}-profile"
