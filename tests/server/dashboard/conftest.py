"""Fixtures of the dashboard's tests: browsers without JavaScript, signed in or not."""

from uuid import UUID

import pytest
from jinja2 import FileSystemBytecodeCache
from selectolax.lexbor import LexborHTMLParser
from sqlalchemy import update

import build_logs
from models import Task, db

ORIGIN = {"Origin": "http://localhost"}


class Browser:
    """A client that keeps cookies, and sends forms as a page of the dashboard would."""

    def __init__(self, app):
        """Be signed in with no token."""
        self.client = app.test_client()

    def get(self, path, **more):
        """Get a page, and follow redirects."""
        return parsed(self.client.get(path, follow_redirects=True, **more))

    def post(self, path, headers=ORIGIN, **fields):
        """Send a form, and return the answer, be it a redirect."""
        return parsed(self.client.post(path, data=fields, headers=headers))

    def press(self, page, label):
        """Press the button of a page that has this label, and return the page that follows."""
        forms = [form for form in page.tree.css("form") if label in form.css_first("button").text()]
        assert forms, f"no button {label}: {page.tree.body.text()}"
        inputs = {one.attributes["name"]: one.attributes["value"] for one in forms[0].css("input")}
        answer = self.post(forms[0].attributes["action"], **inputs)
        return self.get(answer.location) if answer.status_code == 303 else answer

    def sign_in(self, secret):
        """Sign in with a token, and return the answer."""
        return self.post("/sign-in", token=secret)


def parsed(answer):
    """Return an answer with its HTML as `tree`, and as `said` the text of its main part."""
    answer.tree = LexborHTMLParser(answer.get_data(as_text=True))
    main = answer.tree.css_first("main") or answer.tree.body
    answer.said = " ".join(main.text(separator=" ").split()) if main else ""
    return answer


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    """A cache of compiled templates, which each application would otherwise compile for itself."""
    return FileSystemBytecodeCache(str(tmp_path_factory.mktemp("templates")))


@pytest.fixture
def app(app, compiled):
    """The application, with templates that an earlier test may have compiled."""
    app.jinja_env.bytecode_cache = compiled
    return app


@pytest.fixture
def stranger(app):
    """A browser that is not signed in."""
    return Browser(app)


@pytest.fixture
def browser(app, client):
    """A browser that is signed in with an admin's token."""
    browser = Browser(app)
    assert browser.sign_in(client.secret).status_code == 303
    return browser


@pytest.fixture
def browser_of(app, mint):
    """Return a function that returns a browser that is signed in with a new token of a scope."""

    def browser_of(scope):
        browser = Browser(app)
        browser.token = mint(scope=scope, name=f"{scope}er")
        assert browser.sign_in(browser.token["token"]).status_code == 303
        return browser

    return browser_of


@pytest.fixture
def become(app):
    """Return a function that sets columns of a task, and writes its log."""

    def become(task_id, log="", attempt=1, **values):
        with app.app_context():
            mine = update(Task).where(Task.id == UUID(task_id)).values(attempt=attempt, **values)
            seq = db.session.scalar(mine.returning(Task.seq))
            if log:
                build_logs.append(seq, attempt, 0, log.encode())
            db.session.commit()

    return become
