"""Files that the service creates are its user's alone, whatever the umask it is started with."""

import os
import stat
import subprocess

import pytest
from service import Service
from support import BUNDLED, remove_store, until


def mode(path):
    """Return the permissions of a file or a folder."""
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(scope="module", params=["000", "077"])
def umask(request):
    """The umask of all that is started for the tests."""
    before = os.umask(int(request.param, 8))
    yield
    os.umask(before)


@pytest.fixture(scope="module")
def own(umask, tmp_path_factory):
    """A service that has made its files, in folders that weren't there, with a store of its own."""
    folder = tmp_path_factory.mktemp("modes")
    data_dir = folder / "new" / "folder" / "data"
    settings = {"DATA_DIR": data_dir, "STORE_DIR": data_dir / "nix", "CATALOGS": BUNDLED}
    with Service(settings | {"MIN_FREE_BYTES": 1}, measured=False) as service:
        service.folder = lambda: folder
        service.log = folder / "log"
        run(service)
        yield service
    remove_store(data_dir / "nix")


def run(service):
    """Have the service do what creates files: a download, an activation, a backup."""
    service.start(ready=False)
    until(lambda: "Booting worker" in service.said(), explain=service.said)
    assert service.command("init-db").returncode == 0
    service.await_ready()
    service.sign_in()
    package_id = service.register()
    service.ended(service.post(f"package/{package_id}/download")["task_id"])
    service.post(f"package/{package_id}/activate")
    service.post(f"package/{package_id}/activate?dry_run=true")
    assert service.command("backup", service.data_dir / "copy.db").returncode == 0


def created(data_dir):
    """Yield the files and folders below DATA_DIR that aren't Nix's own."""
    for top, folders, files in os.walk(data_dir):
        folders[:] = set(folders) - ({"nix"} if top == str(data_dir) else set())
        yield from (
            path for name in folders + files if not (path := data_dir / top / name).is_symlink()
        )


def test_what_a_service_creates_is_private_but_its_profile(own):
    modes = {path: mode(path) for path in created(own.data_dir)}
    assert {path: oct(bits) for path, bits in modes.items() if bits & 0o077} == {}
    names = {path.name for path in modes}
    assert {"app.db", "app.db-wal", "secret_key", "belongs_to.json", "holders", "copy.db"} <= names

    folders = [own.data_dir, *own.data_dir.parents[:2], own.data_dir / "nix"]
    assert [oct(mode(folder)) for folder in folders] == [oct(0o711)] * 4


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run as another user")
def test_other_users_run_the_programs_of_the_profile(own):
    for folder in own.data_dir.parents[2:-2]:
        folder.chmod(0o711)  # pytest's own, below /tmp

    hello = own.data_dir / "profile" / "bin" / "hello"
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]

    assert b"2.12.1" in subprocess.check_output([*nobody, hello, "--version"])
    assert subprocess.run([*nobody, "ls", own.data_dir]).returncode != 0
