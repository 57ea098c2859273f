"""Named profiles: which there are, how each is shown, promoted, deleted, and kept apart."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import event
from support import POSTGRESQL, SQLITE, bearing, until

import nix
from errors import NoSuchProfile
from maintenance import collect_garbage, reconcile
from models import db
from profiles import activation, applies, history

HELLO, OLD_HELLO, PARROT, APP = "hello 2.12.1", "hello 2.10.0", "parrot 1.0.0", "app 1.0.0"
TEAM = "/api/v1/profile/team"
ITSELF = "It is the profile itself."


@pytest.fixture
def promote(client):
    """Return a function that promotes a profile, and returns the answer."""

    def promote(source="team", to="production", **more):
        return client.post(f"/api/v1/profile/{to}/promote", json={"from": source}, **more)

    return promote


@pytest.fixture
def run_reconcile(app):
    """Return a function that reconciles, and returns the sentences about the corrections."""

    def run_reconcile(**more):
        with app.app_context():
            return reconcile(**more)

    return run_reconcile


def links(app, name="team"):
    """Return the names of the links of a profile, its generations among them."""
    return sorted(path.name for path in (app.config["DATA_DIR"] / "profiles").glob(f"{name}*"))


# --- Showing ---


def test_the_default_profile_always_exists(client, profile, activated):
    assert [one["name"] for one in client.get("/api/v1/profiles").json] == ["default"]
    assert client.get("/api/v1/profile/default").json["generation"] is None

    activated("app", "1.0.0")

    shown = client.get("/api/v1/profile/default").json
    assert shown["path"] == str(profile)
    assert (shown["generation"], shown["store_path"]) == (1, str(profile.resolve()))
    assert shown["packages"] == [{"id": 1, "name": "app", "version": "1.0.0"}]


@SQLITE
def test_a_profile_shows_the_apply_that_waits(put, client, work):
    task_id = put(HELLO).json["task_id"]
    before = client.get(TEAM)
    assert before.json["task_id"] == task_id

    work()

    after = client.get(TEAM)
    assert (after.json["task_id"], after.json["packages"][0]["name"]) == (None, "hello")
    assert before.headers["ETag"] != after.headers["ETag"]
    assert before.json["changed_at"] < after.json["changed_at"]


@SQLITE
def test_all_profiles_are_listed_by_one_select_and_their_machines_counted_by_one(app, client, put):
    for n in range(5):
        put(profile=f"team-{n}")
    said = []
    with app.app_context():
        event.listen(db.engine, "before_cursor_execute", lambda *args: said.append(args[2]))

    assert len(client.get("/api/v1/profiles").json) == 6

    selects = [statement for statement in said if "FROM profiles" in statement]
    assert ["FROM machines" in statement for statement in selects] == [True, False]


@SQLITE
def test_lists_can_be_of_a_profile_or_a_kind(applied, client):
    applied(HELLO)
    applied(APP, profile="other")

    (package,) = client.get("/api/v1/packages?profile=team").json
    tasks = client.get("/api/v1/tasks?profile=team")

    assert package["name"] == "hello"
    assert [(one["kind"], one["profile"]) for one in tasks.json] == [("apply", "team")]
    assert tasks.headers["X-Total-Count"] == "1"
    assert len(client.get("/api/v1/tasks?kind=download").json) == 2
    assert client.get("/api/v1/packages?profile=none").json == []


@SQLITE
@pytest.mark.parametrize("name", ["Team", "1", "a_b", "a" * 33, "a-1-link", "a%00b", "%C3%A9", "."])
def test_a_name_that_no_profile_can_have_is_not_found_or_refused(client, name):
    url = f"/api/v1/profile/{name}"
    body = {"packages": []}

    assert (client.get(url).status_code, client.delete(url).status_code) == (404, 404)
    assert client.put(url, json=body).status_code == 422
    assert client.put(f"{url}?dry_run=true", json=body).status_code == 422
    assert [*client.put(url, json=body).json["errors"]] == ["name"]


@SQLITE
def test_no_profile_takes_the_place_of_the_default_one(client, app, put):
    app.config["PROFILE"] = app.config["DATA_DIR"] / "profiles" / "main"

    assert put(profile="main").status_code == 422
    assert put(profile="main-1").status_code == 202


# --- ETags ---


@SQLITE
@pytest.mark.parametrize("given", ["{}", 'W/{}, "other"', '"other", {}', "*"])
def test_what_is_known_already_is_not_sent_again(applied, client, etag, given):
    applied(HELLO)

    answer = client.get(TEAM, headers={"If-None-Match": given.format(etag())})

    assert (answer.status_code, answer.data) == (304, b"")
    assert answer.headers["ETag"] == etag()


@SQLITE
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"If-Match": "{}"}, 200),
        ({"If-Match": '"other", {}'}, 200),
        ({"If-Match": "*"}, 200),
        ({"If-Match": '"other"'}, 412),
        ({"If-Match": "W/{}"}, 412),
        ({"If-Match": ""}, 412),
        ({"If-None-Match": '"other"'}, 200),
        ({"If-None-Match": "{}"}, 412),
        ({"If-None-Match": "W/{}"}, 412),
        ({"If-None-Match": "*"}, 412),
    ],
)
def test_a_set_is_refused_in_another_state_of_the_profile(put, applied, etag, headers, status):
    applied(HELLO)
    headers = {name: value.format(etag()) for name, value in headers.items()}

    answers = [put(HELLO, query=query, headers=headers) for query in ("", "?dry_run=true")]

    assert [answer.status_code for answer in answers] == [status, status]


@SQLITE
def test_a_profile_can_be_made_only_where_there_is_none(put, client):
    there = put(HELLO, headers={"If-Match": "*"})
    new = put(HELLO, headers={"If-None-Match": "*"})

    assert (there.status_code, new.status_code) == (412, 202)
    assert "its ETag is none" in there.json["detail"]
    assert put(PARROT, headers={"If-None-Match": "*"}).status_code == 412
    assert client.get(TEAM, headers={"If-Match": '"other"'}).status_code == 412


@SQLITE
def test_a_profile_that_is_made_anew_has_another_etag(put, client, etag, work):
    put(HELLO)
    work()
    before = etag()
    client.delete(TEAM)

    put(HELLO)
    work()

    assert before.split(".")[1:] == etag().split(".")[1:]
    assert before != etag()


# --- Waiting ---


@pytest.fixture
def waiting(app, client):
    """Return a function that waits for a profile in a thread; it returns the future answer."""
    with ThreadPoolExecutor(1) as threads:

        def waiting(url=TEAM, **headers):
            one = bearing(app, client.secret)
            future = threads.submit(one.get, f"{url}?wait=20", headers=headers)
            slots = app.extensions["pkgd.FollowerSlots"]
            until(lambda: slots._value < app.config["MAX_FOLLOWERS"])
            return future

        yield waiting


@SQLITE
@pytest.mark.parametrize("names_it", [True, False])
def test_a_wait_ends_when_the_profile_changes(applied, waiting, client, etag, names_it):
    applied(HELLO)
    seen = etag()
    answer = waiting(**({"If-None-Match": seen} if names_it else {}))

    client.post("/api/v1/package/1/deactivate?profile=team")

    assert answer.result().headers["ETag"] != seen
    assert answer.result().json["packages"] == []


@SQLITE
def test_a_wait_for_what_has_changed_already_ends_at_once(applied, client, etag):
    applied(HELLO)

    answer = client.get(f"{TEAM}?wait=20", headers={"If-None-Match": '"other"'})

    assert (answer.status_code, answer.headers["ETag"]) == (200, etag())


@SQLITE
def test_a_wait_without_a_change_ends_with_what_is_known(applied, client, etag):
    applied(HELLO)

    known = client.get(f"{TEAM}?wait=0.01", headers={"If-None-Match": etag()})
    shown = client.get(f"{TEAM}?wait=0.01")

    assert (known.status_code, shown.status_code) == (304, 200)


@SQLITE
def test_as_many_as_are_allowed_wait_and_others_are_told_to_come_again(make_app, client, applied):
    applied(HELLO)
    other = bearing(make_app(MAX_FOLLOWERS=1), client.secret)
    assert other.application.extensions["pkgd.FollowerSlots"].acquire(blocking=False)

    answer = other.get(f"{TEAM}?wait=20")

    assert (answer.status_code, answer.headers["Retry-After"]) == (200, "1")


@SQLITE
def test_a_wait_for_a_profile_that_is_deleted_ends(applied, waiting, client):
    applied(HELLO)
    answer = waiting()

    client.delete(TEAM)

    # It is empty for a moment before it is gone.
    assert answer.result().status_code == 404 or answer.result().json["packages"] == []


# --- Promoting ---


def test_a_promotion_is_the_very_store_path_in_one_generation(
    applied, promote, client, held, etag, app
):
    applied(HELLO, APP)
    answer = promote()

    team, production = (client.get(f"/api/v1/profile/{n}").json for n in ("team", "production"))
    assert (answer.status_code, answer.json) == (200, production)
    assert production["store_path"] == team["store_path"]
    assert held("production") == held("team")
    (generation,) = client.get("/api/v1/generations?profile=production").json
    assert [change["reason"] for change in generation["changes"]] == ["promote"]
    before = etag("production")
    assert promote().status_code == 200
    assert etag("production") == before
    assert links(app, "production") == ["production", "production-1-link"]


@SQLITE
def test_after_a_promotion_there_is_a_way_back(applied, promote, client, held):
    applied(OLD_HELLO, profile="production")
    applied(HELLO)
    promote()

    back = client.post("/api/v1/generations/rollback?profile=production")

    assert (back.status_code, back.json["number"]) == (200, 1)
    assert held("production") == [OLD_HELLO]
    assert client.get("/api/v1/package/2").json["profiles"] == ["team"]


@SQLITE
def test_a_profile_is_not_promoted_to_itself(applied, promote, etag):
    applied(HELLO)
    before = etag()

    answer = promote(to="team")

    assert (answer.status_code, answer.json["errors"]) == (422, {"from": [ITSELF]})
    assert etag() == before


@SQLITE
def test_a_promotion_that_is_only_asked_for_changes_nothing(applied, promote, client):
    applied(HELLO)

    answer = promote(query_string={"dry_run": "true"})

    assert (answer.status_code, answer.json["name"]) == (200, "team")
    assert client.get("/api/v1/profile/production").status_code == 404
    assert promote(to="a-1-link", query_string={"dry_run": "true"}).status_code == 422
    assert promote("default", query_string={"dry_run": "true"}).status_code == 409


@SQLITE
def test_to_the_default_profile_can_be_promoted(applied, promote, held, run_program):
    applied(APP)

    assert promote(to="default").status_code == 200

    assert (held("default"), run_program()) == ([APP], "app 1.0.0")


@SQLITE
def test_an_empty_profile_can_not_be_promoted(client, put, promote):
    put(HELLO)

    answer = promote()

    assert (answer.status_code, answer.json["type"]) == (409, "urn:pkgd:problem:nothing-to-promote")
    assert promote("none").status_code == 404
    assert promote("default", to="a-1-link").status_code == 422
    assert client.get("/api/v1/profile/production").status_code == 404


@SQLITE
def test_a_generation_whose_files_are_gone_can_not_be_promoted(app, applied, promote):
    applied(HELLO)
    link = app.config["DATA_DIR"] / "profiles" / "team-1-link"
    link.unlink()
    link.symlink_to("/nonexistent")

    assert promote().json["type"] == "urn:pkgd:problem:nothing-to-promote"


@SQLITE
def test_a_promotion_that_fails_the_check_makes_no_profile(app, applied, promote, client):
    applied(HELLO)
    app.config["PROFILE_CHECK"] = "false"

    assert promote().json["type"] == "urn:pkgd:problem:check-failed"

    assert client.get("/api/v1/profile/production").status_code == 404
    assert links(app, "production") == []


@SQLITE
def test_a_promotion_is_refused_in_another_state_of_the_profile(applied, promote, etag):
    applied(HELLO)
    applied(APP, profile="production")
    seen = etag("production")
    applied(PARROT, profile="production")

    assert promote(headers={"If-Match": seen}).status_code == 412
    assert promote(headers={"If-Match": etag("production")}).status_code == 200


@SQLITE
def test_a_promotion_follows_what_somebody_has_made_of_both(
    app, applied, promote, held, store, tmp_path, client
):
    applied(HELLO)
    applied(APP, profile="production")
    one = client.get("/api/v1/package/1").json
    hello = nix.ProfilePackage("hello", "2.12.1", (one["store_path"],))
    for name in ("team", "production"):
        path = app.config["DATA_DIR"] / "profiles" / name
        nix.set_profile(store, path, [], tmp=tmp_path)
    nix.set_profile(store, path.with_name("team"), [hello], tmp=tmp_path)

    promote()

    generations = client.get("/api/v1/generations?profile=production").json
    reasons = [one["changes"][0]["reason"] for one in generations]
    assert (held("production"), reasons) == ([HELLO], ["promote", "found", "apply"])


# --- Deleting ---


def test_a_deleted_profile_leaves_its_packages_downloaded(app, applied, client, statuses):
    applied(HELLO)
    applied(HELLO, PARROT)
    task_id = client.get("/api/v1/tasks?profile=team").json[0]["id"]

    answer = client.delete(TEAM)

    assert (answer.status_code, answer.json) == (200, {})
    assert client.get(TEAM).status_code == 404
    assert client.get(f"/api/v1/task/{task_id}").status_code == 404
    assert set(statuses().values()) == {"downloaded"}
    assert links(app) == []


@SQLITE
def test_some_profiles_can_not_be_deleted(client, put, applied):
    put(HELLO)

    kept = client.delete("/api/v1/profile/default"), client.delete(TEAM)

    assert [answer.status_code for answer in kept] == [409, 409]
    assert "it always exists" in kept[0].json["detail"]
    assert "a set is being applied" in kept[1].json["detail"]
    assert client.delete("/api/v1/profile/none").status_code == 404


@SQLITE
def test_a_profile_in_another_state_is_not_deleted(client, applied, etag):
    applied(HELLO)

    assert client.delete(TEAM, headers={"If-Match": '"other"'}).status_code == 412
    assert client.delete(TEAM, headers={"If-Match": etag()}).status_code == 200


def _unconditionally(_profile):
    return False


@SQLITE
def test_a_profile_that_is_deleted_meanwhile_is_not_found(app, put, work):
    put()
    work()
    with app.app_context():
        team = history.of("team")
        activation.delete(team, _unconditionally)

        with pytest.raises(NoSuchProfile):
            activation.delete(team, _unconditionally)


@POSTGRESQL
def test_a_set_that_is_given_to_a_profile_while_it_is_deleted_is_kept(app, client, applied, race):
    applied(HELLO)
    with app.app_context():
        team = history.of("team")

    def accept():
        wanted = [("parrot", "1.0.0")]
        return applies.accept(
            "team", dict.fromkeys(wanted), _unconditionally, by=None, request_id=None
        )

    _, task_id = race(lambda: activation.delete(team, _unconditionally), accept)

    shown = client.get(TEAM).json
    assert (shown["task_id"], shown["generation"]) == (str(task_id), None)


# --- Each by itself ---


def test_the_older_routes_take_a_profile(client, activated, downloaded, put, work, held):
    package_id = activated("app", "1.0.0")
    put()
    work()

    client.post(f"/api/v1/package/{package_id}/activate?profile=team")
    assert (held("default"), held("team")) == ([APP], [APP])
    client.post(f"/api/v1/package/{package_id}/deactivate")
    assert (held("default"), held("team")) == ([], [APP])
    assert client.post("/api/v1/generation/1/activate?profile=team").status_code == 200

    assert held("team") == []
    for url in ("package/1/activate", "generations/rollback", "generation/1/activate"):
        assert client.post(f"/api/v1/{url}?profile=none").status_code == 404
    assert client.get("/api/v1/generations?profile=none").status_code == 404


@SQLITE
def test_old_generations_of_each_profile_are_collected(app, own_store, applied, client):
    app.config["KEEP_GENERATIONS"] = 1
    for profile in ("one", "two"):
        for package in (HELLO, APP, PARROT):
            applied(package, profile=profile)
    client.post("/api/v1/generation/1/activate?profile=one")

    with app.app_context():
        done = collect_garbage(dry_run=False)

    assert done.generations == ["2 of one", "1 of two", "2 of two"]
    left = client.get("/api/v1/generations?profile=one").json
    assert [one["number"] for one in left] == [3, 1]


@SQLITE
def test_a_switch_by_hand_is_recorded_of_the_profile_it_was_in(
    app, applied, store, run_reconcile, held, etag
):
    applied(HELLO)
    applied(APP)
    applied(PARROT, profile="other")
    before = etag(), etag("other")
    nix.switch_generation(store, app.config["DATA_DIR"] / "profiles" / "team", 1)

    said = run_reconcile()

    assert "the profile team was switched to generation 1 by somebody else" in said
    assert (held(), held("other")) == ([HELLO], [PARROT])
    assert (etag() != before[0], etag("other") == before[1]) == (True, True)


@SQLITE
def test_profiles_that_a_restored_database_does_not_know_are_taken_up(
    app, applied, run_reconcile, held
):
    folder = app.config["DATA_DIR"] / "profiles"
    applied(HELLO)
    with app.app_context():
        history.of("team").remove()
        db.session.commit()
    for junk in ("Junk", "empty", "a-1-link"):
        (folder / junk).symlink_to("/nonexistent")
    (folder / "folder").mkdir()

    said = run_reconcile()

    assert said[0] == "the profile team is in its folder, and was not in the database"
    assert "hello 2.12.1 is in the profile team" in said
    assert held() == [HELLO]
    assert run_reconcile() == []


@SQLITE
def test_a_set_that_is_applied_to_a_profile_without_a_row_takes_it_up(app, applied, client):
    applied(HELLO)
    with app.app_context():
        history.of("team").remove()
        db.session.commit()

    applied(APP)

    generations = client.get("/api/v1/generations?profile=team").json
    reasons = [one["changes"][0]["reason"] for one in generations]
    assert [(one["number"], one["active"]) for one in generations] == [(2, True), (1, False)]
    assert reasons == ["apply", "found"]


@SQLITE
def test_a_profile_without_a_generation_is_empty(app, applied, run_reconcile, held, client):
    applied(HELLO)
    for link in (app.config["DATA_DIR"] / "profiles").glob("team*"):
        link.unlink()

    said = run_reconcile()

    assert "hello 2.12.1 is not in the profile team" in said
    assert (held(), client.get(TEAM).json["generation"]) == ([], None)
