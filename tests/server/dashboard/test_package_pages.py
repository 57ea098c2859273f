"""The pages of packages and of what the catalogs offer: lists, plans, and their buttons."""

from itertools import product

from support import SQLITE

from models import TaskStatus

HELLO = "/install?name=hello&version=2.12.1"
RUNNING = {"status": TaskStatus.RUNNING, "phase": "building"}


@SQLITE
def test_registered_packages_are_paged_and_filtered(browser, add_packages):
    add_packages(3)

    first = browser.get("/packages?limit=2&status=created&name=")
    second = browser.get(first.tree.css_first("a[rel=next]").attributes["href"])

    assert "Registered 3" in first.said
    assert "made-1 1.0.0" in first.said
    assert "made-2 1.0.0" in second.said
    assert "made-1" not in second.said
    assert "No package matches." in browser.get("/packages?profile=default").said


@SQLITE
def test_the_catalogs_are_searched_a_page_at_a_time(browser):
    assert "None yet" in browser.get("/packages").said

    first = browser.get("/catalog?search=clash&limit=1")
    second = browser.get(first.tree.css_first("a[rel=next]").attributes["href"])

    assert "Found 2 Name Newest Description clash-one" in first.said
    assert "clash-two" in second.said
    assert second.tree.css("a[rel=next]") == []
    assert "No catalog has it." in browser.get("/catalog?search=nothing-is-so").said


@SQLITE
def test_the_versions_of_a_name_tell_which_are_here(browser, register):
    package_id = register("hello", "2.10.0")

    page = browser.get("/catalog/hello?version=<2.12")

    assert "Versions 1" in page.said
    links = [one.attributes["href"] for one in page.tree.css("tbody a")]
    assert links == [f"/packages/{package_id}", "/install?name=hello&version=2.10.0"]
    assert "No version matches." in browser.get("/catalog/hello?version=>3").said


def test_an_installation_is_planned_and_then_one_apply(browser, work, client, held):
    page = browser.get(HELLO)
    assert "added hello 2.12.1 Downloaded first hello 2.12.1" in page.said

    package = browser.press(page, "Install")
    assert "created Download queued" in package.said

    assert (work(), held("default")) == (2, ["hello 2.12.1"])
    assert "activated in default" in browser.get("/packages/1").said
    browser.press(browser.get(HELLO), "Install")
    assert len(client.get("/api/v1/generations").json) == 1


def test_an_installation_has_what_waits_for_the_profile_in_its_set(browser, work, held):
    browser.press(browser.get(HELLO), "Install")
    page = browser.get("/install?name=parrot&version=1.0.0")
    assert "An apply to default waits or runs: this takes its place" in page.said

    browser.press(page, "Install")
    work()

    assert held("default") == ["hello 2.12.1", "parrot 1.0.0"]


@SQLITE
def test_a_plan_of_another_state_of_the_profile_is_refused(browser, client, activated):
    package_id = activated("app", "1.0.0")
    plans = [
        (HELLO, "Install"),
        (f"/packages/{package_id}/activate", "Activate"),
        (f"/packages/{package_id}/deactivate", "Deactivate"),
    ]
    pages = [(browser.get(path), label) for path, label in plans]
    client.post(f"/api/v1/package/{package_id}/deactivate")

    for page, label in pages:
        answer = browser.press(page, label)
        assert (answer.status_code, "the profile default has changed" in answer.said) == (412, True)
    assert len(client.get("/api/v1/tasks").json) == 1


@SQLITE
def test_a_package_is_only_downloaded_once(browser, client):
    page = browser.get(HELLO)
    browser.press(page, "Only download")
    browser.press(page, "Only download")

    assert [one["kind"] for one in client.get("/api/v1/tasks").json] == ["download"]
    assert client.get("/api/v1/packages?profile=default").json == []


@SQLITE
def test_a_package_is_activated_deactivated_and_removed(browser, downloaded, statuses, client):
    package_id = downloaded("app", "1.0.0")
    client.put("/api/v1/profile/team", json={"packages": []})
    path = f"/packages/{package_id}"
    assert "Activate in team…" in browser.get(path).said

    plan = browser.get(f"{path}/activate")
    assert "added app 1.0.0 The closure grows by" in plan.said
    assert "activated in default" in browser.press(plan, "Activate").said
    assert browser.get(f"{path}/remove").status_code == 409

    plan = browser.get(f"{path}/deactivate")
    assert "removed app 1.0.0 It stays downloaded" in plan.said
    assert browser.press(plan, "Deactivate").said.startswith("app 1.0.0 downloaded")
    browser.press(browser.get(f"{path}/remove"), "Remove")
    assert statuses() == {}


@SQLITE
def test_a_package_shows_the_end_of_its_running_log(browser, become, register, client):
    package_id = register()
    page = browser.get(f"/packages/{package_id}")
    task = browser.press(page, "Download")
    task_id = client.get("/api/v1/tasks").json[0]["id"]
    become(task_id, "one\n<script>two</script>\n", **RUNNING)

    page = browser.get(f"/packages/{package_id}")

    assert "Download queued" in task.said
    assert page.tree.css_first("pre.tail").text() == "one\n<script>two</script>"
    assert "Remove…" not in page.said


@SQLITE
def test_a_package_shows_why_its_download_failed(browser, become, schedule):
    task_id = schedule()
    failed = {"error_code": "build_failed", "error_message": "<b>no</b>", "error_hint": "look"}
    become(task_id, status=TaskStatus.FAILED, **failed)

    page = browser.get("/packages/1")

    assert page.tree.css_first(".failure").text(separator=" ").split() == [
        *("build_failed", "<b>no</b>", "look")
    ]


@SQLITE
def test_what_changes_has_an_etag(browser, register):
    register()
    for path in ("/packages/1/state", "/parts/profiles", "/profiles/default/state"):
        etag = browser.client.get(path).headers["ETag"]
        again = browser.client.get(path, headers={"If-None-Match": etag})
        assert (again.status_code, again.data) == (304, b"")


@SQLITE
def test_a_reader_sees_no_buttons_and_can_use_none(browser_of, register):
    register()
    reader = browser_of("read")

    for path in ("/packages/1", "/catalog/hello", HELLO, "/profiles", "/profiles/default"):
        page = reader.get(path)
        assert page.status_code == 200
        assert page.tree.css("main form[method=post], main .actions button") == []
    for path in ("/install", "/download", "/packages/1/download", "/profiles/default/apply"):
        assert reader.post(path, name="hello", version="2.12.1").status_code == 403


HOSTILE = ["%00", "a%00b", "%F0%9F%92%A9", "<script>", "%2E%2E", "x" * 300, "a b", "%E2%80%AE"]
PATHS = (
    *(
        "catalog/{}",
        "profiles/{}",
        "profiles/{}/rollback",
        "profiles/{}/apply",
        "packages?after={}",
    ),
    *("profiles/{}/promote?to=default", "profiles/default/promote?to={}", "packages?profile={}"),
    *("packages?odd={}", "profiles/default?after={}", "install?version=1.0.0&name={}"),
    *("install?name=hello&version={}", "install?name=hello&version=1.0.0&profile={}"),
    *(
        "catalog?search=a&limit={}",
        "catalog/hello?version={}&odd",
        "packages/9/activate?profile={}",
    ),
)


@SQLITE
def test_hostile_input_gets_a_page_that_says_what_is_wrong(browser):
    for path, text in product(PATHS, HOSTILE):
        answer = browser.get(f"/{path.format(text)}")
        assert 400 <= answer.status_code < 500, (path, text, answer.said)
        assert answer.tree.css(".problem"), (path, text)


FORMS = (
    ("/install", {"name": "hello"}, "version"),
    ("/install", {"name": "hello", "version": "2.12.1"}, "seen"),
    ("/download", {"version": "2.12.1"}, "name"),
    ("/profiles", {}, "name"),
    ("/profiles/default/plan", {}, "manifest"),
    ("/profiles/default/apply", {"manifest": "[packages]"}, "seen"),
    ("/profiles/default/promote", {}, "to"),
    ("/profiles/default/switch/1", {}, "seen"),
)


@SQLITE
def test_hostile_forms_change_nothing(browser, client):
    for (path, others, name), text in product(FORMS, ["\0", "<script>", "\u202e", "x" * 300]):
        answer = browser.post(path, **others, **{name: text})
        assert answer.status_code in (412, 422), (path, name, text)
        assert answer.tree.css(".problem"), path
    assert client.get("/api/v1/packages").json == client.get("/api/v1/tasks").json == []
