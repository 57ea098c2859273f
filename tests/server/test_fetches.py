"""Downloads without a network: tried again where that may help, and told by URL and cause."""

import os
import re

import pytest
from support import SQLITE, until
from web import SHA256

import nix

pytestmark = [SQLITE, pytest.mark.usefixtures("quick_retries")]

CATALOG = """
{
  sourced = derivation {
    name = "NAME";
    version = "1.0.0";
    type = "derivation";
    system = "builtin";
    builder = "builtin:fetchurl";
    url = "URL";
    outputHashMode = "flat";
    outputHashAlgo = "sha256";
    outputHash = "HASH";
  };
}
"""


@pytest.fixture
def quick_retries(monkeypatch):
    """Let attempts follow at once."""
    monkeypatch.setattr("attempts.FETCH_RETRY_SECONDS", (0, 0))


@pytest.fixture
def sourced(settings, tmp_path):
    """Return a function that offers the package `sourced`, fetched from a URL; returns its name."""
    catalog = tmp_path / "sourced.nix"
    catalog.write_text("{ }")
    settings["CATALOGS"] += f" {catalog}"

    def sourced(url):
        facts = {"NAME": f"sourced-{tmp_path.name}", "URL": url, "HASH": SHA256}
        catalog.write_text(re.sub("NAME|URL|HASH", lambda found: facts[found[0]], CATALOG))
        return "sourced"

    return sourced


def test_a_download_that_the_network_made_fail_is_tried_again(
    sourced, web, run_task, pool, get_task, read_log
):
    web.failures = 3  # as often as Nix itself tries in one attempt

    task_id = run_task(sourced(f"{web.url}/200/x"))["id"]

    waiting = get_task(task_id)["waiting"]
    told = f"could not fetch {web.url}/200/x: the server failed (HTTP 503); attempt 2 follows at "
    assert waiting.startswith(told)
    assert "\npkgd: the next attempt follows in 0 s\n" in read_log(task_id)
    assert until(pool.run_one)
    assert (get_task(task_id)["status"], get_task(task_id)["attempt"]) == ("succeeded", 2)


def test_without_a_network_a_download_ends_with_the_url_first(sourced, run_task, pool, get_task):
    task_id = run_task(sourced("http://nosuch.invalid/x"))["id"]
    for _ in range(2):
        until(pool.run_one)

    task = get_task(task_id)
    assert (task["status"], task["attempt"]) == ("failed", 3)
    error = task["error"]
    assert error["code"] == "fetch_failed"
    assert error["message"].startswith("could not fetch http://nosuch.invalid/x: the host's name ")
    assert "name servers" in error["hint"]


def test_a_source_that_is_gone_is_not_asked_for_again(sourced, web, run_task, read_log):
    task = run_task(sourced(f"{web.url}/404/x"))

    assert (task["status"], task["attempt"], web.paths) == ("failed", 1, ["/404/x"])
    assert task["error"]["code"] == "fetch_failed"
    assert "update the catalog" in task["error"]["hint"]
    assert read_log(task["id"]).endswith("pkgd: failed: fetch_failed\n")


def test_a_package_that_failed_keeps_where_it_was_found(sourced, client, web, run_task, settings):
    task = run_task(sourced(f"{web.url}/404/x"))

    package = client.get(f"/api/v1/package/{task['package_id']}").json
    catalog = settings["CATALOGS"].split()[-1]
    assert (package["status"], package["store_path"]) == ("created", None)
    assert (package["catalog"], package["attr"]) == (catalog, "sourced")
    assert package["drv_path"].endswith(".drv")


def test_a_build_shows_where_its_package_was_found_while_it_runs(
    recipes, client, start_build, store
):
    name = recipes.add("shown", f"echo started; {recipes.gate('shown')}; touch $out")

    _, thread = start_build(name)

    (package,) = client.get(f"/api/v1/packages?name={name}").json
    recipes.open("shown")
    thread.join(10)
    assert package["attr"] == "shown"
    assert nix.valid_paths(store, [package["drv_path"]])


@pytest.fixture
def too_new(settings, tmp_path):
    """A catalog that wants a version of Nix that there is not, and no other."""
    catalog = tmp_path / "new.nix"
    catalog.write_text("throw ''This version of Nixpkgs requires Nix >= 99.1, please upgrade''")
    settings["CATALOGS"] = f"{catalog}"
    return catalog


def test_a_catalog_for_a_newer_nix_ends_a_task_at_once(too_new, client, run_task, caplog):
    task = run_task("hello")

    told = f"it wants Nix 99.1 or newer, and this is Nix {nix.version(nix.Store(os.environ))}"
    assert (task["status"], task["attempt"]) == ("failed", 1)
    assert task["error"]["code"] == "nix_too_old"
    assert task["error"]["message"] == f"catalog {too_new}: {told}"
    (failure,) = client.get("/api/v1/catalog/hello").json["failures"]
    assert (failure["catalog"], failure["code"]) == (str(too_new), "nix_too_old")
    assert (failure["message"], failure["reason"]) == (told, None)
    until(lambda: told in str(client.get("/readyz").json["errors"].get("catalogs")))
    assert caplog.text.count(f"catalog {too_new} fails: nix_too_old: {told}\n") == 1
