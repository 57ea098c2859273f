"""The dashboard in a real browser: what is live, what a keyboard and a screen reader need.

With SCREENSHOTS set to a folder, the pages are kept there as pictures, for somebody to look at.
"""

import os
from itertools import product

import pytest
from axe_playwright_python.sync_playwright import Axe
from browser import Tab
from recipes import Recipes
from service import Service
from support import CATALOGS

WIDTHS = (360, 800, 1440)
SCHEMES = ("light", "dark")
SCREENSHOTS = os.environ.get("SCREENSHOTS")


@pytest.fixture(scope="module")
def service(tmp_path_factory, store_dir):
    """A running service with worker threads; an admin's token is in `service.secret`."""
    folder = tmp_path_factory.mktemp("dashboard")
    recipes = Recipes(folder)
    settings = {"DATA_DIR": folder / "data", "STORE_DIR": store_dir, "INDEX_BYTES": 0}
    settings |= {"CATALOGS": f"{CATALOGS / 'tools.nix'} {recipes.catalog}", "MIN_FREE_BYTES": 1}
    with Service(settings, measured=False) as service:
        service.recipes = recipes
        service.init_db()
        service.secret = service.start().sign_in()
        yield service


@pytest.fixture(scope="module")
def tab(chromium, service):
    """A page of a browser that has signed in by the form."""
    with Tab(chromium) as tab:
        tab.open(f"{service.url}/now")
        tab.page.get_by_label("Token").fill(service.secret)
        tab.page.keyboard.press("Enter")
        tab.page.get_by_role("heading", name="Running").wait_for()
        yield tab


@pytest.fixture
def visit(tab, service):
    """Return a function that opens a page; of no page anything may go wrong unexpectedly.

    Violations of the Content-Security-Policy are among a page's warnings.
    """

    def check():
        assert [url for url in tab.urls if not url.startswith(service.url)] == []
        assert [one for one in tab.warnings if "status of 4" not in one] == []

    def visit(path):
        check()
        tab.open(service.url + path)
        tab.page.wait_for_load_state()
        return tab.page

    tab.forget()
    yield visit
    check()


@pytest.fixture
def building(service):
    """A task whose build waits at a gate, `building`, after it has written a line."""
    lines = "echo checking; ", service.recipes.gate("building"), "; echo done checking; touch $out"
    name = service.recipes.add("slow", "".join(lines))
    yield service.schedule(name, "1.0.0")
    service.recipes.open("building")


def test_a_log_grows_before_the_reader_s_eyes_until_the_end(visit, service, building):
    page = visit("/now")
    page.get_by_role("link", name="slow 1.0.0").first.click()
    page.locator("pre#log", has_text="checking").wait_for()
    assert page.locator(".status", has_text="running").is_visible()

    service.recipes.open("building")

    page.locator("pre#log", has_text="done checking").wait_for()
    page.locator(".status", has_text="succeeded").wait_for()
    assert page.locator("pre#log").inner_text().count("checking") == 2


def test_a_package_is_searched_installed_and_watched_until_it_is_active(visit, service):
    lines = "echo under way; ", service.recipes.gate("watched"), "; mkdir $out"
    name = service.recipes.add("watched", "".join(lines))
    page = visit("/packages")

    page.get_by_role("searchbox").fill(name)
    page.keyboard.press("Enter")
    page.get_by_role("link", name=name).click()
    page.get_by_role("link", name=f"Install {name} 1.0.0").click()
    page.get_by_role("button", name="Install").click()
    page.locator("pre.log", has_text="under way").wait_for()
    service.recipes.open("watched")

    page.locator("p", has_text="activated in default").wait_for()


def test_what_collides_is_refused_with_the_file(visit, install):
    install("clash-one")
    page = install("clash-two", is_active=False)

    page.get_by_role("link", name="Activate in default").click()

    page.get_by_role("alert").get_by_text("both have the file bin/clash").wait_for()


def test_a_profile_is_rolled_back_and_promoted_by_its_buttons(visit, install):
    install("tool-1")
    page = visit("/profiles/default")
    page.get_by_role("link", name="Roll back").click()
    page.locator(".removed", has_text="tool-1 1.0.0").wait_for()
    page.get_by_role("button", name="Roll back").click()
    page.locator(".generation", has_text="rollback by").wait_for()

    page.get_by_role("link", name="Promote").click()
    page.get_by_label("To the profile").fill("live")
    page.get_by_role("button", name="Plan").click()
    page.get_by_role("button", name="Promote").click()

    page.get_by_role("heading", name="Profile live").wait_for()
    page.locator(".generation", has_text="promote by").wait_for()


@pytest.fixture
def install(visit):
    """Return a function that installs a package by its page, and returns the page at the end."""

    def install(name, *, is_active=True):
        page = visit(f"/install?name={name}&version=1.0.0")
        page.get_by_role("button", name="Install").click()
        words = "activated in default" if is_active else "downloaded"
        page.locator("p", has_text=words).wait_for()
        return page

    return install


def test_a_page_asks_once_a_second_at_most_and_not_while_it_is_hidden(visit, tab):
    page = visit("/now")
    page.clock.install()
    page = visit("/now")
    assert 2 < requests_within(tab, 8) <= 8

    page.evaluate("Object.defineProperty(document, 'hidden', {value: true})")

    assert requests_within(tab, 8) == 0


def test_a_lost_connection_is_told_until_it_is_back(visit, tab):
    page = visit("/now")
    page.route("**/now/**", lambda route: route.abort())
    requests_within(tab, 8)
    page.get_by_text("Connection lost").wait_for()

    page.unroute("**/now/**")
    requests_within(tab, 8)

    page.get_by_text("Connection lost").wait_for(state="detached")
    tab.forget()


def requests_within(tab, seconds):
    """Return how many requests the page makes while its clock goes on by so much."""
    before = len(tab.urls)
    for _ in range(seconds):
        tab.page.clock.run_for(1000)
        tab.page.wait_for_load_state("networkidle")
        tab.evaluate("new Promise(done => requestAnimationFrame(done))")
    return len(tab.urls) - before


def test_the_keyboard_reaches_the_content_first(visit):
    page = visit("/now")
    page.keyboard.press("Tab")
    assert page.locator(":focus").inner_text() == "Skip to the content"

    page.keyboard.press("Enter")

    assert page.evaluate("document.activeElement.id") == "main"


def test_no_page_has_a_serious_fault_or_is_wider_than_the_window(visit, tab, service):
    page = visit("/now")
    places = page.eval_on_selector_all("nav[aria-label=Pages] a", "all => all.map(one => one.href)")
    paths = [place.removeprefix(service.url) for place in places]

    paths += ["/tasks", "/tasks/nope", f"/tasks/{service.schedule('app', '9.9.9')}"]
    paths += ["/install?name=app&version=1.0.0", "/packages/1", "/profiles/default/apply"]
    for path in [*paths, "/profiles/default"]:
        visit(path)
        for scheme in SCHEMES:
            page.emulate_media(color_scheme=scheme)
            assert serious(page) == [], path
        look(page, path)


def serious(page):
    """Return the serious faults that axe-core finds in a page."""
    found = Axe().run(page).response["violations"]
    return [
        (one["id"], node["html"], node["failureSummary"])
        for one in found
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]


def look(page, path):
    """Check that the page is as wide as the window, and take pictures where they are asked for."""
    for scheme, width in product(SCHEMES, WIDTHS):
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width, (path, width)
        if SCREENSHOTS:
            name = f"{path.strip('/').replace('/', '-')[:20]}-{width}-{scheme}.png"
            page.screenshot(path=f"{SCREENSHOTS}/{name}", full_page=True)
