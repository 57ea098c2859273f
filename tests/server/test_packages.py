"""The routes of packages: registering, listing, scheduling downloads, forgetting."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from support import SQLITE, bearing

from models import PackageStatus

CREATED = {
    "id": 1,
    "name": "hello",
    "version": "2.12.1",
    "status": "created",
    "catalog": None,
    "attr": None,
    "spelled": None,
    "catalog_sha256": None,
    "drv_path": None,
    "store_path": None,
    "closure_size": None,
    "profiles": [],
    "task": None,
}


def without_times(document):
    """Return the document without its two times."""
    times = {"created_at", "updated_at"}
    assert all(document[name].endswith("Z") for name in times)
    return {name: value for name, value in document.items() if name not in times}


def test_a_package_is_registered(client):
    answer = client.post("/api/v1/packages", json={"name": "hello", "version": "2.12.1"})

    assert answer.status_code == 201
    assert answer.headers["Location"] == "/api/v1/package/1"
    assert without_times(answer.json) == CREATED
    assert client.get("/api/v1/package/1").json == answer.json


def test_a_version_is_registered_once(client, register):
    register()

    answer = client.post("/api/v1/packages", json={"name": "hello", "version": "2.12.1"})

    assert answer.status_code == 409
    assert answer.json["detail"] == "hello 2.12.1 is registered already"
    assert answer.json["type"] == "urn:pkgd:problem:package-exists"


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"name": "x"}, {"name", "version"}),
        ({"name": "x", "version": "1.0.0"}, {"name"}),
        ({"name": "a" * 51, "version": "1.0.0"}, {"name"}),
        ({"name": "1password", "version": "1.0.0"}, {"name"}),
        ({"name": "hello; id", "version": "1.0.0"}, {"name"}),
        ({"name": "hello\n", "version": "1.0.0"}, {"name"}),
        ({"name": "../../etc", "version": "1.0.0"}, {"name"}),
        ({"name": "hello", "version": "2.10"}, {"version"}),
        ({"name": "hello", "version": "01.2.3"}, {"version"}),
        ({"name": "hello", "version": "1.0.0\n"}, {"version"}),
        ({"name": "hello", "version": "1.0.0; rm -rf /"}, {"version"}),
        ({"name": "hello", "version": "1.0.0+" + "b" * 64}, {"version"}),
        ({"version": 1}, {"name", "version"}),
        ({"name": None, "version": True}, {"name", "version"}),
        ({"name": "hello", "version": "1.0.0", "shell": "sh"}, {"shell"}),
        ([], {"body"}),
        ("hello", {"body"}),
        (None, {"name", "version"}),
    ],
)
def test_invalid_fields_are_named_and_register_nothing(client, body, fields):
    answer = client.post("/api/v1/packages", json=body)

    assert answer.status_code == 422
    assert answer.content_type == "application/problem+json"
    assert set(answer.json["errors"]) == fields
    assert client.get("/api/v1/packages").json == []


@pytest.mark.parametrize("name", ["ab", "_x", "gtk+3.0", "python3Packages.requests", "a" * 50])
@pytest.mark.parametrize("version", ["0.0.0", "1.2.3-rc.1+build.5", "9" * 50 + ".0.0"])
def test_every_valid_name_and_version_is_accepted(client, name, version):
    answer = client.post("/api/v1/packages", json={"name": name, "version": version})

    assert (answer.status_code, answer.json["name"]) == (201, name)


@pytest.mark.parametrize(
    ("version", "meant"),
    [("2.10", "2.10.0"), ("1.0.2k", "1.0.2+k"), ("1.0~rc1", "1.0.0-rc1"), ("\ud800", "0.0.0")],
)
def test_the_error_of_a_version_says_which_one_is_meant(client, version, meant):
    body = json.dumps({"name": "hello", "version": version})

    answer = client.post("/api/v1/packages", data=body, content_type="application/json")

    (message,) = answer.json["errors"]["version"]
    assert (answer.status_code, f"did you mean {meant}?" in message) == (422, True)


def test_the_error_of_a_long_name_has_its_length_and_the_setting(client):
    answer = client.post("/api/v1/packages", json={"name": "a" * 51, "version": "1.0.0"})

    expected = "A name has 2 to 50 characters (NAME_LENGTH of the server); this one has 51."
    assert answer.json["errors"]["name"] == [expected]


def test_a_longer_name_is_accepted_where_the_setting_allows_it(client, make_app):
    client.application = make_app(NAME_LENGTH=128)

    answer = client.post("/api/v1/packages", json={"name": "a" * 128, "version": "1.0.0"})

    assert (answer.status_code, answer.json["name"]) == (201, "a" * 128)


def test_of_many_equal_registrations_at_once_one_succeeds(app, client):
    def post(_):
        one = bearing(app, client.secret)
        return one.post("/api/v1/packages", json={"name": "hello", "version": "1.0.0"}).status_code

    with ThreadPoolExecutor(16) as threads:
        statuses = list(threads.map(post, range(50)))

    assert sorted(statuses) == [201] + [409] * 49


def test_many_equal_downloads_at_once_share_one_task(app, client, register):
    package_id = register()

    def post(_):
        answer = bearing(app, client.secret).post(f"/api/v1/package/{package_id}/download")
        return answer.status_code, answer.json["task_id"]

    with ThreadPoolExecutor(16) as threads:
        answers = set(threads.map(post, range(50)))

    assert len(answers) == 1
    assert client.get("/api/v1/tasks").headers["X-Total-Count"] == "1"


def test_a_package_shows_its_scheduled_task(client, register):
    package_id = register()

    answer = client.post(f"/api/v1/package/{package_id}/download")

    assert answer.status_code == 202
    assert answer.json["status"] == "created"
    task = {"id": answer.json["task_id"], "status": "queued", "error": None}
    assert client.get(f"/api/v1/package/{package_id}").json["task"] == task


def test_a_failed_download_can_be_scheduled_again(client, schedule, pool):
    first = schedule("nosuch", "1.0.0")
    pool.run_one()

    again = client.post("/api/v1/package/1/download")

    assert again.status_code == 202
    assert again.json["task_id"] != first


def test_a_download_of_a_downloaded_package_names_the_task_that_did_it(client, downloaded):
    package_id = downloaded()
    done = client.get(f"/api/v1/package/{package_id}").json["task"]["id"]

    answer = client.post(f"/api/v1/package/{package_id}/download")

    assert answer.status_code == 200
    assert answer.json == {"status": "downloaded", "task_id": done}


@pytest.mark.parametrize("path", ["package/7", "package/7/download", "package/7/activate"])
def test_an_unknown_package_is_not_found(client, path):
    answer = client.open(f"/api/v1/{path}", method="GET" if path == "package/7" else "POST")

    assert answer.status_code == 404
    assert answer.json["detail"] == "there is no package 7"


def test_the_links_lead_through_all_pages(client, add_packages):
    add_packages(5)

    pages, url = [], "/api/v1/packages?limit=2"
    while url:
        answer = client.get(url)
        assert answer.headers["X-Total-Count"] == "5"
        pages.append([package["id"] for package in answer.json])
        url = answer.headers.get("Link", "").removeprefix("<").removesuffix('>; rel="next"')

    assert pages == [[1, 2], [3, 4], [5]]


def test_packages_are_filtered_by_name_and_status(client, add_packages):
    add_packages(3)

    found = client.get("/api/v1/packages?status=created&name=made-1&limit=1")

    assert [package["name"] for package in found.json] == ["made-1"]
    assert found.headers["X-Total-Count"] == "1"
    assert "Link" not in found.headers
    assert client.get("/api/v1/packages?status=activated").json == []


def test_the_next_page_is_there_though_the_package_before_it_was_deleted(client, add_packages):
    add_packages(3)
    url = client.get("/api/v1/packages?limit=2").headers["Link"].split(">")[0].lstrip("<")

    for package_id in (1, 2):
        assert client.delete(f"/api/v1/package/{package_id}").status_code == 200

    assert [package["id"] for package in client.get(url).json] == [3]


def test_a_filter_is_kept_in_the_link_to_the_next_page(client, add_packages):
    add_packages(3)

    link = client.get("/api/v1/packages?status=created&limit=1").headers["Link"]

    assert link == '</api/v1/packages?status=created&limit=1&after=1>; rel="next"'


@pytest.mark.parametrize(
    "query",
    [
        *("limit=0", "limit=1001", "limit=ten", "limit=1_0", "limit=%D9%A3"),
        *("after=-1", "after=2147483648", "status=lost", "colour=red"),
    ],
)
def test_an_invalid_query_is_refused(client, query):
    answer = client.get(f"/api/v1/packages?{query}")

    assert answer.status_code == 422
    assert list(answer.json["errors"]) == [query.partition("=")[0]]


def test_packages_are_there_after_a_restart(make_app, client, register):
    register()

    restarted = bearing(make_app(), client.secret)

    assert restarted.get("/api/v1/package/1").json["status"] == PackageStatus.CREATED


@SQLITE
def test_a_forgotten_package_has_no_tasks_and_no_gc_roots(app, client, downloaded):
    package_id = downloaded()
    assert len(list((app.config["DATA_DIR"] / "roots").iterdir())) == 1

    answer = client.delete(f"/api/v1/package/{package_id}")

    assert (answer.status_code, answer.json) == (200, {})
    assert client.get(f"/api/v1/package/{package_id}").status_code == 404
    assert client.get("/api/v1/tasks").json == []
    assert list((app.config["DATA_DIR"] / "roots").iterdir()) == []


def test_an_active_package_can_not_be_forgotten(client, activated, statuses):
    answer = client.delete(f"/api/v1/package/{activated()}")

    assert (answer.status_code, answer.json["detail"]) == (409, "app 1.0.0 is activated")
    assert statuses() == {"app 1.0.0": "activated"}


def test_a_package_with_a_live_task_can_not_be_forgotten(client, schedule):
    schedule()

    answer = client.delete("/api/v1/package/1")

    assert (answer.status_code, answer.json["detail"]) == (409, "hello 2.12.1 is downloading")
