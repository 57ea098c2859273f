"""Nix through a daemon: faults of the host, and limits that only the daemon can keep."""

import pytest
from support import at
from web import SHA256

import nix
from nix import NixUnavailable

CATALOG = """{ thing = derivation {
  name = "thing";
  version = "1.0.0";
  system = builtins.currentSystem;
  builder = "/bin/sh";
  args = [ "-c" (builtins.readFile ./thing.sh) ];
  PATH = "/usr/bin:/bin";
}; }"""

FETCH = """{ thing = derivation {
  name = "thing";
  version = "1.0.0";
  system = "builtin";
  builder = "builtin:fetchurl";
  url = "URL";
  outputHashMode = "flat";
  outputHashAlgo = "sha256";
  outputHash = "HASH";
}; }"""


class Trial:
    """Resolves and builds one package through a daemon."""

    def __init__(self, daemon, folder):
        self.daemon, self.store, self.folder = daemon, daemon.store, folder
        self.log, self.on_log = b"", lambda: None

    def tick(self, log, _progress):
        self.log += log
        self.on_log()

    def resolve(self, script="touch $out", catalog=CATALOG):
        (self.folder / "catalog.nix").write_text(catalog)
        (self.folder / "thing.sh").write_text(script)
        catalogs, tmp = at(self.folder / "catalog.nix"), self.folder / "tmp"
        return nix.resolve(self.store, catalogs, "thing", "1.0.0", tmp=tmp)

    def build(self, script, silence_seconds=60, catalog=CATALOG):
        root, tmp = self.folder / "roots" / "1", self.folder / "tmp"
        options = {"tmp": tmp, "build_seconds": 60, "silence_seconds": silence_seconds}
        drv_path = self.resolve(script, catalog).drv_path
        return nix.realise(self.store, drv_path, "out", root, tick=self.tick, **options)


@pytest.fixture
def trial(daemon, tmp_path):
    """A trial through a daemon that runs."""
    return Trial(daemon, tmp_path)


def test_a_package_is_built_through_a_daemon(trial):
    path = trial.build("echo made >$out")

    assert nix.valid_paths(trial.store, [path]) == {path}
    assert nix.check(trial.store) is None


@pytest.mark.parametrize("leave_socket", [True, False])
def test_a_daemon_that_is_stopped_is_no_fault_of_a_catalog(trial, leave_socket):
    trial.daemon.kill()
    if not leave_socket:
        trial.daemon.socket.unlink()

    with pytest.raises(NixUnavailable, match="cannot connect to socket") as caught:
        trial.resolve()

    assert caught.value.code == "nix_unavailable"
    assert "daemon" in caught.value.hint
    with pytest.raises(NixUnavailable, match="cannot connect to socket"):
        nix.check(trial.store)


def test_a_daemon_that_is_killed_is_no_fault_of_the_package(trial):
    def on_log():
        if b"started" in trial.log:
            trial.daemon.kill()
            trial.on_log = lambda: None

    trial.on_log = on_log

    with pytest.raises(NixUnavailable) as caught:
        trial.build("echo started; sleep 2; echo made >$out")

    assert "daemon" in caught.value.hint
    trial.daemon.start()
    assert trial.build("echo started; sleep 2; echo made >$out")


def test_a_daemon_that_does_not_answer_is_unavailable(trial, monkeypatch):
    monkeypatch.setattr("nix.store.CHECK_SECONDS", 0.5)
    trial.daemon.freeze()

    with pytest.raises(NixUnavailable, match=r"did not answer within 0\.5 s"):
        nix.check(trial.store)


def test_a_failed_build_is_the_packages_fault_whatever_it_says(trial):
    said = '@nix {"action":"msg","level":0,"msg":"error: unexpected end-of-file"}'

    with pytest.raises(nix.BuildFailed, match="failed with exit code 3"):
        trial.build(f"echo '{said}' >&2; exit 3")


def test_a_source_that_can_not_be_fetched_is_told_by_its_url_through_a_daemon(trial, web):
    fetch = FETCH.replace("URL", f"{web.url}/503/x").replace("HASH", SHA256)

    with pytest.raises(nix.FetchFailed) as caught:
        trial.build("", catalog=fetch)

    first, second, *_ = str(caught.value).splitlines()
    assert first == f"could not fetch {web.url}/503/x: the server failed (HTTP 503)"
    assert second.startswith("builder for '")


def test_a_dependency_that_fails_is_named_through_a_daemon(trial):
    foo = CATALOG.replace("{ thing", "rec { foo").replace('"thing"', '"foo-1.0"')
    thing = 'derivation (foo.drvAttrs // { name = "thing"; args = [ "-c" "cat ${foo}" ]; })'
    needs = f"{foo.removesuffix('}')} thing = {thing}; }}"

    with pytest.raises(nix.BuildFailed, match=r"^thing needs foo-1\.0, whose build failed: "):
        trial.build("exit 3", catalog=needs)


def test_a_build_that_prints_no_newline_is_not_silent(trial):
    dots = "for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do printf .; sleep 0.5; done"

    trial.build(f"{dots}; echo >$out", silence_seconds=1)

    assert b"." * 15 in trial.log


def test_a_silent_build_is_ended_by_the_daemon(trial):
    with pytest.raises(nix.TimedOut, match="it wrote nothing for 1 s"):
        trial.build("sleep 30", silence_seconds=1)
