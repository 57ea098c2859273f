"""Fill a service's database with many rows."""

import uuid
from contextlib import contextmanager
from datetime import timedelta

from sqlalchemy import insert

import app as pkgd
from models import Package, Task, TaskStatus, db, utcnow

BATCH = 10_000


@contextmanager
def database(service):
    """Open a service's database in this process, for the `with` block."""
    app = pkgd.create_app(service.settings | {"WORKER_THREADS": 0})
    with app.app_context():
        yield
        db.session.remove()
        db.engine.dispose()


def fill(service, count):
    """Add `count` packages, each with a cancelled task; return the last task's id."""
    with database(service):
        for start in range(0, count, BATCH):
            numbers = range(start, min(start + BATCH, count))
            tasks = [_task(number) for number in numbers]
            db.session.execute(insert(Package), [_package(number) for number in numbers])
            db.session.execute(insert(Task), tasks)
        db.session.commit()
    return tasks[-1]["id"]


def _package(number):
    name = f"package{number}"
    return {
        "id": number + 1,
        "name": name,
        "version": "1.25.3",
        "catalog": "<nixpkgs>",
        "attr": name,
        "drv_path": f"/nix/store/8jm0wsmmhzgrvkkrcwqzmiihpgy6b3vj-{name}-1.25.3.drv",
    }


def _task(number):
    return {
        "id": uuid.uuid4(),
        "package_id": number + 1,
        "status": TaskStatus.CANCELLED,
        "attempt": 1,
        "started_at": utcnow() - timedelta(seconds=2),
        "finished_at": utcnow(),
    }
