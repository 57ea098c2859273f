"""Fixtures of the tests of pkgctl: servers, and the command set up for them."""

from itertools import count

import pytest
from harness import (
    CommandRunner,
    FakeAnswer,
    FakeServer,
    GatedPackage,
    running_service,
)

EMPTY_LIST = FakeAnswer([])
VERSION = FakeAnswer({"version": "1.0.0", "build": "20240505"})

gate_numbers = count()


@pytest.fixture(scope="module")
def service(tmp_path_factory, store_dir):
    """A real server, shared by the tests of a module."""
    with running_service(tmp_path_factory.mktemp("pkgctl"), store_dir) as service:
        yield service


@pytest.fixture
def ctl(service, tmp_path):
    """The command with the real server's URL and an admin's token in its environment."""
    return CommandRunner(tmp_path, service.url, service.secret)


@pytest.fixture
def unconfigured(tmp_path):
    """The command without any settings."""
    return CommandRunner(tmp_path)


@pytest.fixture
def install(ctl):
    """Return a function that installs a package and returns its document."""
    return lambda spec, *options: ctl.json("install", spec, *options)


@pytest.fixture
def gated(service):
    """A package that nobody has built, and whose build waits for its gate to open."""
    package = GatedPackage(service, next(gate_numbers))
    yield package
    package.open()


@pytest.fixture
def fake_server():
    """A server that accepts every token and has empty lists."""
    with FakeServer(lambda _, path: VERSION if "version" in path else EMPTY_LIST) as server:
        yield server
