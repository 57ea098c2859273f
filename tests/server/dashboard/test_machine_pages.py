"""The pages of machines: how each stands, rollouts, and forgetting one."""

import pytest
from support import SQLITE

OLD, NEW = "/nix/store/old-profile", "/nix/store/new-profile"


@pytest.fixture
def machines(generation, report):
    """Two generations, and three machines: one current, one behind, one failed."""
    generation(1, OLD), generation(2, NEW)
    report("web-1", NEW, generation=2)
    report("web-2", OLD)
    report("web-3", OLD, state="failed", error="no answer")


def rows(page):
    return [row.css_first("th").text() for row in page.tree.css("tbody tr")]


def offer(page):
    return " ".join(page.tree.css_first(".card p").text().split())


@SQLITE
def test_there_is_no_page_in_the_navigation_without_machines(browser):
    assert "Machines" not in browser.get("/now").tree.css_first("nav").text()
    assert "No machine matches." in browser.get("/machines").said


def test_machines_are_shown_with_their_states(browser_of, machines):
    page = browser_of("read").get("/machines")

    told = [row.css_first(".status").text() for row in page.tree.css("tbody tr")]
    assert rows(page) == ["web-1", "web-2", "web-3"]
    assert told == ["current", "behind", "failed"]
    assert "no answer" in page.tree.css("tbody tr")[2].text()
    assert page.tree.css_first("nav [aria-current]").text() == "Machines"


@SQLITE
def test_machines_are_shown_by_state_and_profile(browser, machines):
    assert rows(browser.get("/machines?state=behind&profile=")) == ["web-2"]
    assert rows(browser.get("/machines?profile=default&state=failed")) == ["web-3"]
    assert browser.get("/machines?state=lost").status_code == 422


@SQLITE
def test_machines_are_shown_by_pages_that_keep_the_filter(browser, machines):
    first = browser.get("/machines?profile=default&limit=2")
    rest = first.tree.css_first("a[rel=next]").attributes["href"]

    assert rows(first) == ["web-1", "web-2"]
    assert "profile=default" in rest
    assert rows(browser.get(rest)) == ["web-3"]


@SQLITE
def test_the_list_is_sent_anew_once_it_has_changed(browser, machines, report):
    part = browser.get("/machines?state=behind").tree.css_first(".live").attributes
    seen = {"If-None-Match": f'"{part["data-etag"]}"'}

    assert browser.get(part["hx-get"], headers=seen).status_code == 304
    report("web-2", NEW, generation=2)
    assert rows(browser.get("/machines?state=behind")) == []


@SQLITE
def test_a_machine_has_a_page_of_its_own(browser_of, machines):
    browser = browser_of("read")
    page = browser.get("/machines/web-3")

    facts = {
        one.css_first("dt").text(): one.css_first("dd").text() for one in page.tree.css("dl div")
    }
    assert facts["State"] == "failed"
    assert facts["Holds"] == f"generation 1 {OLD}"
    assert facts["Offered"] == f"generation 2 {NEW}"
    assert page.tree.css_first("pre.message").text() == "no answer"
    assert browser.get("/machines/web-9").status_code == 404


@SQLITE
def test_the_state_of_a_machine_is_sent_alone(browser, machines):
    part = browser.get("/parts/machine/web-3")

    assert part.tree.css_first("title") is None
    assert "no answer" in part.said


def test_a_machine_is_forgotten(browser_of, client, machines):
    browser = browser_of("operate")

    after = browser.press(browser.get("/machines/web-3"), "Forget web-3")

    assert rows(after) == ["web-1", "web-2"]
    assert client.get("/api/v1/machine/web-3").status_code == 404
    assert browser.post("/machines/web-3/remove").status_code == 404


def test_a_generation_is_rolled_out_to_a_share(browser_of, client, machines):
    browser = browser_of("operate")

    answer = browser.post("/rollouts/default", percent="30")

    assert client.get("/api/v1/profile/default").json["rollout"]["percent"] == 30
    page = browser.get(answer.location)
    assert offer(page) == "Generation 2 to all; the next one to 30 %."
    assert offer(browser.press(page, "Roll out")) == offer(page)


@SQLITE
@pytest.mark.parametrize("percent", ["", "0", "101", "ten", "1.5", "-1"])
def test_a_share_that_is_none_changes_nothing(browser, client, machines, percent):
    assert browser.post("/rollouts/default", percent=percent).status_code == 422
    assert client.get("/api/v1/profile/default").json["rollout"]["percent"] == 100


@SQLITE
def test_a_profile_that_is_not_there_is_not_rolled_out(browser):
    assert browser.post("/rollouts/nowhere", percent="10").status_code == 404


@SQLITE
def test_what_is_offered_is_said_in_words(browser, client, generation, report):
    report("web-1", OLD)
    assert offer(browser.get("/machines")) == "Nothing yet: no generation is published."
    generation(1, OLD)
    assert offer(browser.get("/machines")) == "Generation 1 to all."
    client.put("/api/v1/profile/default/rollout", json={"percent": 10})
    generation(2, NEW)
    assert offer(browser.get("/machines")) == "Generation 2 to 10 %; generation 1 to the rest."


@SQLITE
def test_who_may_only_read_gets_no_buttons_and_changes_nothing(browser_of, machines):
    browser = browser_of("read")

    for path in ("/machines", "/machines/web-1"):
        assert not browser.get(path).tree.css("main form[method=post]")
    assert browser.post("/machines/web-1/remove").status_code == 403
    assert browser.post("/rollouts/default", percent="10").status_code == 403
