"""How many connections of the database a request takes for what it reads."""

from collections import Counter
from threading import Thread, get_ident

import pytest
from sqlalchemy import event
from support import until

import queries
import services
from models import Package, PackageStatus, db
from worker import Pool


class Taken:
    """Counts the connections that this process takes from the pool, and at once in a thread."""

    def __init__(self, engine):
        self.all = self.most = 0
        self._now = Counter()
        event.listen(engine, "checkout", self._count)
        event.listen(engine, "checkin", self._uncount)

    @property
    def now(self):
        """How many are taken now, by all threads."""
        return self._now.total()

    def _count(self, *_):
        self.all += 1
        self._now[get_ident()] += 1
        self.most = max(self.most, self._now[get_ident()])

    def _uncount(self, *_):
        self._now[get_ident()] -= 1


@pytest.fixture
def taken(app, client, register):
    """The connections that are taken after a package was registered."""
    register()
    with app.app_context():
        return Taken(db.engine)


def test_a_request_reads_its_token_and_its_row_on_one_connection(client, taken):
    assert client.get("/api/v1/package/1").status_code == 200

    assert (taken.all, taken.now) == (1, 0)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/api/v1/packages", {"name": "goose", "version": "1.0.0"}),
        ("POST", "/api/v1/package/1/download", None),
        ("DELETE", "/api/v1/package/1", None),
        ("GET", "/api/v1/packages", None),
        ("GET", "/api/v1/catalogs", None),
        ("GET", "/api/v1/catalog?search=goose", None),
        ("GET", "/metrics", None),
        ("GET", "/api/v1/package/2", None),
    ],
)
def test_a_request_never_takes_two_connections_at_once(client, taken, method, path, body):
    answer = client.open(path, method=method, json=body)

    assert answer.status_code < 500
    assert taken.most == 1


def test_a_request_that_waits_takes_none(app, client, taken):
    task_id = client.post("/api/v1/package/1/download").json["task_id"]
    before = taken.all
    waiting = Thread(target=client.get, args=[f"/api/v1/task/{task_id}?wait=30"])
    waiting.start()

    until(lambda: taken.all > before + 2 and taken.now == 0)

    services.get(Pool, app).stopping.set()
    waiting.join()
    assert taken.most == 1


def test_in_a_transaction_a_request_reads_what_it_has_written(app):
    with app.test_request_context():
        package = Package(name="goose", version="1.0.0", status=PackageStatus.CREATED)
        db.session.add(package)
        db.session.flush()

        assert queries.package(package.id).name == "goose"
