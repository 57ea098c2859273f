"""The pages that show the API document, in a real browser that reaches nothing but the service."""

import pytest
from browser import Browser, find
from conftest import IN_CI
from service import Service

from app import create_app

PAGES = ("/docs", "/redoc")
ASSETS = ("redoc.js", "redocly.svg", "show-swagger-ui.js", "swagger-ui.css", "swagger-ui.js")
# in the page of Swagger UI
TYPE = """
    (place, text) => {
        const input = document.querySelector(place);
        const set = Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, "value").set;
        set.call(input, text);
        input.dispatchEvent(new Event("input", {bubbles: true}));
    }
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory, store_dir):
    """A running service with a package in it; its token is in `service.secret`."""
    data_dir = tmp_path_factory.mktemp("docs") / "data"
    with Service({"DATA_DIR": data_dir, "STORE_DIR": store_dir, "WORKER_THREADS": 0}) as service:
        service.command("init-db")
        service.secret = service.start().sign_in()
        service.register("hello", "2.12.1")
        yield service


@pytest.fixture(scope="module")
def anonymous(tmp_path_factory):
    """A client without a token, of a service without a database: the pages need none."""
    return create_app({"DATA_DIR": tmp_path_factory.mktemp("pages")}).test_client()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A browser; a missing one is an error in CI, and a skip elsewhere."""
    if find() is None:
        assert not IN_CI, "Chromium is not installed"
        pytest.skip("Chromium is not installed")
    with Browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


def click(browser, place):
    """Click on the first thing that a CSS selector finds, once it is there."""
    browser.until(f"document.querySelector({place!r}) !== null")
    browser.evaluate(f"document.querySelector({place!r}).click()")


@pytest.mark.parametrize("page", PAGES)
def test_a_page_needs_no_token(anonymous, page):
    answer = anonymous.get(page)

    assert (answer.status_code, answer.mimetype) == (200, "text/html")


@pytest.mark.parametrize("page", [*PAGES, "/openapi.json", "/hello"])
def test_a_wrong_method_is_told_to_anybody_where_no_token_is_needed(anonymous, page):
    answer = anonymous.delete(page)

    assert answer.status_code == 405
    assert set(answer.headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS"}


@pytest.mark.parametrize("page", PAGES)
def test_a_page_may_load_scripts_from_the_service_alone(anonymous, page):
    policy = anonymous.get(page).headers["Content-Security-Policy"].split("; ")

    assert {"default-src 'none'", "script-src 'self'", "connect-src 'self'"} <= set(policy)


@pytest.mark.parametrize("name", ASSETS)
def test_what_a_page_loads_is_kept_for_a_day(anonymous, name):
    answer = anonymous.get(f"/docs/assets/{name}")

    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "max-age=86400"


def test_what_is_known_already_is_not_sent_again(anonymous):
    known = anonymous.get("/docs/assets/swagger-ui.css").headers["ETag"]

    again = anonymous.get("/docs/assets/swagger-ui.css", headers={"If-None-Match": known})

    assert (again.status_code, again.data) == (304, b"")


@pytest.mark.parametrize("name", ["scalar.js", "..%2fdocs.py", "swagger-ui.js.map"])
def test_nothing_else_is_sent(anonymous, name):
    assert anonymous.get(f"/docs/assets/{name}").status_code in (401, 404)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_shows_every_operation(browser, service, page):
    paths = service.session.get(f"{service.url}/openapi.json").json()["paths"]

    browser.open(service.url + page)

    # Swagger UI breaks long paths by spaces of no width
    for path in paths:
        text = "document.body.innerText.replaceAll('\\u200b', '')"
        browser.until(f"document.body !== null && {text}.includes({path!r})")


@pytest.mark.parametrize("page", PAGES)
def test_a_page_loads_from_the_service_alone_and_without_complaint(browser, service, page):
    browser.open(service.url + page)
    browser.until("document.body !== null && document.body.innerText.includes('/api/v1/packages')")
    browser.settle()

    foreign = [url for url in browser.urls if not url.startswith((service.url, "data:"))]
    assert foreign == []
    assert browser.complaints == []


def test_a_request_can_be_tried_out_with_a_token(browser, service):
    browser.open(f"{service.url}/docs")
    click(browser, "button.authorize")
    browser.until("document.querySelector('.auth-container input') !== null")
    browser.evaluate(f"({TYPE})('.auth-container input', {service.secret!r})")
    click(browser, ".auth-container button.authorize")
    click(browser, ".auth-container button.btn-done")

    click(browser, "#operations-packages-packages_show .opblock-summary-control")
    click(browser, "#operations-packages-packages_show .try-out__btn")
    click(browser, "#operations-packages-packages_show .execute")

    shown = "document.querySelector('.live-responses-table tbody .response-col_status')?.innerText"
    assert browser.until(shown).startswith("200")
    assert '"name": "hello"' in browser.evaluate("document.body.innerText")
    assert browser.complaints == []
