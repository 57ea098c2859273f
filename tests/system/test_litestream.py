"""deploy/litestream.yml, by a real Litestream."""

import sqlite3
import subprocess
from contextlib import closing, contextmanager
from pathlib import Path

from proxy import DEPLOY, program
from support import SQLITE, bearing, until

HELLO = {"name": "hello", "version": "2.12.1"}


class Litestream:
    """Litestream with the configuration of deploy/, for a database of a test."""

    def __init__(self, database, folder):
        """Write the configuration."""
        self.database, self.folder = database, folder
        self.config = folder / "litestream.yml"
        text = (DEPLOY / "litestream.yml").read_text()
        for old, new in [("/var/lib/pkgd/app.db", database), ("/var/backups/pkgd", folder)]:
            assert str(old) in text
            text = text.replace(old, str(new))
        self.config.write_text(text)

    @contextmanager
    def running(self):
        """Replicate until the end of the `with` block, and then be killed."""
        with (self.folder / "litestream.log").open("wb") as log:
            argv = [program("litestream"), "replicate", "-config", self.config]
            with subprocess.Popen(argv, stdout=log, stderr=log) as process:
                yield
                process.kill()

    def restore(self, to):
        """Restore the database to a new file; return how many packages are in it."""
        to.unlink(missing_ok=True)
        argv = [program("litestream"), "restore", "-config", self.config, "-o", to]
        done = subprocess.run([*argv, self.database], capture_output=True, text=True)
        if done.returncode:
            return 0  # nothing is replicated yet
        with closing(sqlite3.connect(to)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            return connection.execute("SELECT count(*) FROM packages").fetchone()[0]


@SQLITE
def test_litestream_brings_back_what_was_written(app, make_app, tmp_path):
    secret = app.test_cli_runner().invoke(args=["create-token"]).stdout.strip()
    client = bearing(app, secret)
    litestream = Litestream(Path(app.config["DATA_DIR"]) / "app.db", tmp_path)
    restored = tmp_path / "restored.db"
    with litestream.running():
        bodies = [{"name": "made", "version": f"{n}.0.0"} for n in range(60)]
        answers = [client.post("/api/v1/packages", json=body) for body in bodies]
        assert {answer.status_code for answer in answers} == {201}
        until(lambda: litestream.restore(restored) == len(bodies), interval=0.2)

    again = make_app(DATABASE_URL=f"sqlite:///{restored}", DATA_DIR=tmp_path / "other")
    done = again.test_cli_runner().invoke(args=["init-db"])
    assert done.exit_code == 0, done.output
    assert bearing(again, secret).post("/api/v1/packages", json=HELLO).status_code == 201
