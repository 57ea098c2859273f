"""The pages that show the API document, in a real browser that can reach the service only."""

import pytest
from browser import Tab
from proxy import CADDY_PREFIX, Caddy
from service import Service

PAGES = ("/docs", "/redoc")
# A function that types into an input of Swagger UI, so that the page notices it.
TYPE = """
    (place, text) => {
        const input = document.querySelector(place);
        const set = Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, "value").set;
        set.call(input, text);
        input.dispatchEvent(new Event("input", {bubbles: true}));
    }
"""

# A function that tells whether a text is shown, and scrolls on where it isn't, from the end to the
# beginning: ReDoc has only what is near in the page. Swagger UI puts zero-width spaces into paths.
FIND = """
    text => {
        if (document.body?.innerText.replaceAll("\\u200b", "").includes(text)) return true;
        const next = window.scrollY + window.innerHeight / 2;
        const end = document.body?.scrollHeight - window.innerHeight;
        window.scrollTo(0, window.scrollY < end - 1 ? next : 0);
        return false;
    }
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory, store_dir):
    """A running service that has a package; an admin's token is in `service.secret`."""
    data_dir = tmp_path_factory.mktemp("docs") / "data"
    settings = {"DATA_DIR": data_dir, "STORE_DIR": store_dir, "WORKER_THREADS": 0}
    with Service({**settings, "TRUSTED_PROXIES": 1}, measured=False) as service:
        service.init_db()
        service.secret = service.start().sign_in()
        service.register("hello", "2.12.1")
        yield service


@pytest.fixture(scope="module")
def browser(chromium):
    """A page of a headless browser, shared by the tests of this module."""
    with Tab(chromium) as tab:
        yield tab


@pytest.fixture(scope="module", params=["", "/pkgd"])
def site(request, service, tmp_path_factory):
    """The URL of the service, without a proxy and below a path of one."""
    if not request.param:
        yield service.url
        return
    with Caddy(tmp_path_factory.mktemp("caddy"), service.port, CADDY_PREFIX) as caddy:
        yield f"http://127.0.0.1:{caddy.port}/pkgd"


def click(browser, place):
    """Wait for an element that a CSS selector finds, and click on it."""
    browser.until(f"document.querySelector({place!r}) !== null")
    browser.evaluate(f"document.querySelector({place!r}).click()")


@pytest.mark.parametrize("page", PAGES)
def test_a_page_shows_every_operation(browser, service, site, page):
    paths = service.session.get(f"{service.url}/openapi.json").json()["paths"]

    browser.open(site + page)

    for path in paths:
        browser.until(f"({FIND})({path!r})")


@pytest.mark.parametrize("page", PAGES)
def test_a_page_loads_from_the_service_alone_and_without_warnings(browser, service, page):
    browser.open(service.url + page)
    browser.until("document.body !== null && document.body.innerText.includes('/api/v1/packages')")
    browser.settle()

    foreign = [url for url in browser.urls if not url.startswith((service.url, "data:"))]
    assert foreign == []
    assert browser.warnings == []


def test_a_request_can_be_tried_out_with_a_token(browser, service, site):
    browser.open(f"{site}/docs")
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
    assert browser.warnings == []
