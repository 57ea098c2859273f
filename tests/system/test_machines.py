"""Machines that follow a profile: a server with a cache, and machines with stores of their own."""

import asyncio
import shutil
import subprocess
import sys
from itertools import count

import pytest
from hosts import Host, require_namespaces
from service import ROOT, Service
from support import BUNDLED, until

import nix
from pkgctl.errors import ExitCode

sys.path.append(str(ROOT / "bench"))  # at the end: it has modules of common names

import fleet  # isort: skip

numbers = count(1)


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """A server with a cache in a folder; `service.sync_token` is that of the machines."""
    require_namespaces()
    folder = tmp_path_factory.mktemp("server").resolve()
    key = folder / "cache.key"
    nix_folder = folder / "nix"
    make_key(nix_folder, key)
    settings = {"DATA_DIR": folder / "data", "STORE_DIR": nix_folder, "CATALOGS": BUNDLED}
    settings |= {"CACHE": f"file://{folder / 'cache'}", "CACHE_KEY_FILE": key}
    with Service(
        {**settings, "MIN_FREE_BYTES": 1, "WEB_PROCESSES": 1, "INDEX_BYTES": 0}
    ) as service:
        service.init_db().start().sign_in()
        service.cache, service.store_dir = folder / "cache", nix_folder / "store"
        service.sync_token = service.post("tokens", json={"scope": "sync"})["token"]
        yield service


def make_key(folder, key):
    """Make a key pair for a cache; the public one is in KEY.pub."""
    argv = ["nix-store", "--generate-binary-cache-key", "test-1", key, f"{key}.pub"]
    environ = nix.private_store(folder).environ
    subprocess.run(argv, env=environ, check=True, capture_output=True)


@pytest.fixture
def machine(service, tmp_path):
    """Return a function that makes a machine with an empty store."""

    def machine():
        name = f"m{next(numbers)}"
        (tmp_path / name).mkdir()
        return Host(name, tmp_path / name, service.store_dir, service.url, service.sync_token)

    return machine


@pytest.fixture
def profile(service):
    """Return a function that makes a profile of the test's own hold a version of hello."""
    name = f"p{next(numbers)}"

    def profile(version):
        body = {"packages": [{"name": "hello", "version": version}]}
        task = service.request("PUT", f"profile/{name}", json=body).json()["task_id"]
        assert service.ended(task)["status"] == "succeeded"
        return offered(service, name)

    profile.name = name
    return profile


def offered(service, name):
    """Wait until a profile offers its active generation; return its store path."""

    def is_offered():
        found = service.get(f"profile/{name}")
        return found["offered"] and found["offered"]["store_path"] == found["store_path"]

    until(is_offered)
    return service.get(f"profile/{name}")["store_path"]


def states(service, name):
    """Return the states of the machines of a profile, and what they hold."""
    found = service.get(f"machines?profile={name}")
    return {one["name"]: (one["state"], one["store_path"]) for one in found}


def test_machines_run_what_the_server_has(service, machine, profile):
    machines = [machine(), machine()]
    steps = [
        lambda: profile("2.12.1"),
        lambda: profile("2.10.0"),
        lambda: roll_back(service, profile),
    ]

    for step, version in zip(steps, ("2.12.1", "2.10.0", "2.12.1"), strict=True):
        store_path = step()
        for each in machines:
            done = each.sync(profile.name)
            assert done.returncode == 0, done.stderr
            assert each.says("hello").endswith(f" hello {version}.")
        assert set(states(service, profile.name).values()) == {("current", store_path)}

    verified = [each.run("nix-store", "--verify", "--check-contents") for each in machines]
    assert [done.returncode for done in verified] == [0, 0], verified


def roll_back(service, profile):
    """Roll a profile back on the server; return the store path that it offers then."""
    service.post(f"generations/rollback?profile={profile.name}")
    return offered(service, profile.name)


def test_machines_go_back_from_a_generation_whose_check_fails(service, machine, profile, tmp_path):
    machines = [machine(), machine()]
    good = profile("2.10.0")
    check = ("--check", f"sh -c 'echo tried >>{tmp_path}/tries; ! $0/bin/hello | grep -q 2.12'")
    assert [each.sync(profile.name, *check).returncode for each in machines] == [0, 0]
    profile("2.12.1")

    ends = [[each.sync(profile.name, *check).returncode for each in machines] for _ in range(2)]

    assert ends == [[ExitCode.FAILED] * 2, [0, 0]]
    assert all(each.says("hello").endswith(" hello 2.10.0.") for each in machines)
    assert set(states(service, profile.name).values()) == {("failed", good)}
    assert (tmp_path / "tries").read_text().count("tried") == 4


def test_a_machine_refuses_what_another_key_has_signed(service, machine, profile, tmp_path):
    profile("2.12.1")
    make_key(tmp_path / "nix", tmp_path / "other")
    (each,) = [machine()]

    done = each.sync(profile.name, "--public-key", (tmp_path / "other.pub").read_text())

    assert done.returncode == ExitCode.UNTRUSTED, done.stderr
    assert not each.profile.exists()
    assert states(service, profile.name) == {each.name: ("failed", None)}


def test_a_machine_refuses_damaged_contents_until_they_are_repaired(
    service, machine, profile, tmp_path
):
    profile("2.12.1")
    nars = service.cache / "nar"
    shutil.copytree(nars, tmp_path / "whole")
    for nar in nars.iterdir():
        data = nar.read_bytes()
        nar.write_bytes(data[: len(data) // 2] + b"damage" + data[len(data) // 2 + 6 :])
    each = machine()

    assert each.sync(profile.name).returncode == ExitCode.UNTRUSTED
    assert not each.profile.exists()
    shutil.copytree(tmp_path / "whole", nars, dirs_exist_ok=True)
    assert each.sync(profile.name).returncode == 0
    assert each.says("hello").endswith(" hello 2.12.1.")


def test_simulated_machines_follow_as_those_do(service, monkeypatch, capsys):
    monkeypatch.setattr(fleet, "FLEET", 3)
    monkeypatch.setattr(fleet, "EVERY", 1)
    operator = fleet.Operator(service)
    operator.prepare("hello", "parrot", "fortune")

    asyncio.run(
        fleet.measure_change(fleet.Fleet(service.url, service.sync_token), operator.activate)
    )

    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("3 machines with --every 1: all current ")
    assert said[1] == "one bad generation: 3 of 3 machines on the old one, all told it failed"
    found = service.get("machines?profile=default&state=failed")
    assert len(found) == 3
