"""The profile: activation, replacement, collisions, generations and the way back."""

import fcntl
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest
from support import SQLITE, bearing

import profiles
import services
from worker import Pool


@pytest.fixture
def profile(app):
    """The profile's path."""
    return app.config["PROFILE"]


def run(profile, program="app"):
    """Run a program of the profile and return what it prints."""
    done = subprocess.run([profile / "bin" / program], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def statuses(client):
    """Return every package's status, by name and version."""
    packages = client.get("/api/v1/packages").json
    return {f"{package['name']} {package['version']}": package["status"] for package in packages}


def generations(client):
    """Return each generation's number, newest first, with what it holds and why."""
    return [
        (
            generation["number"],
            [f"{package['name']} {package['version']}" for package in generation["packages"]],
            [change["reason"] for change in generation["changes"]],
        )
        for generation in client.get("/api/v1/generations").json
    ]


@SQLITE
def test_an_activated_package_runs_from_the_profile(client, activated, profile):
    activated("hello", "2.12.1")

    assert "Hello" in run(profile, "hello")
    assert statuses(client) == {"hello 2.12.1": "activated"}


def test_what_is_not_downloaded_is_not_activated(client, register, profile):
    answer = client.post(f"/api/v1/package/{register()}/activate")

    assert answer.status_code == 409
    assert answer.json["detail"] == "hello 2.12.1 is not downloaded"
    assert answer.json["type"] == "urn:pkgd:problem:not-downloaded"
    assert not profile.exists()


def test_another_version_replaces_the_first(client, activated, profile):
    activated("app", "1.0.0")
    activated("app", "2.0.0")

    assert run(profile) == "app 2.0.0"
    assert statuses(client) == {"app 1.0.0": "downloaded", "app 2.0.0": "activated"}
    assert generations(client) == [
        (2, ["app 2.0.0"], ["replace"]),
        (1, ["app 1.0.0"], ["activate"]),
    ]


def test_activating_again_is_a_success_that_changes_nothing(client, activated):
    package_id = activated()

    answer = client.post(f"/api/v1/package/{package_id}/activate")

    assert (answer.status_code, answer.json) == (200, {"status": "activated"})
    assert len(generations(client)) == 1


def test_a_deactivated_package_leaves_the_profile(client, activated, profile):
    activated("hello", "2.12.1")
    package_id = activated()

    answer = client.post(f"/api/v1/package/{package_id}/deactivate")

    assert (answer.status_code, answer.json) == (200, {"status": "downloaded"})
    assert [path.name for path in (profile / "bin").iterdir()] == ["hello"]
    assert generations(client)[0] == (3, ["hello 2.12.1"], ["deactivate"])


@SQLITE
def test_deactivating_what_is_not_active_changes_nothing(client, downloaded):
    answer = client.post(f"/api/v1/package/{downloaded()}/deactivate")

    assert (answer.status_code, answer.json) == (200, {"status": "downloaded"})
    assert generations(client) == []


@SQLITE
def test_every_output_to_install_is_in_the_profile(activated, profile):
    activated("parted", "1.0.0")

    assert (profile / "bin" / "parted").exists()
    assert (profile / "share" / "data").exists()


@SQLITE
def test_two_packages_with_the_same_file_do_not_go_together(client, activated, downloaded, profile):
    activated("clash-one", "1.0.0")
    second = downloaded("clash-two", "1.0.0")

    answer = client.post(f"/api/v1/package/{second}/activate")

    assert answer.status_code == 409
    assert answer.json["type"] == "urn:pkgd:problem:collision"
    for part in ("clash-one 1.0.0", "clash-two 1.0.0", "bin/clash"):
        assert part in answer.json["detail"]
    assert run(profile, "clash") == "clash-one 1.0.0"
    assert statuses(client) == {"clash-one 1.0.0": "activated", "clash-two 1.0.0": "downloaded"}


@SQLITE
def test_an_activation_that_nix_fails_changes_nothing(
    replace_program, client, activated, downloaded, profile
):
    activated("app", "1.0.0")
    before = profile.resolve()
    package_id = downloaded("hello")
    replace_program("nix-env", "exit 1")

    answer = client.post(f"/api/v1/package/{package_id}/activate")

    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
    assert answer.json["type"] == "urn:pkgd:problem:nix-failed"
    assert profile.resolve() == before
    assert client.get(f"/api/v1/package/{package_id}").json["status"] == "downloaded"


def test_packages_activated_at_once_are_all_in_the_profile(app, client, downloaded, profile):
    ids = [downloaded(f"tool-{n}", "1.0.0") for n in range(20)]

    def activate(package_id):
        one = bearing(app, client.secret)
        return one.post(f"/api/v1/package/{package_id}/activate").status_code

    with ThreadPoolExecutor(20) as threads:
        assert set(threads.map(activate, ids)) == {200}

    assert len(list((profile / "bin").iterdir())) == 20
    assert set(statuses(client).values()) == {"activated"}


def test_a_switch_brings_a_generation_back(client, activated, profile):
    activated("app", "1.0.0")
    activated("app", "2.0.0")

    answer = client.post("/api/v1/generation/1/activate")

    assert answer.status_code == 200
    assert (answer.json["number"], answer.json["active"]) == (1, True)
    assert [change["reason"] for change in answer.json["changes"]] == ["switch", "activate"]
    assert run(profile) == "app 1.0.0"
    assert statuses(client) == {"app 1.0.0": "activated", "app 2.0.0": "downloaded"}


@SQLITE
def test_a_switch_to_the_active_generation_changes_nothing(client, activated):
    activated()

    assert client.post("/api/v1/generation/1/activate").status_code == 200

    assert generations(client) == [(1, ["app 1.0.0"], ["activate"])]


def test_a_rollback_goes_to_what_was_active_before_not_to_the_number_below(
    client, activated, profile
):
    activated("app", "1.0.0")
    activated("app", "2.0.0")
    client.post("/api/v1/generation/1/activate")

    answer = client.post("/api/v1/generations/rollback")

    assert (answer.status_code, answer.json["number"]) == (200, 2)
    assert run(profile) == "app 2.0.0"
    assert answer.json["changes"][0]["reason"] == "rollback"


def test_a_generation_tells_who_asked_for_it(app, client, activated):
    activated()
    robot = client.post("/api/v1/tokens", json={"name": "robot", "scope": "operate"}).json
    bearing(app, robot["token"]).post("/api/v1/package/1/deactivate")

    newest, first = client.get("/api/v1/generations").json

    assert (newest["changes"][0]["by"], first["changes"][0]["by"]) == ("robot", "token 1")
    assert newest["changes"][0]["at"] >= first["changes"][0]["at"]
    assert first["packages"][0]["store_path"].endswith("-app-1.0.0")


@pytest.mark.parametrize("path", ["generation/7/activate", "generations/rollback"])
def test_a_generation_that_never_was_is_not_found(client, activated, path):
    activated()

    answer = client.post(f"/api/v1/{path}")

    assert answer.status_code == 404
    assert answer.json["type"] == "urn:pkgd:problem:no-such-generation"


def test_pages_of_generations_follow_one_another(client, activated):
    for n in range(3):
        activated(f"tool-{n}", "1.0.0")

    first = client.get("/api/v1/generations?limit=2")
    second = client.get(first.headers["Link"].partition(">")[0].removeprefix("<"))

    assert [one["number"] for one in first.json + second.json] == [3, 2, 1]


@SQLITE
def test_a_dry_run_tells_what_would_change_and_changes_nothing(client, activated, downloaded):
    first = activated("app", "1.0.0")
    second = downloaded("app", "2.0.0")

    answer = client.post(f"/api/v1/package/{second}/activate?dry_run=true")

    assert answer.status_code == 200
    assert answer.json == {
        "status": "downloaded",
        "closure_size_change": 0,
        "added": [{"id": second, "name": "app", "version": "2.0.0"}],
        "removed": [{"id": first, "name": "app", "version": "1.0.0"}],
        "replaced": [{"name": "app", "old": "1.0.0", "new": "2.0.0"}],
    }
    assert generations(client) == [(1, ["app 1.0.0"], ["activate"])]


@SQLITE
def test_a_dry_run_of_what_is_active_adds_nothing(client, activated):
    answer = client.post(f"/api/v1/package/{activated()}/activate?dry_run=true")

    assert (answer.json["added"], answer.json["closure_size_change"]) == ([], 0)


@SQLITE
def test_a_dry_run_on_an_empty_profile_adds_the_whole_closure(client, downloaded):
    package_id = downloaded()
    size = client.get(f"/api/v1/package/{package_id}").json["closure_size"]

    answer = client.post(f"/api/v1/package/{package_id}/activate?dry_run=true")

    assert answer.json["closure_size_change"] == size


@SQLITE
def test_a_dry_run_finds_a_collision(client, activated, downloaded):
    activated("clash-one", "1.0.0")
    second = downloaded("clash-two", "1.0.0")

    answer = client.post(f"/api/v1/package/{second}/activate?dry_run=true")

    assert answer.json["type"] == "urn:pkgd:problem:collision"


@pytest.fixture
def check(tmp_path, settings):
    """The operator's check: it refuses a generation that has app 2.0.0."""
    script = tmp_path / "check"
    script.write_text('#!/bin/sh\n"$2"/bin/app\necho "$1"\n! "$2"/bin/app | grep -q 2.0.0\n')
    script.chmod(0o755)
    settings["PROFILE_CHECK"] = f"{script} 'smoke test'"
    return script


@SQLITE
def test_a_change_that_the_check_refuses_is_undone(check, client, activated, downloaded, profile):
    activated("app", "1.0.0")
    second = downloaded("app", "2.0.0")

    answer = client.post(f"/api/v1/package/{second}/activate")

    assert answer.status_code == 409
    assert answer.json["type"] == "urn:pkgd:problem:check-failed"
    assert "exit code 1: app 2.0.0\nsmoke test" in answer.json["detail"]
    assert run(profile) == "app 1.0.0"
    assert statuses(client) == {"app 1.0.0": "activated", "app 2.0.0": "downloaded"}
    assert generations(client) == [(1, ["app 1.0.0"], ["activate"])]


@SQLITE
def test_a_first_generation_that_the_check_refuses_leaves_no_profile(
    check, client, downloaded, profile
):
    package_id = downloaded("app", "2.0.0")

    assert client.post(f"/api/v1/package/{package_id}/activate").status_code == 409

    assert not profile.is_symlink()
    assert generations(client) == []


def test_a_switch_that_the_check_refuses_is_undone(make_app, check, client, activated, profile):
    lenient = bearing(make_app(PROFILE_CHECK=""), client.secret)
    for version in ("1.0.0", "2.0.0"):
        package_id = client.post("/api/v1/packages", json={"name": "app", "version": version}).json
        lenient.post(f"/api/v1/package/{package_id['id']}/download")
        services.get(Pool, lenient.application).run_one()
        lenient.post(f"/api/v1/package/{package_id['id']}/activate")
    lenient.post("/api/v1/generation/1/activate")

    assert client.post("/api/v1/generation/2/activate").status_code == 409

    assert run(profile) == "app 1.0.0"
    assert [number for number, *_ in generations(client)] == [2, 1]


@SQLITE
def test_a_check_that_cannot_be_run_refuses(settings, client, downloaded, profile):
    client.application.config["PROFILE_CHECK"] = "no-such-program"

    answer = client.post(f"/api/v1/package/{downloaded()}/activate")

    assert answer.status_code == 409
    assert "no-such-program is not on PATH" in answer.json["detail"]
    assert not profile.is_symlink()


@SQLITE
def test_a_forgotten_package_leaves_its_store_path_to_the_collector(app, client, downloaded):
    package_id = downloaded()
    assert len(list((app.config["DATA_DIR"] / "roots").iterdir())) == 1

    answer = client.delete(f"/api/v1/package/{package_id}")

    assert (answer.status_code, answer.json) == (200, {})
    assert client.get(f"/api/v1/package/{package_id}").status_code == 404
    assert client.get("/api/v1/tasks").json == []
    assert list((app.config["DATA_DIR"] / "roots").iterdir()) == []


def test_an_active_package_is_not_forgotten(client, activated):
    answer = client.delete(f"/api/v1/package/{activated()}")

    assert (answer.status_code, answer.json["detail"]) == (409, "app 1.0.0 is activated")
    assert statuses(client) == {"app 1.0.0": "activated"}


def test_a_package_on_its_way_is_not_forgotten(client, schedule):
    schedule()

    answer = client.delete("/api/v1/package/1")

    assert (answer.status_code, answer.json["detail"]) == (409, "hello 2.12.1 is downloading")


def test_a_switch_brings_a_forgotten_package_back(app, client, activated, profile):
    activated("app", "1.0.0")
    activated("app", "2.0.0")
    client.delete("/api/v1/package/1")

    assert client.post("/api/v1/generation/1/activate").status_code == 200

    assert run(profile) == "app 1.0.0"
    assert statuses(client) == {"app 1.0.0": "activated", "app 2.0.0": "downloaded"}
    assert (app.config["DATA_DIR"] / "roots" / "3-0").is_symlink()
    assert client.get("/api/v1/package/3").json["closure_size"] > 0


@SQLITE
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "package/1/activate"),
        ("POST", "package/1/deactivate"),
        ("DELETE", "package/1"),
        ("POST", "generation/1/activate"),
        ("POST", "generations/rollback"),
    ],
)
def test_a_request_waits_for_its_turn_only_so_long(
    app, client, activated, monkeypatch, method, path
):
    activated()
    monkeypatch.setattr(profiles, "LOCK_SECONDS", 0.1)

    with (app.config["DATA_DIR"] / "changes.lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        refused = client.open(f"/api/v1/{path}", method=method)

    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
    assert refused.json["type"] == "urn:pkgd:problem:busy"
    assert client.get("/api/v1/package/1").json["status"] == "activated"
