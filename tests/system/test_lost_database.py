"""A running service loses the file of its database, and goes on with a backup after a restart."""

import shutil
from pathlib import Path

import figures
import pytest
from sqlalchemy import make_url
from support import SQLITE, until

LOSSES = {
    "deleted": Path.unlink,
    "overwritten": lambda file: file.write_bytes(b"\1" * file.stat().st_size),
}


@SQLITE
@pytest.mark.parametrize("done", LOSSES)
def test_a_lost_database_is_noticed_and_a_backup_put_back(service, database_url, tmp_path, done):
    service.settings["WEB_PROCESSES"] = 1
    service.start().sign_in()
    task_id = service.schedule()
    service.ended(task_id)
    backup = tmp_path / "backup.db"
    assert service.command("backup", backup).returncode == 0

    for _ in range(figures.ROUNDS):
        lose(service, LOSSES[done], Path(make_url(database_url).database), backup)
        assert service.task(task_id)["status"] == "succeeded"
        assert service.get("package/1")["status"] == "downloaded"

    figures.keep(
        f"the database's file {done} under a running service of one process; "
        "a backup put back, restart",
        database_url,
        figures.rounds(),
        "once it was noticed, requests got 503 and `/readyz` the reason; 0 packages and tasks lost",
    )


def lose(service, loss, file, backup):
    """Lose the file, wait until that is noticed, and put the backup back while nothing runs."""
    loss(file)
    # Damage shows when a damaged page is read: this table's were not before.
    until(lambda: service.request("GET", "generations").status_code == 503)
    body = {"name": "hello", "version": "2.10.0"}
    assert service.request("POST", "packages", json=body).status_code == 503
    ready = service.session.get(f"{service.url}/readyz")
    assert ready.status_code == 503
    assert "restore it from a backup" in ready.json()["errors"]["database"][0]

    assert service.stop() == 0
    for path in file.parent.glob(f"{file.name}*"):
        path.unlink()
    shutil.copy(backup, file)
    service.start()
