"""Machines: what they report, who may, how they stand, and how they are listed and counted."""

import pytest
from sqlalchemy import event, update
from support import POSTGRESQL, SQLITE, bearing

from machines import states as machine_states
from models import Token, db, soon
from profiles import activation, history
from profiles.models import Profile

WEB = "/api/v1/machine/web-1"
FORMER, NEWER, OTHER = "/nix/store/aaa-profile", "/nix/store/bbb-profile", "/nix/store/ccc-profile"


# --- Reports ---


def test_a_report_makes_a_machine_and_the_next_one_changes_it(client, generation, report):
    generation(3, NEWER)

    first = report(store_path=FORMER, generation=2)
    second = report(store_path=NEWER, generation=3)

    assert (first.status_code, first.json["state"]) == (200, "behind")
    assert (second.status_code, second.json) == (200, client.get(WEB).json)
    assert second.json["seen_at"] > first.json["seen_at"]
    assert second.json | {"seen_at": None} == {
        "name": "web-1",
        "profile": "default",
        "generation": 3,
        "store_path": NEWER,
        "state": "current",
        "error": None,
        "seen_at": None,
        "offered": {"generation": 3, "store_path": NEWER},
    }


@SQLITE
@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"profile": "Bad"}, "profile"),
        ({"generation": -1}, "generation"),
        ({"generation": "3"}, "generation"),
        ({"generation": 2**31}, "generation"),
        ({"store_path": "nix/store"}, "store_path"),
        ({"store_path": "/a\x1bb"}, "store_path"),
        ({"store_path": "/" + "a" * 1024}, "store_path"),
        ({"state": "behind"}, "state"),
        ({"state": None}, "state"),
        ({"error": "x" * 2001}, "error"),
        ({"error": 7}, "error"),
        ({"seen_at": "2024-05-05T09:30:00Z"}, "seen_at"),
    ],
)
def test_a_report_that_breaks_a_rule_is_refused_and_makes_no_machine(client, report, fields, field):
    answer = report(**fields)

    assert (answer.status_code, [*answer.json["errors"]]) == (422, [field])
    assert client.get("/api/v1/machines").json == []


@pytest.mark.parametrize("name", ["-a", ".a", "a_b", "a" * 65, "a%00b", "%C3%A9", "a%0A"])
def test_a_name_that_no_machine_can_have_is_refused_or_not_found(client, report, name):
    assert [*report(name).json["errors"]] == ["name"]
    assert client.get(f"/api/v1/machine/{name}").status_code == 404
    assert client.delete(f"/api/v1/machine/{name}").status_code == 404
    assert client.get(f"/api/v1/profile/default?machine={name}").status_code == 422


def test_a_machine_of_no_profile_is_not_found(client, report):
    answer = report(profile="none")

    assert (answer.status_code, answer.json["detail"]) == (404, "there is no profile 'none'")
    assert client.get(WEB).json["detail"] == "there is no machine 'web-1'"


def test_an_error_is_kept_as_plain_text(report):
    told = report(state="failed", error=" \x1b[31mno\x1b[0m\x00 answer\u202e\non port 80 \n")

    assert (told.json["state"], told.json["error"]) == ("failed", "no answer\non port 80")
    assert report(error="\x1b[0m").json["error"] is None


def test_a_machine_without_a_generation_reports_so(report, generation):
    assert report(store_path=None, generation=None).json["state"] == "current"

    generation(1, FORMER)

    assert report(store_path=None, generation=None).json["state"] == "behind"


def test_a_machine_moves_to_another_profile(client, report, generation):
    generation(1, FORMER)
    generation(1, NEWER, profile="team")

    moved = [report(), report(profile="team")][1].json

    assert (moved["profile"], moved["state"]) == ("team", "behind")
    assert client.get("/api/v1/profile/default").json["machines"]["current"] == 0


def test_a_removed_machine_is_gone_until_it_reports(client, report):
    report()

    assert (client.delete(WEB).status_code, client.delete(WEB).status_code) == (200, 404)
    assert client.get(WEB).status_code == 404
    assert report().status_code == 200


def test_the_machines_of_a_deleted_profile_go_with_it(client, put, report):
    put()
    with client.application.app_context():
        db.session.query(Profile).filter_by(name="team").delete()
        db.session.commit()
    report()

    assert report("db-1", profile="team").status_code == 404
    assert [one["name"] for one in client.get("/api/v1/machines").json] == ["web-1"]


@POSTGRESQL
def test_a_report_of_a_profile_that_is_deleted_meanwhile_is_not_found(app, client, report, race):
    with app.app_context():
        activation.register(["team"])

    def delete():
        history.of("team").remove()
        db.session.commit()

    assert race(delete, lambda: report(profile="team").status_code) == (None, 404)


def test_a_report_is_one_write_and_leaves_the_profile_as_it_is(app, client, report, generation):
    generation(1, FORMER)
    report()
    before = client.get("/api/v1/profile/default").headers["ETag"]
    said = []
    with app.app_context():
        event.listen(db.engine, "before_cursor_execute", lambda *args: said.append(args[2]))

    report(store_path=OTHER)

    writes = [one for one in said if not one.lstrip().startswith(("SELECT", "WITH"))]
    assert [one.split()[:3] for one in writes] == [["INSERT", "INTO", "machines"]]
    assert client.get("/api/v1/profile/default").headers["ETag"] == before


# --- Whose a machine is ---


def test_a_name_belongs_to_the_token_that_reported_it_first(client, report, machine_client):
    mine, others = machine_client(), machine_client()
    assert report(by=mine).status_code == 200

    refused = report(by=others, store_path=OTHER)

    assert (refused.status_code, others.get(WEB).status_code) == (403, 403)
    assert refused.json["type"] == "urn:pkgd:problem:not-your-machine"
    assert (mine.get(WEB).json["store_path"], others.get(WEB).status_code) == (FORMER, 403)
    assert mine.get("/api/v1/machine/web-2").status_code == 404


def test_operators_report_for_a_machine_and_take_no_name(client, report, machine_client, mint, app):
    mine, operator = machine_client(), bearing(app, mint(scope="operate")["token"])
    report("web-2", by=operator)
    report(by=mine)

    assert (report(by=operator).status_code, report(by=client).status_code) == (200, 200)
    assert (report(by=mine).status_code, report("web-2", by=mine).status_code) == (200, 200)


@pytest.mark.parametrize("change", [{"revoked_at": soon(-1)}, {"expires_at": soon(-1)}])
def test_a_name_is_free_once_its_token_is_dead(app, report, machine_client, change):
    mine, others = machine_client(), machine_client()
    report(by=mine)
    with app.app_context():
        db.session.execute(update(Token).where(Token.id == 2).values(**change))
        db.session.commit()

    assert report(by=others).status_code == 200
    assert others.get(WEB).status_code == 200


def test_a_token_reports_a_bounded_number_of_machines(report, machine_client, monkeypatch):
    monkeypatch.setattr("machines.routes.MACHINES_OF_A_TOKEN", 2)
    mine, other = machine_client(), machine_client()
    statuses = [report(name, by=mine).status_code for name in ("a", "b", "c", "a", "b")]

    refused = report("c", by=mine)

    assert statuses == [200, 200, 409, 200, 200]
    assert refused.json["type"] == "urn:pkgd:problem:too-many-machines"
    assert (report("c", by=other).status_code, report("d").status_code) == (200, 200)


# --- How they stand ---


@pytest.fixture
def fleet(generation, report, silence):
    """A machine in each state."""
    generation(1, FORMER)
    generation(2, NEWER)
    report("a-current", NEWER)
    report("b-behind", FORMER)
    report("c-failed", FORMER, state="failed", error="no answer")
    report("d-silent", NEWER, state="failed")
    silence("d-silent")


def test_each_machine_has_its_state(client, fleet):
    machines = client.get("/api/v1/machines")

    assert machines.headers["X-Total-Count"] == "4"
    assert [(one["name"], one["state"]) for one in machines.json] == [
        *(("a-current", "current"), ("b-behind", "behind")),
        *(("c-failed", "failed"), ("d-silent", "silent")),
    ]


@pytest.mark.parametrize("state", ["current", "behind", "failed", "silent"])
def test_machines_are_listed_by_state_and_profile(client, fleet, report, state):
    report("x", profile="default", store_path=NEWER, state="failed")

    found = client.get(f"/api/v1/machines?state={state}&profile=default")

    assert {one["state"] for one in found.json} == {state}
    assert found.headers["X-Total-Count"] == str(len(found.json))
    assert client.get(f"/api/v1/machines?state={state}&profile=none").json == []


def test_machines_are_listed_page_by_page(client, fleet):
    first = client.get("/api/v1/machines?limit=3&profile=default")
    link = first.headers["Link"].partition(">")[0].removeprefix("<")

    second = client.get(link)

    assert [one["name"] for one in first.json + second.json] == [
        *("a-current", "b-behind", "c-failed", "d-silent"),
    ]
    assert "Link" not in second.headers


@SQLITE
@pytest.mark.parametrize("query", ["state=gone", "profile=Bad", "after=a_b", "limit=0", "x=1"])
def test_a_list_of_machines_has_no_other_filters(client, query):
    assert client.get(f"/api/v1/machines?{query}").status_code == 422


@SQLITE
def test_silence_begins_where_the_operator_says(make_app, client, report, silence):
    report()
    silence("web-1")
    patient = bearing(make_app(MACHINE_SILENT_SECONDS=700), client.secret)

    assert patient.get(WEB).json["state"] == "current"
    assert client.get(WEB).json["state"] == "silent"


def test_profiles_count_their_machines(app, client, fleet, report, generation):
    generation(1, OTHER, profile="team")
    report("e", OTHER, profile="team")
    one_each = {"current": 1, "behind": 1, "failed": 1, "silent": 1}
    only_current = {"current": 1, "behind": 0, "failed": 0, "silent": 0}

    listed = client.get("/api/v1/profiles").json

    assert [one["machines"] for one in listed] == [one_each, only_current]
    assert client.get("/api/v1/profile/team").json["machines"] == only_current
    assert client.get("/api/v1/profile/team?machine=e").json["machines"] is None


def test_machines_are_counted_in_the_metrics_by_state(scrape, fleet):
    found = scrape()

    states = ("current", "behind", "failed", "silent")
    assert [found["pkgd_machines", state] for state in states] == [1, 1, 1, 1]


@SQLITE
def test_what_machines_are_offered_is_looked_up_once_for_a_profile_not_for_each(app):
    with app.app_context(), db.engine.connect() as connection:
        counted = str(
            machine_states.BY_STATE.compile(db.engine, compile_kwargs={"literal_binds": 1})
        )
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {counted}")
        steps = [row.detail for row in plan]

    assert "MATERIALIZE offers" in steps
