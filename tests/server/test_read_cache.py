"""What is kept of reads: it is given again while nobody writes, and at once no more after that."""

import sqlite3
from contextlib import closing, contextmanager
from threading import Event, Thread

import pytest
from sqlalchemy import event
from support import POSTGRESQL, SQLITE, bearing, until

import read_cache
import services
from models import db
from read_cache import ReadCache

URL = "/api/v1/package/1"


@contextmanager
def opened(path):
    """Yield a connection to a file of SQLite, as another program has it."""
    with closing(sqlite3.connect(path, isolation_level=None, timeout=30)) as connection:
        yield connection


@pytest.fixture
def path(tmp_path):
    """The file of the application's database, where that is SQLite's."""
    return tmp_path / "data" / "app.db"


@pytest.fixture
def other(path):
    """A connection to the same file, as another program has it."""
    with opened(path) as connection:
        yield connection


@pytest.fixture
def selects(app, client, register):
    """The selects of the application, after a package was registered and shown."""
    register()
    assert client.get(URL).status_code == 200
    found = []
    with app.app_context():
        event.listen(db.engine, "before_cursor_execute", lambda *given: found.append(given[2]))
    return found


@SQLITE
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_what_is_asked_for_again_is_not_read_again(client, selects, method):
    first = client.get(URL)

    again = client.open(URL, method=method)

    assert again.status_code == 200
    assert again.headers["Content-Length"] == first.headers["Content-Length"]
    assert again.content_type == "application/json"
    assert again.headers["X-Request-ID"] != first.headers["X-Request-ID"]
    assert again.data == (first.data if method == "GET" else b"")
    assert selects == []


@POSTGRESQL
def test_with_postgresql_each_request_reads(client, selects):
    assert client.get(URL).json == client.get(URL).json

    assert len(selects) == 4


@SQLITE
def test_what_another_program_writes_is_seen_by_the_next_request(client, selects, other):
    for number in range(20):
        other.execute("UPDATE packages SET attr = ?", [f"attr{number}"])

        assert client.get(URL).json["attr"] == f"attr{number}"


def test_what_the_service_writes_is_seen_by_the_next_request(client, register):
    assert client.get(URL).status_code == 404
    register()
    assert client.get(URL).status_code == 200
    assert client.get(URL).json["status"] == "created"
    client.delete(URL)
    assert client.get(URL).status_code == 404


@SQLITE
def test_a_task_is_waited_for_though_its_answer_is_kept(client, selects, other):
    task_id = client.post(f"{URL}/download").json["task_id"]
    url = f"/api/v1/task/{task_id}"
    assert client.get(url).json == client.get(url).json
    answers = []
    waiting = Thread(target=lambda: answers.append(client.get(f"{url}?wait=30").json["status"]))
    waiting.start()
    until(lambda: any("FROM tasks" in one for one in selects))

    other.execute("UPDATE tasks SET status = 'succeeded'")

    waiting.join(30)
    assert answers == ["succeeded"]


@SQLITE
def test_a_token_expires_though_nobody_writes(app, client, other, mint):
    token = mint(scope="read")
    reader = bearing(app, token["token"])
    assert reader.get("/api/v1/packages").status_code == 200
    other.execute(
        "UPDATE tokens SET expires_at = strftime('%Y-%m-%d %H:%M:%f', 'now', '+4 seconds')"
        " WHERE id = ?",
        [token["id"]],
    )
    assert reader.get("/api/v1/packages").status_code == 200

    until(lambda: reader.get("/api/v1/packages").status_code == 401)


@SQLITE
def test_a_file_that_is_gone_is_noticed_though_answers_are_kept(client, selects, path):
    assert client.get(URL).status_code == 200
    path.rename(path.with_name("moved.db"))

    assert client.get(URL).status_code == 503


@SQLITE
def test_what_is_kept_is_bounded(app, monkeypatch):
    monkeypatch.setattr(read_cache, "VALUES", 3)
    cache, reads = services.get(ReadCache, app), []

    def get(key):
        return cache.current().get(key, lambda: reads.append(key) or len(reads))

    for key in ("a", "b", "c", "a", "d", "a"):
        get(key)

    assert reads == ["a", "b", "c", "d", "a"]


@SQLITE
def test_nothing_that_was_not_found_is_kept(app):
    cache = services.get(ReadCache, app)
    assert cache.current().get("key", lambda: None) is None

    assert cache.current().get("key", lambda: "found") == "found"


@SQLITE
def test_after_its_connection_was_closed_another_one_is_made(app, client, selects, other):
    services.get(ReadCache, app).close()
    other.execute("UPDATE packages SET attr = 'new'")

    assert client.get(URL).json["attr"] == "new"


@SQLITE
def test_no_answer_is_older_than_its_request(client, selects, path):
    """Another program counts in a row; threads that ask must never read less than it has told."""
    committed, wrong, ended = [0], [], Event()

    def write():
        with opened(path) as connection:
            for number in range(1, 400):
                connection.execute("UPDATE packages SET closure_size = ?", [number])
                committed[0] = number
        ended.set()

    def ask():
        while not ended.is_set():
            least = committed[0]
            found = client.get(URL).json["closure_size"] or 0
            if found < least:
                wrong.append((found, least))

    threads = [Thread(target=one) for one in (write, ask, ask, ask)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert wrong == []
    assert client.get(URL).json["closure_size"] == 399
