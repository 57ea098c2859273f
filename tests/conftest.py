"""What the tests share: private Nix stores, real databases, the application, its clients."""

import os
import shutil
import stat
import time
from pathlib import Path

import psycopg
import pytest
from postgres import Server, find

import app as pkgd
import nix
import services
from models import Package, PackageStatus, db
from worker import Pool

HERE = Path(__file__).parent
CATALOGS = HERE / "catalogs"
BUNDLED = HERE.parent / "catalog"
IN_CI = os.environ.get("CI") == "true"

# for what has nothing to do with the kind of database
SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

# one that began last would keep everybody waiting
LONGEST_FIRST = (
    "test_fuzz",
    "test_service",
    "test_faults",
    "test_profiles",
    "test_attempts",
    "test_reconciliation",
    "test_waiting",
    "test_builds",
    "test_outages",
    "test_slow_clients",
)


def until(claim, seconds=20):
    """Wait for `claim` to return something true, and return it."""
    deadline = time.monotonic() + seconds
    while not (answer := claim()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {claim}"
        time.sleep(0.02)
    return answer


def pytest_configure():
    """Keep the developer's own settings out of the tests."""
    for name in [*pkgd.config.SETTINGS, *(name for name in os.environ if name.startswith("NIX_"))]:
        os.environ.pop(name, None)


def pytest_collection_modifyitems(items):
    """Begin with the files that take longest; `--no-loadscope-reorder` has xdist heed it."""
    rest = len(LONGEST_FIRST)
    places = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: places.get(item.path.stem, rest))


@pytest.fixture(scope="session")
def store_dir(tmp_path_factory):
    """A folder for a private Nix store, which all tests share: what one built, others find."""
    folder = tmp_path_factory.mktemp("store").resolve()
    yield folder
    remove_store(folder)


@pytest.fixture(scope="session")
def store(store_dir):
    """The private store, as nix.py takes it."""
    return nix.private_store(store_dir)


def remove_store(folder):
    """Remove a store, which Nix has made read-only."""
    for path, _, _ in os.walk(folder):
        os.chmod(path, stat.S_IRWXU)
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def postgres():
    """A running PostgreSQL server; a missing one is an error in CI, and a skip elsewhere."""
    if find("initdb") is None:
        assert not IN_CI, "PostgreSQL is not installed"
        pytest.skip("PostgreSQL is not installed")
    server = Server()
    server.start()
    yield server
    server.remove()


@pytest.fixture(scope="session")
def empty_sqlite(tmp_path_factory):
    """A SQLite file with the schema and no rows, to be copied."""
    folder = tmp_path_factory.mktemp("sqlite")
    init_db(folder, f"sqlite:///{folder / 'empty.db'}")
    return folder / "empty.db"


@pytest.fixture(scope="session")
def postgres_url(postgres, tmp_path_factory):
    """The URL of a PostgreSQL database with the schema."""
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
        connection.execute("CREATE DATABASE tests")
    init_db(tmp_path_factory.mktemp("postgres"), postgres.url("tests"))
    return postgres.url("tests")


def init_db(folder, url):
    """Run `flask init-db` on the database."""
    app = pkgd.create_app({"DATA_DIR": folder, "DATABASE_URL": url})
    app.test_cli_runner().invoke(args=["init-db"], catch_exceptions=False)
    with app.app_context():
        db.engine.dispose()


def empty(url):
    """Remove all rows: much quicker than a new database."""
    with psycopg.connect(url) as connection:
        connection.execute("SET lock_timeout = '10s'")
        connection.execute("TRUNCATE packages, tokens, generations RESTART IDENTITY CASCADE")


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request, tmp_path):
    """The URL of an empty database with the schema: whatever uses it is tested on both kinds."""
    (tmp_path / "data").mkdir()
    if request.param == "sqlite":
        copy = tmp_path / "data" / "app.db"
        shutil.copy(request.getfixturevalue("empty_sqlite"), copy)
        return f"sqlite:///{copy}"
    url = request.getfixturevalue("postgres_url")
    empty(url)
    return url


@pytest.fixture
def settings(database_url, store_dir, tmp_path):
    """The configuration of an application of the test's own; a test may change it first."""
    return {
        "DATABASE_URL": database_url,
        "DATA_DIR": tmp_path / "data",
        "STORE_DIR": store_dir,
        "CATALOGS": f"{BUNDLED} {CATALOGS / 'trouble.nix'} {CATALOGS / 'tools.nix'}",
        "SECRET_KEY": "for-tests-only-and-long-enough-for-production",
        "MIN_FREE_BYTES": 1,
    }


@pytest.fixture
def own_store(settings, tmp_path):
    """A store of the test's own, for one that damages it or collects its garbage."""
    settings["STORE_DIR"] = tmp_path / "store"
    yield nix.private_store(tmp_path / "store")
    remove_store(tmp_path / "store")


@pytest.fixture
def create_app():
    """Return a function that makes an application of these settings alone."""
    made = []

    def create_app(settings):
        made.append(pkgd.create_app(settings))
        return made[-1]

    yield create_app
    for app in made:
        services.get(Pool, app).stop()
        with app.app_context():
            db.session.remove()
            db.engine.dispose()


@pytest.fixture
def make_app(create_app, settings):
    """Return a function that makes an application with some settings of its own."""
    return lambda **overrides: create_app(settings | overrides)


@pytest.fixture
def app(make_app):
    """The application; its pool runs when a test starts it, or a step at a time."""
    return make_app()


@pytest.fixture
def pool(app):
    """The application's worker pool."""
    return services.get(Pool, app)


@pytest.fixture
def anonymous(app):
    """A client without a token."""
    return app.test_client()


@pytest.fixture
def client(app, anonymous):
    """A client with an admin's token, which it keeps as `client.secret`."""
    secret = anonymous.post("/api/v1/tokens").json["token"]
    return bearing(app, secret)


def bearing(app, secret):
    """Return a client that sends this token."""
    client = app.test_client()
    client.environ_base["HTTP_AUTHORIZATION"] = f"Token {secret}"
    client.secret = secret
    return client


@pytest.fixture
def register(client):
    """Return a function that registers a package and returns its id."""

    def register(name="hello", version="2.12.1"):
        answer = client.post("/api/v1/packages", json={"name": name, "version": version})
        assert answer.status_code == 201, answer.json
        return answer.json["id"]

    return register


@pytest.fixture
def schedule(client, register):
    """Return a function that registers a package, asks for its download, and returns the task."""

    def schedule(name="hello", version="2.12.1"):
        answer = client.post(f"/api/v1/package/{register(name, version)}/download")
        assert answer.status_code == 202, answer.json
        return answer.json["task_id"]

    return schedule


@pytest.fixture
def downloaded(client, register, pool):
    """Return a function that takes a package as far as `downloaded` and returns its id."""

    def downloaded(name="hello", version="2.12.1"):
        package_id = register(name, version)
        client.post(f"/api/v1/package/{package_id}/download")
        assert pool.run_one()
        assert client.get(f"/api/v1/package/{package_id}").json["status"] == "downloaded"
        return package_id

    return downloaded


@pytest.fixture
def activated(client, downloaded):
    """Return a function that takes a package as far as `activated` and returns its id."""

    def activated(name="app", version="1.0.0"):
        package_id = downloaded(name, version)
        answer = client.post(f"/api/v1/package/{package_id}/activate")
        assert (answer.status_code, answer.json) == (200, {"status": "activated"})
        return package_id

    return activated


@pytest.fixture
def many(app):
    """Return a function that puts packages straight into the database."""

    def many(count, status=PackageStatus.CREATED):
        with app.app_context():
            db.session.add_all(
                Package(name=f"made-{n}", version="1.0.0", status=status) for n in range(count)
            )
            db.session.commit()

    return many
