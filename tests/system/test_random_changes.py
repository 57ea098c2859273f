"""Random changes by several clients at once, with garbage collections in between."""

import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import figures
import pytest
from service import LIVE
from support import EITHER, remove_store, until

import nix

CLIENTS = 6
TOOLS = [(f"tool-{n}", "1.0.0") for n in range(4)]
VERSIONS = [("app", "1.0.0"), ("app", "2.0.0"), ("hello", "2.10.0"), ("hello", "2.12.1")]
ODD = [("clash-one", "1.0.0"), ("clash-two", "1.0.0"), ("parted", "1.0.0"), ("nothing", "1.0.0")]
PROFILES = ["default", "team", "other"]
# Of the declared answers 503, those that many changes at once may give.
WAITS = {"urn:pkgd:problem:busy", "urn:pkgd:problem:database-unavailable"}


@pytest.fixture
def collected(settings, tmp_path, service):
    """A running service whose store is collected in the test."""
    service.settings["STORE_DIR"] = tmp_path / "store"
    yield service.start()
    service.kill()
    remove_store(tmp_path / "store")


class Changes:
    """Random changes by one client, and a count of the answers."""

    def __init__(self, service, seed):
        self.service, self.random, self.answers = service, random.Random(seed), Counter()

    def run(self, over):
        """Make one change after another until the event `over`."""
        while not over.is_set():
            method, path, *body = self.random.choice([self.register, *[self.change] * 6])()
            answer = self.service.request(method, path, json=body[0] if body else None)
            kind = answer.json().get("type") if answer.status_code == 503 else None
            self.answers[answer.status_code, kind] += 1

    def register(self):
        """Return the request that registers a package."""
        name, version = self.random.choice([*TOOLS, *VERSIONS, *ODD])
        return "POST", "packages", {"name": name, "version": version}

    def change(self):
        """Return a request that changes something there may be."""
        packages = self.service.get("packages") or [{"id": 1, "task": None}]
        package, generation = self.random.choice(packages), self.random.randint(1, 40)
        task = package["task"] or {"id": "00000000-0000-4000-8000-000000000000"}
        own = f"package/{package['id']}"
        return self.random.choice(
            [
                *[("POST", f"{own}/download")] * 4,
                *[("POST", f"{own}/activate")] * 4,
                ("POST", f"{own}/deactivate"),
                ("DELETE", own),
                ("POST", f"generation/{generation}/activate"),
                ("POST", "generations/rollback"),
                ("POST", f"task/{task['id']}/cancel"),
                *[("PUT", "profile/team", {"packages": self.set()})] * 3,
                ("POST", f"{own}/activate?profile=team"),
                ("POST", "profile/other/promote", {"from": self.random.choice(PROFILES)}),
                ("POST", f"generations/rollback?profile={self.random.choice(PROFILES)}"),
                ("DELETE", "profile/other"),
            ]
        )

    def set(self):
        """Return a set of packages, each of another name."""
        versions = dict(self.random.sample([*TOOLS, *VERSIONS, *ODD[2:]], 4))
        return [{"name": name, "version": version} for name, version in versions.items()]


@EITHER
def test_after_random_changes_every_status_is_true(collected, database_url):
    collected.sign_in()

    answers, collections = make_changes(collected)

    odd = {(status, kind) for status, kind in answers if status >= 500 and kind not in WAITS}
    assert odd == set(), answers
    assert_true(collected)
    waits = sum(count for (status, _), count in answers.items() if status == 503)
    figures.keep(
        f"random changes by {CLIENTS} clients, with `flask gc` in between",
        database_url,
        f"{figures.SECONDS} s: {answers.total()} changes, {collections} collections",
        f"every status was true in the end; {waits} answers were 503, and no other was a 5xx",
    )


def make_changes(service):
    """Make random changes for SECONDS; return a count of the answers, and of the collections."""
    clients = [Changes(service, seed) for seed in range(CLIENTS)]
    over = threading.Event()
    with ThreadPoolExecutor(CLIENTS) as threads:
        running = [threads.submit(client.run, over) for client in clients]
        collections = collect(service, over)
        for one in running:
            one.result()
    return sum((client.answers for client in clients), Counter()), collections


def collect(service, over):
    """Collect garbage again and again, and set `over` after SECONDS; return how often."""
    timer = threading.Timer(figures.SECONDS, over.set)
    timer.start()
    count = 0
    while not over.is_set():
        done = service.command("gc")
        if done.returncode:
            over.set()
        assert done.returncode == 0, done.stderr
        count += 1
    return count


def assert_true(service):
    """Check each status by the store, the roots and the profile, and that nothing is corrected."""
    until(lambda: not any(service.get(f"tasks?status={status}") for status in LIVE), 60)
    store = nix.private_store(service.settings["STORE_DIR"])
    packages = [one for one in service.get("packages") if one["status"] != "created"]
    paths = {one["store_path"] for one in packages}
    assert nix.valid_paths(store, paths) == paths
    for one in packages:
        root = service.data_dir / "roots" / f"{one['id']}-0"
        assert str(root.readlink()) == one["store_path"]

    active = {
        (f"{one['name']}-{one['version']}", one["store_path"])
        for one in packages
        if one["status"] == "activated"
    }
    held = {
        (name, paths[0])
        for profile in service.get("profiles")
        for name, paths in nix.installed(store, Path(profile["path"]))
    }
    assert held == active
    assert service.command("reconcile").stdout == "all as it should be\n"
