"""The profile: activating, replacing, collisions, dry runs, and the operator's check."""

import fcntl
from concurrent.futures import ThreadPoolExecutor

import pytest
from support import SQLITE, bearing

import services
from profiles import activation
from worker import Pool


@SQLITE
def test_an_activated_package_runs_from_the_profile(activated, statuses, run_program):
    activated("hello", "2.12.1")

    assert "Hello" in run_program("hello")
    assert statuses() == {"hello 2.12.1": "activated"}


def test_a_package_that_is_not_downloaded_can_not_be_activated(client, register, profile):
    answer = client.post(f"/api/v1/package/{register()}/activate")

    assert answer.status_code == 409
    assert answer.json["detail"] == "hello 2.12.1 is not downloaded"
    assert answer.json["type"] == "urn:pkgd:problem:not-downloaded"
    assert not profile.exists()


def test_a_second_version_replaces_the_first(activated, statuses, generations, run_program):
    activated("app", "1.0.0")
    activated("app", "2.0.0")

    assert run_program() == "app 2.0.0"
    assert statuses() == {"app 1.0.0": "downloaded", "app 2.0.0": "activated"}
    assert generations() == [
        (2, ["app 2.0.0"], ["replace"]),
        (1, ["app 1.0.0"], ["activate"]),
    ]


def test_activating_an_active_package_succeeds_and_changes_nothing(client, activated, generations):
    package_id = activated()

    answer = client.post(f"/api/v1/package/{package_id}/activate")

    assert (answer.status_code, answer.json) == (200, {"status": "activated"})
    assert len(generations()) == 1


def test_a_deactivated_package_leaves_the_profile(client, activated, profile, generations):
    activated("hello", "2.12.1")
    package_id = activated()

    answer = client.post(f"/api/v1/package/{package_id}/deactivate")

    assert (answer.status_code, answer.json) == (200, {"status": "downloaded"})
    assert [path.name for path in (profile / "bin").iterdir()] == ["hello"]
    assert generations()[0] == (3, ["hello 2.12.1"], ["deactivate"])


@SQLITE
def test_deactivating_an_inactive_package_succeeds_and_changes_nothing(
    client, downloaded, generations
):
    answer = client.post(f"/api/v1/package/{downloaded()}/deactivate")

    assert (answer.status_code, answer.json) == (200, {"status": "downloaded"})
    assert generations() == []


@SQLITE
def test_the_profile_has_every_output_to_install(activated, profile):
    activated("parted", "1.0.0")

    assert (profile / "bin" / "parted").exists()
    assert (profile / "share" / "data").exists()


@SQLITE
def test_two_packages_with_the_same_file_can_not_both_be_active(
    client, activated, downloaded, statuses, run_program
):
    activated("clash-one", "1.0.0")
    second = downloaded("clash-two", "1.0.0")

    answer = client.post(f"/api/v1/package/{second}/activate")

    assert answer.status_code == 409
    assert answer.json["type"] == "urn:pkgd:problem:collision"
    for part in ("clash-one 1.0.0", "clash-two 1.0.0", "bin/clash"):
        assert part in answer.json["detail"]
    assert run_program("clash") == "clash-one 1.0.0"
    assert statuses() == {"clash-one 1.0.0": "activated", "clash-two 1.0.0": "downloaded"}


@SQLITE
@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("touch $out", "is a single file"),
        ("ln -s /tmp $out", "is a link out of the store"),
        (
            "mkdir -p $out/nix-support; echo word >$out/nix-support/propagated-user-env-packages",
            "word",
        ),
    ],
)
def test_a_package_that_no_profile_can_hold_is_refused_at_once(
    recipes, client, activated, downloaded, profile, script, reason
):
    activated("app", "1.0.0")
    before = profile.resolve()
    package_id = downloaded(recipes.add("odd", script), "1.0.0")

    for query in ("", "?dry_run=true"):
        answer = client.post(f"/api/v1/package/{package_id}/activate{query}")
        assert answer.status_code == 409
        assert answer.json["type"] == "urn:pkgd:problem:activation-refused"
        assert answer.json["detail"].startswith(("odd 1.0.0: ", "the profile: "))
        assert reason in answer.json["detail"]

    assert profile.resolve() == before
    assert client.get(f"/api/v1/package/{package_id}").json["status"] == "downloaded"


@SQLITE
def test_a_package_of_one_file_that_was_activated_earlier_holds_up_no_other(
    recipes, client, activated, downloaded, monkeypatch
):
    with monkeypatch.context() as earlier:
        earlier.setattr("nix.check_activatable", lambda *_: None)
        activated(recipes.add("file", "touch $out"))

    again = client.post("/api/v1/package/1/activate")
    other = client.post(f"/api/v1/package/{downloaded()}/activate")

    assert (again.status_code, other.status_code) == (200, 200)


@SQLITE
def test_an_activation_during_which_nix_fails_changes_nothing(
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


def test_packages_activated_at_once_are_all_in_the_profile(
    app, client, downloaded, profile, statuses
):
    ids = [downloaded(f"tool-{n}", "1.0.0") for n in range(12)]

    def activate(package_id):
        one = bearing(app, client.secret)
        return one.post(f"/api/v1/package/{package_id}/activate").status_code

    with ThreadPoolExecutor(12) as threads:
        assert set(threads.map(activate, ids)) == {200}

    assert len(list((profile / "bin").iterdir())) == 12
    assert set(statuses().values()) == {"activated"}


@SQLITE
def test_a_dry_run_lists_the_changes_and_makes_none(client, activated, downloaded, generations):
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
    assert generations() == [(1, ["app 1.0.0"], ["activate"])]


@SQLITE
def test_a_dry_run_of_an_active_package_adds_nothing(client, activated):
    answer = client.post(f"/api/v1/package/{activated()}/activate?dry_run=true")

    assert (answer.json["added"], answer.json["closure_size_change"]) == ([], 0)


@SQLITE
def test_a_dry_run_on_an_empty_profile_adds_the_whole_closure(client, downloaded):
    package_id = downloaded()
    size = client.get(f"/api/v1/package/{package_id}").json["closure_size"]

    answer = client.post(f"/api/v1/package/{package_id}/activate?dry_run=true")

    assert answer.json["closure_size_change"] == size


@SQLITE
def test_a_dry_run_reports_a_collision(client, activated, downloaded):
    activated("clash-one", "1.0.0")
    second = downloaded("clash-two", "1.0.0")

    answer = client.post(f"/api/v1/package/{second}/activate?dry_run=true")

    assert answer.json["type"] == "urn:pkgd:problem:collision"


@pytest.fixture
def check(tmp_path, settings):
    """A PROFILE_CHECK that fails for a generation that has app 2.0.0."""
    script = tmp_path / "check"
    script.write_text('#!/bin/sh\n"$2"/bin/app\necho "$1"\n! "$2"/bin/app | grep -q 2.0.0\n')
    script.chmod(0o755)
    settings["PROFILE_CHECK"] = f"{script} 'smoke test'"
    return script


@SQLITE
def test_a_change_that_fails_the_check_is_undone(
    check, client, activated, downloaded, statuses, generations, run_program
):
    activated("app", "1.0.0")
    second = downloaded("app", "2.0.0")

    answer = client.post(f"/api/v1/package/{second}/activate")

    assert answer.status_code == 409
    assert answer.json["type"] == "urn:pkgd:problem:check-failed"
    assert "exit code 1: app 2.0.0\nsmoke test" in answer.json["detail"]
    assert run_program() == "app 1.0.0"
    assert statuses() == {"app 1.0.0": "activated", "app 2.0.0": "downloaded"}
    assert generations() == [(1, ["app 1.0.0"], ["activate"])]


@SQLITE
def test_a_first_generation_that_fails_the_check_leaves_no_profile(
    check, client, downloaded, profile, generations
):
    package_id = downloaded("app", "2.0.0")

    assert client.post(f"/api/v1/package/{package_id}/activate").status_code == 409

    assert not profile.is_symlink()
    assert generations() == []


def test_a_switch_that_fails_the_check_is_undone(
    make_app, check, client, activated, generations, run_program
):
    lenient = bearing(make_app(PROFILE_CHECK=""), client.secret)
    for version in ("1.0.0", "2.0.0"):
        package_id = client.post("/api/v1/packages", json={"name": "app", "version": version}).json
        lenient.post(f"/api/v1/package/{package_id['id']}/download")
        services.get(Pool, lenient.application).run_one()
        lenient.post(f"/api/v1/package/{package_id['id']}/activate")
    lenient.post("/api/v1/generation/1/activate")

    assert client.post("/api/v1/generation/2/activate").status_code == 409

    assert run_program() == "app 1.0.0"
    assert [number for number, *_ in generations()] == [2, 1]


@SQLITE
def test_a_check_that_can_not_be_run_has_failed(settings, client, downloaded, profile):
    client.application.config["PROFILE_CHECK"] = "no-such-program"

    answer = client.post(f"/api/v1/package/{downloaded()}/activate")

    assert answer.status_code == 409
    assert "no-such-program is not on PATH" in answer.json["detail"]
    assert not profile.is_symlink()


@SQLITE
def test_a_change_is_undone_whatever_is_raised_during_its_check(
    settings, client, activated, downloaded, profile, monkeypatch
):
    activated("hello", "2.12.1")
    client.application.config["PROFILE_CHECK"] = "true"
    before = profile.readlink()
    monkeypatch.setattr("nix.run", lambda *_, **__: 1 / 0)

    answer = client.post(f"/api/v1/package/{downloaded('app', '1.0.0')}/activate")

    assert answer.status_code == 500
    assert [path.name for path in profile.parent.glob("profile-*")] == ["profile-1-link"]
    assert profile.readlink() == before


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
def test_a_request_that_waits_too_long_for_its_turn_is_a_503(
    app, client, activated, monkeypatch, method, path
):
    activated()
    monkeypatch.setattr(activation, "LOCK_SECONDS", 0.1)

    lock = app.config["DATA_DIR"] / "changes.lock"
    with ThreadPoolExecutor(1) as threads, lock.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        refused = threads.submit(client.open, f"/api/v1/{path}", method=method).result(10)

    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
    assert refused.json["type"] == "urn:pkgd:problem:busy"
    assert client.get("/api/v1/package/1").json["status"] == "activated"
