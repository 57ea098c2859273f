"""The pages of profiles: what each holds, its generations, and changes with their plans."""

import pytest
from support import SQLITE

HELLO, OLD_HELLO, PARROT = "hello 2.12.1", "hello 2.10.0", "parrot 1.0.0"
TEAM = "/profiles/team"
NONE = "\u2013"


@pytest.fixture
def apply(applied):
    """Return a function that applies packages to the profile `team`."""

    def apply(*packages, **more):
        assert applied(*packages, **more)["status"] == "succeeded"

    return apply


@SQLITE
def test_a_profile_is_made_once(browser, work):
    page = browser.get("/profiles")
    assert f"default {NONE} 0 {NONE}" in page.said

    made = browser.post("/profiles", name="team")
    assert (made.status_code, made.location) == (303, TEAM)
    assert "There is none yet." in browser.get(TEAM).said
    work()

    assert f"default {NONE} 0 {NONE}" in browser.get("/profiles").said
    assert f"team 1 0 {NONE}" in browser.get("/profiles").said
    assert browser.post("/profiles", name="team").status_code == 422
    assert browser.post("/profiles", name="Team").status_code == 422


@SQLITE
def test_generations_tell_what_changed_who_and_why(browser, apply, monkeypatch):
    monkeypatch.setattr("dashboard.profiles.LISTED", 1)
    apply(HELLO)
    apply(OLD_HELLO, PARROT)

    first = browser.get(TEAM)
    second = browser.get(first.tree.css_first("a[rel=next]").attributes["href"])

    newest, oldest = (page.tree.css_first(".generation") for page in (first, second))
    words = " ".join(newest.text(separator=" ").split())
    assert words.startswith("2 active 2 packages")
    assert "added parrot 1.0.0 replaced hello 2.12.1 → 2.10.0 apply by token 1" in words
    assert " ".join(oldest.text(separator=" ").split()).startswith("1 1 package Switch…")


@SQLITE
def test_a_rollback_and_a_switch_do_what_their_plans_say(browser, apply, held):
    apply(HELLO)
    apply(OLD_HELLO, PARROT)

    plan = browser.get(f"{TEAM}/rollback")
    assert "Roll back team to generation 1" in plan.said
    assert "replaced hello 2.10.0 → 2.12.1 removed parrot 1.0.0" in plan.said
    browser.press(plan, "Roll back")
    assert held() == [HELLO]

    assert browser.press(plan, "Roll back").status_code == 412
    plan = browser.get(f"{TEAM}/switch/2")
    assert "added parrot 1.0.0" in plan.said
    browser.press(plan, "Switch")
    assert held() == [OLD_HELLO, PARROT]


@SQLITE
def test_there_is_no_way_back_from_the_first_generation(browser, apply):
    apply()

    assert "Roll back" not in browser.get(TEAM).said
    assert "no other generation was active before" in browser.get(f"{TEAM}/rollback").said
    assert browser.get(f"{TEAM}/switch/7").status_code == 404
    assert browser.get("/profiles/default/switch/1").status_code == 404


@SQLITE
def test_a_promotion_makes_the_other_profile_the_very_store_path(browser, apply, client):
    apply(HELLO)
    assert "To the profile" in browser.get(f"{TEAM}/promote").said

    plan = browser.get(f"{TEAM}/promote?to=live")
    assert "There is no profile live: it is made." in plan.said
    assert "added hello 2.12.1" in plan.said
    assert browser.press(plan, "Promote").said.startswith("Profile live")

    paths = [client.get(f"/api/v1/profile/{name}").json["store_path"] for name in ("team", "live")]
    assert paths[0] == paths[1]


@SQLITE
def test_a_promotion_of_what_was_not_seen_or_proven_is_refused(browser, apply, held):
    apply(HELLO)
    gated = browser.get(f"{TEAM}/promote?to=default&require=current")
    plain = browser.get(f"{TEAM}/promote?to=default")
    assert "Refused unless every machine of team" in gated.said

    assert browser.press(gated, "Promote").status_code == 409
    apply(HELLO, PARROT)

    assert browser.press(plain, "Promote").status_code == 412
    assert held("default") == []


@SQLITE
def test_a_pasted_manifest_is_planned_with_the_versions_it_means(browser, apply, work, held):
    apply(OLD_HELLO)
    form = browser.get(f"{TEAM}/apply")
    assert form.tree.css_first("textarea").text() == '[packages]\nhello = "2.10.0"\n'
    text = 'profile = "live"\r\n[packages]\r\nhello = "^2.10"\r\nparrot = "latest"\r\n'

    plan = browser.post(f"{TEAM}/plan", manifest=text)

    assert "hello ^2.10 2.12.1 parrot latest 1.0.0" in plan.said
    assert "added parrot 1.0.0 replaced hello 2.10.0 → 2.12.1" in plan.said
    assert "The manifest is for the profile live: this is team." in plan.said
    browser.press(plan, "Apply")
    work()
    assert held() == [HELLO, PARROT]


@SQLITE
def test_a_manifest_that_means_nothing_is_shown_again(browser, client):
    text = '[packages]\nhelo = "latest"\nhello = "9.9.9"\n'

    page = browser.post("/profiles/default/plan", manifest=text)

    assert page.status_code == 422
    assert "no catalog has helo" in page.said
    assert "hello: no catalog has 9.9.9" in page.said
    assert page.tree.css_first("textarea").text() == text
    assert client.get("/api/v1/tasks").json == []


@SQLITE
def test_a_change_tells_that_it_ends_an_apply_that_waits(browser, apply, put):
    apply(HELLO)
    apply(OLD_HELLO)
    put(PARROT)

    assert "changing An apply is waiting or running." in browser.get(TEAM).said
    assert "team changing" in browser.get("/profiles").said
    assert "The apply that waits or runs is cancelled" in browser.get(f"{TEAM}/rollback").said


@SQLITE
def test_the_latest_apply_is_shown_where_it_failed(browser, applied):
    applied("clash-one 1.0.0", "clash-two 1.0.0")
    page = browser.get(TEAM)
    assert "The latest apply failed" in page.said
    assert "both have the file bin/clash" in page.said

    applied("clash-one 1.0.0")

    assert "The latest apply" not in browser.get(TEAM).said


@SQLITE
def test_a_profile_is_deleted_after_a_look_at_it(browser, apply, client):
    apply(HELLO)
    plan = browser.get(f"{TEAM}/delete")
    assert "removed hello 2.12.1 Its generations are deleted, too" in plan.said

    assert browser.press(plan, "Delete").tree.css("a#profile-team") == []

    assert [one["name"] for one in client.get("/api/v1/profiles").json] == ["default"]
    kept = browser.press(browser.get("/profiles/default/delete"), "Delete")
    assert (kept.status_code, "it always exists" in kept.said) == (409, True)


@SQLITE
def test_a_profile_shows_its_machines_rollout_and_cache(browser, client, app, generation, report):
    app.config["CACHE"] = "file:///nowhere"
    generation(1, "/nix/store/aaa-profile")
    report()
    client.put("/api/v1/profile/default/rollout", json={"percent": 50})

    page = browser.get("/profiles/default")

    assert "In the cache published Machines 1 current Rollout 50 %" in page.said
    assert "default 1 0 1 current" in browser.get("/profiles").said
