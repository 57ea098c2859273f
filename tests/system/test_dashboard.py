"""The dashboard in a real browser: what is live, what a keyboard and a screen reader need.

With SCREENSHOTS set to a folder, the pages are kept there as pictures, for somebody to look at.
"""

import os

import pytest
from axe_playwright_python.sync_playwright import Axe
from browser import Tab
from recipes import Recipes
from service import Service
from support import CATALOGS

WIDTHS = (360, 800, 1440)
SCHEMES = ("light", "dark")
SCREENSHOTS = os.environ.get("SCREENSHOTS")
# Pages that the navigation does not lead to at once.
OTHER_PAGES = (
    *("/tasks", "/tasks/nope", "/packages/1", "/catalog/app", "/install?name=app&version=2.0.0"),
    *("/profiles/default", "/profiles/default/apply", "/profiles/default/promote"),
    *("/access/webhooks", "/access/events"),
)

# All colours are in one style sheet: these pages show each of them.
DARK = ("/now", "/packages/1", "/profiles/default")


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
        sign_in(tab, service.url, service.secret)
        yield tab


def sign_in(tab, url, secret):
    """Sign in by the form, as somebody who has opened the service's address."""
    tab.open(url)
    tab.page.get_by_label("Token").fill(secret)
    tab.page.keyboard.press("Enter")
    tab.page.get_by_role("heading", name="Running").wait_for()


@pytest.fixture
def visit(tab, service):
    """Return a function that opens a page; of no page anything may go wrong unexpectedly.

    Violations of the Content-Security-Policy are among a page's warnings.
    """

    def check():
        assert [url for url in tab.urls if not url.startswith(service.url)] == []
        assert [one for one in tab.warnings if "status of 404" not in one] == []

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


def press(page, link, button):
    """Follow a link to a plan, and press the button there."""
    page.get_by_role("link", name=link).first.click()
    page.get_by_role("button", name=button, exact=True).click()


def install(page, name, version):
    """Install a package by its page in the catalog; return the status of the task in the end."""
    press(page, f"Install {name} {version}", "Install")
    page.get_by_role("heading", name=f"{name} {version}").wait_for()
    page.goto(f"{page.url.split('/packages')[0]}/tasks?kind=apply")
    page.locator("tbody a").first.click()
    page.locator("[data-over]").wait_for()
    return page.locator(".status").first.inner_text()


def held(service, profile="default"):
    """Return what a profile holds."""
    packages = service.get(f"profile/{profile}")["packages"]
    return sorted(f"{one['name']} {one['version']}" for one in packages)


def test_a_package_is_installed_by_its_plan_and_one_that_collides_is_not(visit, service):
    assert install(visit("/catalog/clash-one"), "clash-one", "1.0.0") == "succeeded"
    assert held(service) == ["clash-one 1.0.0"]

    page = visit("/catalog/clash-two")
    assert install(page, "clash-two", "1.0.0") == "failed"

    assert "both have the file bin/clash" in page.locator(".failure").inner_text()
    assert held(service) == ["clash-one 1.0.0"]


def test_a_profile_is_rolled_back_and_promoted_by_its_plan(visit, service):
    for version in ("1.0.0", "2.0.0"):
        assert install(visit("/catalog/app"), "app", version) == "succeeded"
    press(visit("/profiles/default"), "Roll back", "Roll back")
    assert "app 1.0.0" in held(service)

    page = visit("/profiles/default")
    page.get_by_role("link", name="Promote").click()
    page.get_by_label("To the profile").fill("production")
    page.get_by_role("button", name="Plan").click()
    page.get_by_role("button", name="Promote", exact=True).click()

    page.get_by_role("heading", name="Profile production").wait_for()
    assert held(service, "production") == held(service)


def test_a_new_token_signs_in_until_it_is_revoked(visit, chromium, service):
    page = visit("/access/tokens")
    page.get_by_label("Name").fill("robot")
    page.get_by_role("button", name="Mint").click()
    secret = page.get_by_label("The secret").inner_text()
    with Tab(chromium) as robot:
        sign_in(robot, service.url, secret)
        assert robot.page.get_by_role("link", name="Access").count() == 0

        press(visit("/access/tokens"), "Revoke robot", "Revoke")

        robot.page.get_by_role("heading", name="Sign in").wait_for()  # its next poll


def test_signing_out_leads_to_the_form(chromium, service):
    with Tab(chromium) as other:
        sign_in(other, service.url, service.secret)
        other.page.get_by_role("button", name="Sign out").click()
        other.page.get_by_role("heading", name="Sign in").wait_for()

        other.open(f"{service.url}/packages")

        other.page.get_by_role("heading", name="Sign in").wait_for()
        assert other.warnings == []


@pytest.fixture
def clocked(chromium, service, tab):
    """The first page in a tab of its own, whose clock goes on by `requests_within` alone."""
    with Tab(chromium, storage_state=tab.context.storage_state()) as clocked:
        clocked.page.clock.install()
        clocked.open(f"{service.url}/now")
        clocked.page.wait_for_load_state()
        yield clocked


def test_a_page_asks_once_a_second_at_most_and_not_while_it_is_hidden(clocked):
    assert 2 < requests_within(clocked, 8) <= 8

    clocked.evaluate("Object.defineProperty(document, 'hidden', {value: true})")

    assert requests_within(clocked, 8) == 0


def test_a_lost_connection_is_told_until_it_is_back(clocked):
    clocked.page.route("**/now/**", lambda route: route.abort())
    requests_within(clocked, 8)
    clocked.page.get_by_text("Connection lost").wait_for()

    clocked.page.unroute("**/now/**")
    requests_within(clocked, 8)

    clocked.page.get_by_text("Connection lost").wait_for(state="detached")
    assert clocked.page.get_by_text("Connection lost").count() == 0


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
    task_id = service.schedule("odd", "9.9.9")

    for path in [*paths, *OTHER_PAGES, f"/tasks/{task_id}"]:
        visit(path)
        page.emulate_media(color_scheme="light")
        assert serious(page) == [], path
        if SCREENSHOTS or path in DARK:
            page.emulate_media(color_scheme="dark")
            assert serious(page, {"runOnly": ["color-contrast"]}) == [], path
        look(page, path)


def serious(page, options=None):
    """Return the serious faults that axe-core finds in a page."""
    found = Axe().run(page, options=options).response["violations"]
    return [
        (one["id"], node["html"], node["failureSummary"])
        for one in found
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]


def look(page, path):
    """Check that the page is as wide as the window, and take pictures where they are asked for."""
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width, (path, width)
        for scheme in SCHEMES if SCREENSHOTS else ():
            page.emulate_media(color_scheme=scheme)
            name = f"{path.strip('/').replace('/', '-')[:20]}-{width}-{scheme}.png"
            page.screenshot(path=f"{SCREENSHOTS}/{name}", full_page=True)
