"""Files that the service creates are its user's alone, whatever the umask it is started with."""

import os
import stat
import subprocess

import pytest
from support import BUNDLED, SQLITE, remove_store, until


@pytest.fixture
def own(service, tmp_path):
    """A service in folders that aren't there yet, with a private store in its DATA_DIR."""
    service.data_dir = tmp_path / "new" / "folder" / "data"
    service.settings |= {"DATA_DIR": service.data_dir, "STORE_DIR": service.data_dir / "nix"}
    service.settings |= {"CATALOGS": BUNDLED, "SECRET_KEY": "", "DATABASE_URL": ""}
    service.folder = lambda: tmp_path
    service.log = tmp_path / "log"
    yield service
    service.kill()
    remove_store(service.data_dir / "nix")


def mode(path):
    """Return the permissions of a file or a folder."""
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=["000", "077"])
def umask(request):
    """The umask of all that is started in a test."""
    before = os.umask(int(request.param, 8))
    yield
    os.umask(before)


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


@SQLITE
def test_what_a_service_creates_is_private_but_its_profile(own, umask):
    run(own)

    modes = {path: mode(path) for path in created(own.data_dir)}
    assert {path: oct(bits) for path, bits in modes.items() if bits & 0o077} == {}
    names = {path.name for path in modes}
    assert {"app.db", "app.db-wal", "secret_key", "belongs_to.json", "holders", "copy.db"} <= names

    folders = [own.data_dir, *own.data_dir.parents[:2], own.data_dir / "nix"]
    assert [oct(mode(folder)) for folder in folders] == [oct(0o711)] * 4


@SQLITE
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run as another user")
def test_other_users_run_the_programs_of_the_profile(own, umask):
    run(own)
    for folder in own.data_dir.parents[2:-2]:
        folder.chmod(0o711)  # pytest's own, below /tmp

    hello = own.data_dir / "profile" / "bin" / "hello"
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]

    assert b"2.12.1" in subprocess.check_output([*nobody, hello, "--version"])
    assert subprocess.run([*nobody, "ls", own.data_dir]).returncode != 0
