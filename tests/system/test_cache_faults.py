"""What machines see of the cache while the server dies, or the cache's folder or disk goes."""

import os
import random
import shutil
import subprocess
import time
from itertools import count, pairwise
from types import SimpleNamespace

import figures
import psycopg
import pytest
from hosts import Host, require_namespaces
from recipes import Recipes
from service import LIVE, Service
from support import until

import nix

SECONDS = 1.2  # about what it takes from a change to its publication
DISK = "64m"
TOOL = """
mkdir -p $out/bin
printf '#!/bin/sh\\necho {number}\\n' >$out/bin/tool
chmod +x $out/bin/tool
"""
DATA = "mkdir -p $out/share; head -c 400000 /dev/urandom >$out/share/{name}"

numbers = count(1)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"][: figures.ROUNDS])
def kind(request):
    """The kind of the database: one, but both in many rounds."""
    return request.param


@pytest.fixture(scope="module")
def folder(tmp_path_factory, kind):
    """The folder of the server."""
    require_namespaces()
    return tmp_path_factory.mktemp(f"faults-{kind}").resolve()


@pytest.fixture(scope="module")
def database(request, kind):
    """The settings of the database, which is empty."""
    if kind == "sqlite":
        return {}
    postgres = request.getfixturevalue("postgres")
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
        connection.execute("CREATE DATABASE faults")
    return {"DATABASE_URL": postgres.url("faults")}


@pytest.fixture(scope="module")
def disk(folder):
    """A small disk for the cache, or a folder where mounting needs other rights."""
    disk = folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", disk]
    is_mounted = subprocess.run(mount, capture_output=True).returncode == 0
    yield SimpleNamespace(path=disk, is_mounted=is_mounted)
    if is_mounted:
        subprocess.run(["umount", disk], check=True)


@pytest.fixture(scope="module")
def service(folder, disk, database, store, store_dir):
    """A running service with a cache; `service.sync_token` is the machine's."""
    recipes = Recipes(folder)
    nix.make_key(store, "cache-1", folder / "key")
    settings = {"DATA_DIR": folder / "data", "STORE_DIR": store_dir, "CATALOGS": recipes.catalog}
    settings |= {"CACHE": f"file://{disk.path}/cache", "CACHE_KEY_FILE": folder / "key"}
    settings |= {"MIN_FREE_BYTES": 1, "WEB_PROCESSES": 1, "INDEX_BYTES": 0}
    with Service(settings | database, measured=False) as service:
        service.init_db().start().sign_in()
        service.recipes, service.cache = recipes, disk.path / "cache"
        service.sync_token = service.post("tokens", json={"scope": "sync"})["token"]
        yield service


@pytest.fixture(scope="module")
def machine(service, folder, store):
    """A machine that holds a first generation of the profile `team`."""
    (folder / "m1").mkdir()
    machine = Host("m1", folder / "m1", store.directory, service.url, service.sync_token)
    catch_up(service, machine, change(service))
    return machine


def change(service):
    """Have the profile become a new set of packages; return what its tool is to say."""
    number = next(numbers)
    names = [f"data-{number}-{n}" for n in range(3)]
    for name in names:
        service.recipes.add(name, DATA.format(name=name))
    names.append(service.recipes.add(f"tool-{number}", TOOL.format(number=number)))
    body = {"packages": [{"name": name, "version": "1.0.0"} for name in names]}
    answer = service.request("PUT", "profile/team", json=body)
    assert answer.status_code == 202, answer.text
    return str(number)


def catch_up(service, machine, said):
    """Wait until all is published, and have the machine take it."""
    until(lambda: is_published(service, machine, said), explain=lambda: service.said()[-5000:])
    done = machine.sync("team")
    assert done.returncode == 0, done.stderr
    assert machine.says("tool") == said


def is_published(service, machine, said):
    """Tell whether no task is left, and what the profile has become is offered, and whole."""
    profile, offered = service.get("profile/team"), offer(service, machine)
    names = [package["name"] for package in profile["packages"]]
    is_new = f"tool-{said}" in names and offered == profile["store_path"]
    is_idle = not any(service.get(f"tasks?status={status}&limit=1") for status in LIVE)
    return is_new and is_idle and not lacking(service.cache, offered)


def offer(service, machine):
    """Return the store path that the machine is offered, if any."""
    offered = service.get(f"profile/team?machine={machine.name}")["offered"]
    return offered and offered["store_path"]


def watch(service, machine, seconds):
    """Poll for so long; return what was offered last. All that was offered has to be whole."""
    deadline = time.monotonic() + seconds
    while True:
        offered = offer(service, machine)
        assert offered is None or not lacking(service.cache, offered)
        if time.monotonic() >= deadline:
            return offered


def lacking(cache, store_path):
    """Return the files that the closure of a store path needs, and that aren't there or whole."""
    left, seen, lacking = [os.path.basename(store_path)[:32]], set(), []
    while left:
        seen.add(path_hash := left.pop())
        narinfo = cache / f"{path_hash}.narinfo"
        if not narinfo.exists():
            lacking.append(narinfo.name)
            continue
        told = dict(line.split(": ", 1) for line in narinfo.read_text().splitlines())
        nar = cache / told["URL"]
        if not nar.exists() or nar.stat().st_size != int(told["FileSize"]):
            lacking.append(told["URL"])
        left += {name[:32] for name in told["References"].split()} - seen
    return lacking


def test_kills_of_everything_offer_nothing_half_published(service, machine, kind):
    moment = random.Random(18)

    for _ in range(figures.ROUNDS):
        said = change(service)
        offered = watch(service, machine, moment.uniform(0, SECONDS))
        service.kill()
        assert not lacking(service.cache, offered)
        service.start()
        catch_up(service, machine, said)

    figures.keep(
        "`kill -9` of everything at a random moment of a change and its publishing, restart",
        kind,
        figures.rounds(f"{figures.ROUNDS * 4} packages"),
        "all that machines were offered was whole in the cache; each change was published, "
        "and a machine took it",
    )


def test_a_cache_that_is_removed_is_filled_again(service, machine, kind):
    moment, lost = random.Random(19), service.cache.with_name("lost")

    for number in range(figures.ROUNDS):
        before, said = machine.says("tool"), change(service)
        watch(service, machine, moment.uniform(0, SECONDS))
        service.cache.rename(lost)
        if number % 2:
            service.cache.mkdir()
        machine.sync("team")  # it may come too early
        assert machine.says("tool") in (before, said)
        catch_up(service, machine, said)
        shutil.rmtree(lost)

    figures.keep(
        "the cache's folder removed at a random moment of a change and its publishing",
        kind,
        figures.rounds(),
        "it was filled again; a machine that asked meanwhile held the old set or the new one",
    )


def test_a_full_disk_of_the_cache_holds_up_publishing_alone(service, machine, kind, disk):
    if not disk.is_mounted:
        pytest.skip("mounting needs root's rights")

    for _ in range(figures.ROUNDS):
        before = machine.says("tool")
        filler = fill(disk.path)
        said = change(service)
        assert "No space left on device" in until(lambda: reason(service))
        watch(service, machine, 0)
        assert (machine.sync("team").returncode, machine.says("tool")) == (0, before)
        filler.unlink()
        catch_up(service, machine, said)

    figures.keep(
        "the disk of the cache full while a change is published",
        kind,
        figures.rounds(),
        "the profile changed, its publishing waited with the reason shown, machines stayed; "
        "all was published with room again",
    )


def fill(folder):
    """Leave 64 KiB of a disk; return the file that takes the rest."""
    filler = folder / "filler"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(folder).free - 65536)
    return filler


def reason(service):
    """Return why the publishing of a profile waits, if it does."""
    queued = service.get("tasks?status=queued")
    return next((task["waiting"] for task in queued if task["kind"] == "publish"), None)


def test_machines_keep_what_they_have_while_the_server_is_gone(service, machine, kind, tmp_path):
    before, said = machine.says("tool"), tmp_path / "said"
    with said.open("w") as both:
        following = machine.start_sync("team", "--every", "1", stdout=both, stderr=both)
    try:
        until(lambda: "as offered" in said.read_text())
        for _ in range(figures.ROUNDS):
            told = said.read_text().count("Error: ")
            service.kill()
            until(lambda told=told: said.read_text().count("Error: ") > told)
            assert machine.says("tool") == before
            service.start()
            before = change(service)
            until(lambda now=before: machine.says("tool") == now, 120)
            until(lambda: not said.read_text().splitlines()[-1].startswith("Error: "))
    finally:
        following.terminate()
        following.wait(30)

    lines = said.read_text().splitlines()
    assert [one for one, other in pairwise(lines) if one == other] == []
    figures.keep(
        "the server killed for some rounds of a machine with `--every 1`, restart",
        kind,
        figures.rounds(),
        "the machine kept what it had, told it once, and took the next change",
    )
