"""Scope sync: a machine's token reads what machines need, reports itself, and does nothing else."""

import pytest
from sqlalchemy import select, update
from support import SQLITE, bearing

import services
from models import Token, db, soon
from openapi import ApiDocument

pytestmark = SQLITE
ALLOWED = {
    "profiles_index",
    "profiles_show",
    "machines_show",
    "machines_report",
    "cache_show",
    "tokens_own",
}
VALUES = {
    "{machine_name}": "web-1",
    "{name}": "hello",
    "{number}": "1",
    "{package_id}": "1",
    "{profile_name}": "default",
    "{task_id}": "00000000-0000-0000-0000-000000000000",
    "{token_id}": "1",
}
METHODS = ("get", "put", "post", "delete", "patch")


@pytest.fixture
def machine(machine_client, report):
    """A client with a token of scope sync, which has reported web-1."""
    machine = machine_client()
    assert report(by=machine).status_code == 200
    return machine


def operations(app):
    """Yield id, method and path of each operation of the API document that needs a token."""
    with app.test_request_context():
        document = services.get(ApiDocument)._document
    for path, operations in document["paths"].items():
        for parameter, value in VALUES.items():
            path = path.replace(parameter, value)
        for method in METHODS:
            if method in operations and operations[method]["security"]:
                yield operations[method]["operationId"], method, path


def test_a_machines_token_is_refused_wherever_it_is_not_for(app, machine):
    refused = [one for one in operations(app) if one[0] not in ALLOWED]

    answers = {one: machine.open(one[2], method=one[1].upper()) for one in refused}

    assert len(refused) >= 30
    assert [one for one, answer in answers.items() if answer.status_code != 403] == []
    assert all("the token's is sync" in answer.json["detail"] for answer in answers.values())


def test_a_machines_token_is_taken_where_it_is_for(app, machine, client):
    allowed = [one for one in operations(app) if one[0] in ALLOWED]
    body = {"profile": "default", "state": "current"}

    statuses = [
        machine.open(
            path, method=method.upper(), json=body if method == "put" else None
        ).status_code
        for _, method, path in allowed
    ]

    assert len(allowed) >= 5
    assert set(statuses) <= {200, 404}  # the latter of a cache that is not set up
    assert machine.head("/api/v1/profile/default").status_code == 200


@pytest.mark.parametrize("file", ["nix-cache-info", f"{'a' * 32}.narinfo", "nar/x.nar.zst"])
def test_a_machines_token_reads_the_files_of_the_cache_by_basic_too(machine, anonymous, file):
    basic = anonymous.get(f"/cache/{file}", auth=("pkgd", machine.secret))

    statuses = {machine.get(f"/cache/{file}").status_code, basic.status_code}
    assert statuses == {404}  # since none is set up, and not 401 or 403
    assert anonymous.get("/api/v1/profiles", auth=("pkgd", machine.secret)).status_code == 401


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("GET", "/nope"), ("GET", "/api/v1/machine/web-2/x"), ("PATCH", "/api/v1/machine/web-1")),
        *(("POST", "/api/v1/profiles"), ("OPTIONS", "/api/v1/packages"), ("HEAD", "/metrics")),
        *(("DELETE", "/api/v1/profile/default"), ("PUT", "/api/v1/profile/default/rollout")),
    ],
)
def test_a_machines_token_learns_of_no_other_url_or_method(machine, method, path):
    assert machine.open(path, method=method).status_code == 403


def test_a_reader_reports_no_machine(app, mint, report):
    answer = report(by=bearing(app, mint(scope="read")["token"]))

    assert answer.status_code == 403
    assert answer.json["detail"] == "this needs scope sync; the token's is read"


@pytest.mark.parametrize(("scope", "status"), [("read", 403), ("operate", 403), ("admin", 201)])
def test_only_an_admin_mints_a_machines_token(app, mint, scope, status):
    minting = bearing(app, mint(scope=scope)["token"])

    assert minting.post("/api/v1/tokens", json={"scope": "sync"}).status_code == status


def test_a_machines_token_mints_none(machine):
    assert machine.post("/api/v1/tokens", json={"scope": "sync"}).status_code == 403


def test_the_host_mints_a_machines_token(app):
    made = app.test_cli_runner().invoke(args=["create-token", "--scope", "sync"])

    machine = bearing(app, made.output.strip())
    assert machine.get("/api/v1/token").json["scope"] == "sync"


def test_the_document_says_what_a_machines_token_may_read(app):
    with app.test_request_context():
        paths = services.get(ApiDocument)._document["paths"]

    profile, machine = paths["/api/v1/profiles"]["get"], paths["/api/v1/machine/{machine_name}"]
    assert profile["description"].endswith("Needs a token of scope `read` or `sync`.")
    assert machine["put"]["description"].endswith("Needs a token of scope `sync`.")


def test_the_use_of_a_machines_token_is_noted_each_quarter_of_an_hour(app, machine, client):
    def noted_after(seconds):
        before = soon(-seconds)
        with app.app_context():
            mine = update(Token).where(Token.id == 2)
            db.session.execute(mine.values(last_used_at=before))
            db.session.commit()
        machine.get("/api/v1/profiles")
        with app.app_context():
            return db.session.scalar(select(Token.last_used_at).where(Token.id == 2)) > before

    assert (noted_after(870), noted_after(930)) == (False, True)


def test_reports_are_not_logged_unless_they_are_refused(machine, report, caplog):
    report(by=machine)
    report(by=machine, profile="none")

    assert [record.status for record in caplog.records] == [404]
