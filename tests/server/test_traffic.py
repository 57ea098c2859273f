"""Whether the service is asked for anything: what work on catalogs rests for."""

import os
import time

import pytest
from support import SQLITE

import services
import traffic
from nix.signature import of_files
from traffic import Traffic


@pytest.fixture
def seen(app, client):
    """The traffic as another process sees it, some time after the client got its token."""
    age(app, traffic.PRESENT_SECONDS)
    return Traffic(app.config["DATA_DIR"])


@pytest.fixture
def _noting_all(monkeypatch):
    """Have each request noted."""
    monkeypatch.setattr(traffic, "NOTE_SECONDS", 0)


@SQLITE
@pytest.mark.usefixtures("_noting_all")
def test_a_request_is_seen_by_other_processes_until_a_while_has_passed(app, client, seen):
    assert not seen.is_any()

    client.get("/api/v1/packages")

    assert seen.is_any()
    age(app, traffic.PRESENT_SECONDS)
    assert not seen.is_any()


@SQLITE
@pytest.mark.usefixtures("_noting_all")
def test_requests_of_monitoring_are_none_that_anybody_waits_for(client, seen):
    for path in ("/livez", "/readyz", "/metrics"):
        assert client.get(path).status_code in (200, 503)

    assert not seen.is_any()


def test_requests_change_no_catalog_that_lies_around_the_file(tmp_path):
    Traffic(tmp_path).note()
    before = of_files(tmp_path)

    Traffic(tmp_path).note()

    assert of_files(tmp_path) == before


@SQLITE
def test_requests_are_noted_once_in_a_while(client, monkeypatch, seen):
    client.get("/api/v1/packages")  # soon after the one that got the token
    assert not seen.is_any()

    monkeypatch.setattr(traffic, "NOTE_SECONDS", 0)
    client.get("/api/v1/packages")
    assert seen.is_any()


@SQLITE
def test_a_clock_that_was_set_back_makes_no_traffic(app, seen):
    age(app, -3600)

    assert not seen.is_any()


@SQLITE
def test_a_request_is_answered_where_the_folder_takes_no_file(app, client, monkeypatch, tmp_path):
    gone = Traffic(tmp_path / "gone")
    services.add(app, gone)

    assert client.get("/api/v1/packages").status_code == 200
    assert not gone.is_any()


def age(app, seconds):
    """Make what was noted older."""
    then = time.time() - seconds
    os.utime(app.config["DATA_DIR"] / traffic.FILE, (then, 0))
