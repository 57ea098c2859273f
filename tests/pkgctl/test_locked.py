"""A lock that one server has made, followed by another one: the same store paths, or nothing."""

import json

import pytest
from harness import CommandRunner
from service import Service
from support import remove_store
from tarballs import tarball

from app import create_app
from models import db
from pkgctl.errors import ExitCode

BUILT = """
let
  build = pname: version: derivation {
    inherit pname version;
    name = "${pname}-${version}";
    type = "derivation";
    system = builtins.currentSystem;
    builder = "/bin/sh";
    args = [ "-c" "mkdir -p $out/bin; echo $pname > $out/bin/$pname" ];
    PATH = "/bin:/usr/bin";
  };
in
{ duck = build "duck" "2.1"; drake = build "drake" "1.0.0"; teal = build "teal" "3.0.0"; }
"""
NAMES = ("duck", "drake")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a pin, and a store that is another one for each server, at the same place."""
    folder = tmp_path_factory.mktemp("locked")
    (folder / "empty.nix").write_text("{ }")
    tarball(folder / "pin.tar.gz", default_nix=BUILT)
    yield folder
    for store in folder.glob("store*"):
        remove_store(store)


def server(folder, name):
    """Return a server with a new store, and the pin as a catalog that has the server's name."""
    settings = {
        "DATA_DIR": folder / name / "data",
        "STORE_DIR": folder / "store",
        "CATALOGS": folder / "empty.nix",
        "MIN_FREE_BYTES": 1,
        "WEB_PROCESSES": 1,
    }
    service = Service(settings).init_db()
    app = create_app(settings)
    words = ["catalog", "add", name, (folder / "pin.tar.gz").as_uri()]
    app.test_cli_runner().invoke(args=words, catch_exceptions=False)
    with app.app_context():
        db.engine.dispose()
    return service


@pytest.fixture(scope="module")
def exported(folder):
    """A manifest, with its lock, of a server that is gone with its store."""
    path = folder / "pkgs.toml"
    path.write_text('[packages]\nduck = "^2"\ndrake = "latest"\nteal = "3.0.0"\n')
    with server(folder, "first") as service:
        ctl = CommandRunner(folder, service.start().url, service.sign_in())
        assert ctl("apply", path).stderr == ""  # of pins alone, so that nothing is to be warned of
        assert ctl("apply", "-", input='[packages]\nduck = "2.1"\ndrake = "1.0.0"\n').exit_code == 0
        assert ctl("export", "--force", path).exit_code == 0
    (folder / "store").rename(folder / "store-of-first")
    return path


@pytest.fixture(scope="module")
def second(folder, exported):
    """The command on a second server."""
    with server(folder, "second") as service:
        yield CommandRunner(folder, service.start().url, service.sign_in())


def packages_of(path):
    """Return the packages of a manifest's lock."""
    return json.loads(path.with_name(f"{path.name}.lock").read_text())["packages"]


@pytest.fixture
def changed(exported, tmp_path):
    """Return a function that returns a copy of the manifest whose lock it has changed."""

    def changed(name, **facts):
        path = tmp_path / "pkgs.toml"
        path.write_text(exported.read_text())
        packages = packages_of(exported)
        packages[name] = {**packages[name], **facts}
        document = {"format": 1, "packages": packages}
        path.with_name("pkgs.toml.lock").write_text(json.dumps(document))
        return path

    return changed


def test_a_lock_with_a_pin_that_no_catalog_has_is_refused(second, changed, exported):
    catalog = {**packages_of(exported)["duck"]["catalog"], "sha256": "0" * 52}

    done = second("apply", "--locked", changed("duck", catalog=catalog))

    assert (done.exit_code, second.json("list")) == (ExitCode.REFUSED, [])
    assert done.stderr.startswith("Error: no catalog here has the hash that duck needs: file:///")
    assert f"sha256 {'0' * 52} (flask catalog add" in done.stderr


def test_a_package_that_gets_another_store_path_fails_the_apply(second, changed, exported):
    right = packages_of(exported)["duck"]["store_path"]
    path = changed("duck", store_path=f"{right}-other")

    waited, at_once = second("apply", "--locked", path), second("apply", "--locked", path)

    for done in (waited, at_once):
        assert (done.exit_code, second.rows("list", "-p", "default")) == (ExitCode.REFUSED, [])
        assert f"Error: duck 2.1.0 is {right} here, not {right}-other" in done.stderr


def test_a_lock_of_another_server_comes_to_the_same_store_paths(second, exported, tmp_path):
    done = second("apply", "--locked", exported)

    assert (done.exit_code, done.stderr) == (0, "")
    assert second("export", tmp_path / "again.toml").exit_code == 0
    ours, theirs = packages_of(tmp_path / "again.toml"), packages_of(exported)
    for name in NAMES:
        assert ours[name]["catalog"]["name"] == "second"
        assert theirs[name]["catalog"]["name"] == "first"
        for fact in ("version", "spelled", "drv_path", "store_path"):
            assert ours[name][fact] == theirs[name][fact]
        assert ours[name]["catalog"]["sha256"] == theirs[name]["catalog"]["sha256"]
