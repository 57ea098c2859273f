"""Rollouts: which generation each machine is offered, for how long it is kept, and the gate."""

import pytest
from sqlalchemy import update
from support import SQLITE

import maintenance
import nix
from machines import rollouts
from models import db
from profiles import activation
from profiles.models import Generation

DEFAULT = "/api/v1/profile/default"
ONE, TWO, THREE, FOUR = (f"/nix/store/{n}-profile" for n in range(1, 5))
NAMES = [f"web-{n}" for n in range(1000)]


@pytest.fixture
def roll_out(client):
    """Return a function that sets the percentage of a profile, and returns the answer."""

    def roll_out(percent, profile="default", **more):
        return client.put(f"/api/v1/profile/{profile}/rollout", json={"percent": percent}, **more)

    return roll_out


@pytest.fixture
def offered(client):
    """Return a function that returns the store path that a machine is offered, None for none."""

    def offered(machine=None, profile="default"):
        query = f"?machine={machine}" if machine else ""
        offer = client.get(f"/api/v1/profile/{profile}{query}").json["offered"]
        return offer and offer["store_path"]

    return offered


def machine_at(place, profile="default"):
    """Return the name of a machine with this place in the rollouts of a profile."""
    return next(
        n for n in map("m{}".format, range(10_000)) if rollouts.place_of(profile, n) == place
    )


# --- What is offered ---


def test_only_what_is_published_is_offered(generation, offered, client):
    assert offered() is None
    generation(1, ONE, published=False)
    assert (offered(), offered("web-1")) == (None, None)

    generation(1, ONE)
    generation(2, TWO, published=False)

    shown = client.get(DEFAULT).json
    assert shown["offered"] == {"generation": 1, "store_path": ONE}
    assert (shown["generation"], shown["rollout"]) == (2, {"percent": 100, "rest": None})


def test_a_rollback_is_offered_at_once(generation, offered):
    generation(1, ONE)
    generation(2, TWO)

    generation(1, ONE)

    assert (offered(), offered("web-1")) == (ONE, ONE)


def test_places_are_shared_out_evenly():
    places = [rollouts.place_of("default", name) for name in NAMES]

    assert set(places) == set(range(100))
    assert 60 < sum(place < 10 for place in places) < 140


@SQLITE
def test_whoever_is_in_a_share_is_in_each_larger_one(generation, roll_out, offered):
    generation(1, ONE)
    generation(2, TWO)
    seen = []
    for percent in (1, 30, 99, 100):
        assert roll_out(percent).status_code == 200
        seen.append([offered(machine_at(place)) for place in (0, 29, 98, 99)].count(TWO))

    assert seen == [1, 2, 3, 4]


@SQLITE
def test_each_percent_is_one_place(generation, roll_out, offered):
    generation(1, ONE)
    generation(2, TWO)
    roll_out(10)

    assert [offered(machine_at(place)) for place in (0, 9, 10, 99)] == [TWO, TWO, ONE, ONE]


def test_profiles_begin_with_other_machines():
    first = [name for name in NAMES if rollouts.place_of("default", name) < 10]

    assert first != [name for name in NAMES if rollouts.place_of("team", name) < 10]


def test_a_percentage_that_is_set_beforehand_holds_back_what_comes(
    generation, report, roll_out, offered
):
    early, late = machine_at(3), machine_at(50)
    generation(1, ONE)
    generation(2, TWO)
    report(late, TWO)

    told = roll_out(10).json["rollout"]
    assert told == {"percent": 10, "rest": {"generation": 2, "store_path": TWO}}
    assert (offered(early), offered(late)) == (TWO, TWO)
    generation(3, THREE)
    assert (offered(), offered(early), offered(late)) == (THREE, THREE, TWO)
    generation(4, FOUR)  # what was not rolled out to all goes no further by the next change
    assert (offered(early), offered(late)) == (FOUR, TWO)


def test_a_percentage_that_is_set_before_any_machine_has_the_newest_is_for_that(
    generation, report, roll_out, offered
):
    generation(1, ONE)
    generation(2, TWO)
    generation(2, TWO)
    report(machine_at(50), ONE)

    assert roll_out(10).json["rollout"]["rest"]["store_path"] == ONE

    assert (offered(machine_at(3)), offered(machine_at(50))) == (TWO, ONE)


def test_of_a_first_generation_the_rest_is_offered_nothing(generation, roll_out, offered, report):
    assert roll_out(10).json["rollout"] == {"percent": 10, "rest": None}

    generation(1, ONE)

    assert (offered(machine_at(3)), offered(machine_at(50))) == (ONE, None)
    waiting = report(machine_at(50), None, generation=None).json
    assert (waiting["state"], waiting["offered"]) == ("current", None)


def test_a_rollback_to_what_the_rest_has_takes_the_share_back(
    generation, roll_out, offered, report
):
    generation(1, ONE)
    report("web-1", ONE)
    roll_out(10)
    generation(2, TWO)

    generation(1, ONE)

    assert [offered(machine_at(place)) for place in (3, 50)] == [ONE, ONE]


def test_a_machine_of_the_rest_is_current_with_what_it_has(generation, roll_out, report, client):
    generation(1, ONE)
    generation(2, TWO)
    roll_out(50)

    assert report(machine_at(60), ONE).json["state"] == "current"
    assert report(machine_at(40), ONE).json["state"] == "behind"

    roll_out(61)
    assert client.get(f"/api/v1/machine/{machine_at(60)}").json["state"] == "behind"


def test_rest_that_is_deleted_by_hand_is_no_longer_offered(
    app, generation, roll_out, offered, report
):
    generation(1, ONE)
    report("web-1", ONE)
    roll_out(10)
    generation(2, TWO)
    with app.app_context():
        activation.find("default").forget([1])
        db.session.commit()

    assert (offered(machine_at(3)), offered(machine_at(50))) == (TWO, None)


@SQLITE
@pytest.mark.parametrize("percent", [0, 101, -1, "10", 10.5, None, True])
def test_a_share_is_a_whole_percentage(roll_out, client, percent):
    assert roll_out(percent).status_code == 422
    assert client.get(DEFAULT).json["rollout"]["percent"] == 100


@SQLITE
def test_a_rollout_is_of_a_profile_that_there_is_in_the_state_that_is_meant(roll_out, etag):
    assert roll_out(10, "none").status_code == 404
    assert roll_out(10, headers={"If-Match": '"other"'}).status_code == 412
    assert roll_out(10, headers={"If-Match": etag("default")}).status_code == 200


# --- ETags ---


def test_the_etag_changes_with_what_is_offered_and_an_operators_does_not_get_stale(
    app, generation, roll_out, etag, put, client
):
    generation(1, ONE, profile="team", published=False)
    seen = [etag()]
    with app.app_context():  # as a publication does
        db.session.execute(update(Generation).values(published_at=db.func.now()))
        db.session.commit()
    seen.append(etag())
    roll_out(10, "team")
    seen.append(etag())

    assert len(set(seen)) == 3
    for one in seen:
        assert (
            put("hello 2.12.1", query="?dry_run=true", headers={"If-Match": one}).status_code == 200
        )
    assert client.get("/api/v1/profile/team", headers={"If-None-Match": seen[2]}).status_code == 304


def test_a_machine_has_an_etag_of_its_own_offer(generation, roll_out, client):
    generation(1, ONE)
    generation(2, TWO)
    roll_out(10)

    early, late = (
        client.get(f"{DEFAULT}?machine={machine_at(place)}").headers["ETag"] for place in (3, 50)
    )

    assert early != late
    answer = client.get(f"{DEFAULT}?machine={machine_at(50)}", headers={"If-None-Match": late})
    assert (answer.status_code, answer.headers["ETag"]) == (304, late)


@SQLITE
def test_a_wait_ends_when_another_generation_is_offered(generation, client):
    generation(1, ONE)
    seen = client.get(f"{DEFAULT}?machine=web-1").headers["ETag"]
    generation(2, TWO)
    url = f"{DEFAULT}?machine=web-1&wait=20"

    answer = client.get(url, headers={"If-None-Match": seen})

    assert answer.json["offered"]["store_path"] == TWO


@SQLITE
def test_an_etag_of_an_earlier_version_still_says_which_state_is_meant(put, etag):
    put()
    earlier = '"' + ".".join(etag().strip('"').split(".")[:3]) + '"'

    assert put("hello 2.12.1", headers={"If-Match": earlier}).status_code == 202
    assert put("hello 2.12.1", headers={"If-Match": earlier}).status_code == 412


# --- What is kept ---


@SQLITE
def test_what_machines_are_offered_is_not_collected(
    app, own_store, applied, roll_out, report, client
):
    app.config["KEEP_GENERATIONS"] = 1
    packages = ("hello 2.12.1", "app 1.0.0", "parrot 1.0.0", "app 2.0.0", "hello 2.10.0")
    for n, package in enumerate(packages):
        applied(package, profile="default")
        if n in (1, 3):
            with app.app_context():
                mine = update(Generation).where(Generation.number == n + 1)
                db.session.execute(mine.values(published_at=db.func.now()))
                db.session.commit()
        if n == 1:
            report("web-1", client.get(DEFAULT).json["store_path"])
            roll_out(10)

    with app.app_context():
        done = maintenance.collect_garbage(dry_run=False)

    assert done.generations == ["1", "3"]
    assert nix.generations(app.config["PROFILE"]).keys() == {2, 4, 5}


# --- The gate ---

FROM_TEAM = {"from": "team"}


@pytest.fixture
def promote(client):
    """Return a function that promotes `team` to `default` if its machines are current."""
    url = f"{DEFAULT}/promote?require=current"
    return lambda: client.post(url, json=FROM_TEAM)


@pytest.fixture
def team(applied, app, client):
    """The store path of the profile `team`, which is published."""
    applied("hello 2.12.1")
    with app.app_context():
        db.session.execute(update(Generation).values(published_at=db.func.now()))
        db.session.commit()
    return client.get("/api/v1/profile/team").json["store_path"]


def test_what_all_machines_hold_is_promoted(team, report, promote, silence, held):
    report("a", team, profile="team")
    report("b", ONE, profile="team", state="failed")
    silence("b")
    report("c", ONE, state="failed")

    assert promote().status_code == 200
    assert held("default") == ["hello 2.12.1"]


def test_nothing_is_promoted_while_machines_fail_or_are_behind(team, report, promote, client):
    report("z", team, profile="team")
    for n in range(6):
        report(f"behind-{n}", ONE, profile="team")
    report("failing", team, profile="team", state="failed")

    answer = promote()

    assert answer.json["type"] == "urn:pkgd:problem:machines-not-current"
    assert answer.json["detail"] == (
        "the profile team is not proven by its machines: of 8 heard of lately, 1 failed and 6"
        " behind: failing (failed), behind-0 (behind), behind-1 (behind), behind-2 (behind),"
        " behind-3 (behind), …"
    )
    assert (answer.status_code, client.get(DEFAULT).json["generation"]) == (409, None)


def test_nothing_is_promoted_that_no_machine_holds(team, report, promote, client, silence):
    assert "none that was heard of lately" in promote().json["detail"]
    only_asked = client.post(f"{DEFAULT}/promote?require=current&dry_run=true", json=FROM_TEAM)
    assert only_asked.json == promote().json | {"instance": only_asked.json["instance"]}
    report("a", team, profile="team")
    silence("a")

    assert promote().status_code == 409


@SQLITE
def test_what_only_the_rest_does_not_hold_yet_is_not_promoted_for_its_sake(
    app, applied, team, report, promote, roll_out
):
    rest = machine_at(50, "team")
    report(rest, team, profile="team")
    roll_out(10, "team")
    applied("parrot 1.0.0")
    with app.app_context():
        db.session.execute(update(Generation).values(published_at=db.func.now()))
        db.session.commit()

    assert report(rest, team, profile="team").json["state"] == "current"
    assert "none that was heard of lately" in promote().json["detail"]


@SQLITE
def test_a_promotion_requires_nothing_else(client, team):
    url = f"{DEFAULT}/promote"

    assert client.post(f"{url}?require=all", json={"from": "team"}).status_code == 422
    assert client.post(url, json={"from": "team"}).status_code == 200
