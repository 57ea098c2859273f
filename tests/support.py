"""What the test modules import: paths, marks, waiting with a deadline, clients with a token."""

import os
import resource
import shutil
import stat
import time
from contextlib import contextmanager
from pathlib import Path

import figures
import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import event

import nix

TESTS = Path(__file__).parent
CATALOGS = TESTS / "catalogs"
MEASURED = TESTS / "measured"  # on the PYTHONPATH of what tests start: see sitecustomize.py
BUNDLED = TESTS.parent / "catalog"
IN_CI = os.environ.get("CI") == "true"

# For tests of what does not depend on the kind of database.
SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
# For tests of processes, whose SQL others run on both kinds: one kind, but both in many rounds.
EITHER = pytest.mark.parametrize(
    "database_url", ["sqlite", "postgresql"][: figures.ROUNDS], indirect=True
)
# For tests of what only PostgreSQL does.
POSTGRESQL = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


def until(condition, seconds=60, *, interval=0.02, explain=lambda: ""):
    """Wait until `condition` returns a true value, and return that value.

    Fails the test after `seconds`, with what `explain` returns at that moment.
    """
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {condition}\n{explain()}"
        time.sleep(interval)
    return value


def require(program, name):
    """Skip the test if a program was not found; in CI, where nothing may be missing, fail it."""
    if program is None:
        assert not IN_CI, f"{name} is not installed"
        pytest.skip(f"{name} is not installed")


@contextmanager
def no_descriptors():
    """Let this process open nothing more: the descriptors that it has stay open."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def bearing(app, secret):
    """Return a client that sends this token, and that has it as `client.secret`."""
    client = app.test_client()
    client.environ_base["HTTP_AUTHORIZATION"] = f"Token {secret}"
    client.secret = secret
    return client


def remove_store(folder):
    """Remove a Nix store, whose folders Nix has made read-only."""
    for path, _, _ in os.walk(folder):
        os.chmod(path, stat.S_IRWXU)
    shutil.rmtree(folder)


def at(*places):
    """Return the catalogs at some places, each named by its place."""
    return [nix.Catalog(str(place), str(place)) for place in places]


def metrics(text):
    """Return every sample of a scrape, by its name and its labels' values in their names' order."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@contextmanager
def listening(target, event_name, listener):
    """Have SQLAlchemy call the listener for the events in the `with` block."""
    event.listen(target, event_name, listener)
    try:
        yield
    finally:
        event.remove(target, event_name, listener)
