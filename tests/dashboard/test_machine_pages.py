"""The pages of machines: how each stands, rollouts, and forgetting one."""

import pytest
from selectolax.lexbor import LexborHTMLParser
from support import SQLITE


@pytest.fixture
def machines(generation, report):
    """Two generations, and three machines: one current, one behind, one failed."""
    generation(1), generation(2)
    report("web-1", 2), report("web-2", 1)
    report("web-3", 1, state="failed", error="no answer")


def rows(page):
    return [row.css_first("th").text() for row in page.css("tbody tr")]


def card(page):
    return " ".join(page.css_first(".card p").text().split())


@SQLITE
def test_there_is_no_page_in_the_navigation_without_machines(admin, see):
    assert "Machines" not in see(admin, "/now").css_first("nav").text()
    assert "No machine fits." in see(admin, "/machines").text()


def test_machines_are_shown_with_their_states(browser, machines, see):
    page = see(browser("read"), "/machines")

    told = [row.css_first(".status").text() for row in page.css("tbody tr")]
    assert dict(zip(rows(page), told, strict=True)) == {
        **{"web-1": "current", "web-2": "behind", "web-3": "failed"}
    }
    assert "Machines" in page.css_first("nav [aria-current]").text()
    assert "no answer" in page.css("tbody tr")[2].text()


@SQLITE
def test_machines_are_shown_by_state_and_profile(admin, machines, see):
    assert rows(see(admin, "/machines?state=behind&profile=")) == ["web-2"]
    assert rows(see(admin, "/machines?profile=default&state=failed")) == ["web-3"]
    assert see(admin, "/machines?state=lost", 422).css_first(".problem")


@SQLITE
def test_machines_are_shown_by_pages_that_keep_the_filter(admin, machines, see):
    first = see(admin, "/machines?profile=default&limit=2")
    rest = first.css_first("a[rel=next]").attributes["href"]

    assert rows(first) == ["web-1", "web-2"]
    assert "profile=default" in rest
    assert rows(see(admin, rest)) == ["web-3"]


@SQLITE
def test_the_list_is_asked_for_anew_and_sent_when_it_changed(admin, machines, report, see):
    part = see(admin, "/machines?state=behind").css_first(".live").attributes
    seen = {"If-None-Match": f'"{part["data-etag"]}"'}

    assert admin.get(part["hx-get"], headers=seen).status_code == 304
    report("web-2", 2)
    assert "web-2" not in see(admin, "/machines?state=behind").css_first(".live").text()


@SQLITE
def test_a_machine_has_a_page_of_its_own(browser, machines, see):
    page = see(browser("read"), "/machines/web-3")

    facts = {row.css_first("dt").text(): row.css_first("dd").text() for row in page.css("dl div")}
    assert facts["State"] == "failed"
    assert facts["Holds"].startswith("generation 1")
    assert facts["Is offered"].startswith("generation 2")
    assert page.css_first("pre.message").text() == "no answer"
    assert see(browser("read"), "/machines/web-9", 404).css_first(".problem")


@SQLITE
def test_a_machines_part_is_sent_alone(admin, machines):
    part = LexborHTMLParser(admin.get("/parts/machine/web-3").text)

    assert part.css_first("title") is None
    assert "no answer" in part.text()


def test_a_machine_is_forgotten(browser, client, machines, see):
    mine = browser("operate")
    form = see(mine, "/machines/web-3").css_first("form.action")

    assert mine.post(form.attributes["action"]).headers["Location"] == "/machines"
    assert client.get("/api/v1/machine/web-3").status_code == 404
    assert mine.post(form.attributes["action"]).status_code == 404


def test_a_generation_is_rolled_out_to_a_share(browser, client, machines, see):
    mine = browser("operate")
    form = see(mine, "/machines").css_first("form.line[method=post]")

    answer = mine.post(form.attributes["action"], data={"percent": "30"})

    assert answer.status_code == 303
    assert client.get("/api/v1/profile/default").json["rollout"]["percent"] == 30
    page = see(mine, answer.headers["Location"])
    assert card(page) == "Generation 2 to all; the next one to 30 %."


@SQLITE
@pytest.mark.parametrize("percent", ["", "0", "101", "ten", "1.5", "-1"])
def test_a_share_that_is_none_changes_nothing(admin, client, machines, percent):
    assert admin.post("/rollouts/default", data={"percent": percent}).status_code == 422
    assert client.get("/api/v1/profile/default").json["rollout"]["percent"] == 100


@SQLITE
def test_a_profile_that_is_not_there_is_not_rolled_out(admin):
    assert admin.post("/rollouts/nowhere", data={"percent": "10"}).status_code == 404


@SQLITE
def test_what_is_offered_is_said_in_words(admin, client, generation, report, see):
    report("web-1", 1)
    assert card(see(admin, "/machines")) == "Nothing yet: no generation is published."
    generation(1)
    assert card(see(admin, "/machines")) == "Generation 1 to all."
    client.put("/api/v1/profile/default/rollout", json={"percent": 10})
    generation(2)
    assert card(see(admin, "/machines")) == "Generation 2 to 10 %; generation 1 to the rest."


@SQLITE
def test_who_may_only_read_gets_no_buttons_and_changes_nothing(browser, machines, see):
    mine = browser("read")

    for path in ("/machines", "/machines/web-1"):
        assert not see(mine, path).css("main form[method=post]")
    assert mine.post("/machines/web-1/remove").status_code == 403
    assert mine.post("/rollouts/default", data={"percent": "10"}).status_code == 403
