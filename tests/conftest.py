"""Fixtures of all tests: private Nix stores, real databases, applications, made-up packages."""

import needs  # noqa: F401 # isort: skip # before what may be missing

import fcntl
import gc
import os
import shutil
import signal
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from coverage import Coverage
from daemon import Daemon
from postgres import running_server
from recipes import Recipes
from service import init_db
from support import BUNDLED, CATALOGS, MEASURED, remove_store
from web import Web
from werkzeug.routing import Rule

import app as pkgd
import nix
import pkgctl.cli  # noqa: F401 # its coverage is measured from here on
import services
import webhooks.posting  # noqa: F401 # and so is its, which the server imports late
from models import db
from read_cache import close_connections
from worker import Pool

# The longest files start first: one that started last would keep the other processes waiting.
LONGEST_FIRST = (
    "test_service",
    "test_fuzz",
    "test_maintenance_reconcile",
    "test_faults",
    "test_attempts",
    "test_indexing",
    "test_profiles",
    "test_slow_clients",
    "test_history",
    "test_pin_commands",
    "test_ownership",
    "test_applies",
    "test_named_profiles",
    "test_maintenance_garbage",
    "test_pins",
    "test_gunicorn",
    "test_waiting",
    "test_sync",
    "test_machines",
    "test_cache_faults",
    "test_webhook_faults",
    "test_migrations",
    "test_readme",
    "test_upgrade",
    "test_worker",
    "test_outages",
    "test_modes",
    "test_scripts",
    "test_builds",
    "test_random_changes",
    "test_generations",
    "test_tasks",
)

# Tests of what tells the kinds of database apart, or where requests meet that SQLite has wait for
# each other. Those marked POSTGRESQL are measured anyway.
MEASURED_ON_BOTH = (
    "test_auth",
    "test_catalog_search",
    "test_commands",
    "test_data_folder",
    "test_database_copy",
    "test_doctor",
    "test_events",
    "test_machine_reports",
    "test_metrics",
    "test_migrations",
    "test_models",
    "test_packages",
    "test_read_only",
    "test_task_queue",
    "test_tokens",
    "test_webhooks",
)


def pytest_configure():
    """Remove the developer's own settings from the environment of the tests."""
    # What a shell runs in its background ignores SIGINT, and so would all that the tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in [*pkgd.config.SETTINGS, *(name for name in os.environ if name.startswith("NIX_"))]:
        os.environ.pop(name, None)
    measure_after_imports()
    compile_rules_once()


def measure_after_imports():
    """Have coverage start in what the tests start only after the imports of libraries.

    tests/measured/sitecustomize.py does so, and says why.
    """
    if settings := os.environ.pop("COVERAGE_PROCESS_CONFIG", None):
        os.environ["COVERAGE_AFTER_IMPORTS"] = settings
    os.environ["PYTHONPATH"] = str(MEASURED)


def compile_rules_once():
    """Have all applications share the functions by which Werkzeug builds URLs.

    Werkzeug compiles two for each rule; by that, an application took 17 ms to make in place of 7,
    and 40 in place of 15 while its coverage is measured. What the function is made of is the key.
    """
    compiled, compile_builder = {}, Rule._compile_builder

    def shared(rule, append_unknown=True):
        key = (rule.rule, append_unknown, repr(rule._trace), repr(rule.defaults))
        if key not in compiled:
            compiled[key] = compile_builder(rule, append_unknown)
        return compiled[key]

    Rule._compile_builder = shared


@contextmanager
def unmeasured():
    """Measure no coverage in the `with` block, nor in what it starts: that takes half as long."""
    running = Coverage.current()
    if running is None:
        yield
        return
    settings = os.environ.pop("COVERAGE_AFTER_IMPORTS", None)
    running.stop()
    try:
        yield
    finally:
        running.start()
        if settings:
            os.environ["COVERAGE_AFTER_IMPORTS"] = settings


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Collect without measuring coverage: all modules of ours but these tests are imported."""
    with unmeasured():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Measure the coverage of a test that runs on both kinds of database on SQLite alone."""
    if not is_repeated(item):
        return (yield)
    with unmeasured():
        return (yield)


def is_repeated(item):
    """Tell whether the test is the one on PostgreSQL of a pair, with no code for PostgreSQL."""
    database = getattr(item, "callspec", None) and item.callspec.params.get("database_url")
    named = any("database_url" in mark.args[:1] for mark in item.iter_markers("parametrize"))
    return database == "postgresql" and not named and item.path.stem not in MEASURED_ON_BOTH


def pytest_collection_finish():
    """Have garbage collection pass over what was imported and collected: it stays to the end.

    It also runs less often, by which tests of requests take a tenth less.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def pytest_terminal_summary(terminalreporter):
    """Say in the end why most tests failed where there is no Nix."""
    if shutil.which("nix-build") is None:
        terminalreporter.write_line(
            "nix-build is not on PATH, and most tests need it: script/bootstrap --dev installs it"
        )


def pytest_collection_modifyitems(items):
    """Sort the longest files to the front; xdist keeps that order with --no-loadscope-reorder."""
    rest = len(LONGEST_FIRST)
    places = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: places.get(item.path.stem, rest))


# --- Stores ---


@pytest.fixture(scope="session")
def store_dir(tmp_path_factory):
    """The folder of a private Nix store that all tests share, so that each package builds once."""
    folder = tmp_path_factory.mktemp("store").resolve()
    yield folder
    remove_store(folder)


@pytest.fixture(scope="session")
def store(store_dir):
    """The private Nix store that all tests share."""
    return nix.private_store(store_dir)


@pytest.fixture
def long_paths():
    """Have no two tests at once of those that make paths too long for Nix, or fail beside these.

    Nix deletes nothing while any process of the host has a file or a folder open with such a path.
    """
    with Path(tempfile.gettempdir(), f"pkgd-tests-long-paths-{os.getuid()}").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture
def daemon(tmp_path):
    """A running Nix daemon with a store of its own."""
    folder = (tmp_path / "daemon").resolve()
    folder.mkdir()
    daemon = Daemon(folder)
    daemon.start()
    yield daemon
    daemon.close()
    remove_store(folder)


@pytest.fixture
def web():
    """A running web server for downloads."""
    with Web() as web:
        yield web


# --- Databases ---


@pytest.fixture(scope="session")
def postgres():
    """A running PostgreSQL server that all tests share."""
    with running_server() as server:
        yield server


@pytest.fixture(scope="session")
def empty_sqlite(tmp_path_factory):
    """A SQLite file with the schema and no rows, to be copied."""
    folder = tmp_path_factory.mktemp("sqlite")
    init_db({"DATA_DIR": folder, "DATABASE_URL": f"sqlite:///{folder / 'empty.db'}"})
    return folder / "empty.db"


@pytest.fixture(scope="session")
def postgres_url(postgres, tmp_path_factory):
    """The URL of a PostgreSQL database with the schema."""
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
        connection.execute("CREATE DATABASE tests")
    folder = tmp_path_factory.mktemp("postgres")
    init_db({"DATA_DIR": folder, "DATABASE_URL": postgres.url("tests")})
    return postgres.url("tests")


@pytest.fixture(scope="session")
def emptying(postgres_url):
    """Statements that delete all rows; TRUNCATE takes twice as long, as it makes files anew."""
    named = (
        "SELECT format('LOCK TABLE %s', string_agg(format('%I', tablename), ', '))"
        " FROM pg_tables WHERE schemaname = 'public'",
        "SELECT string_agg(format('DELETE FROM %I', tablename), '; ') FROM pg_tables"
        " WHERE schemaname = 'public' AND tablename NOT IN ('alembic_version', 'profiles')",
        "SELECT string_agg(format('ALTER SEQUENCE %I RESTART', sequencename), '; ')"
        " FROM pg_sequences WHERE schemaname = 'public' AND sequencename <> 'profiles_id_seq'",
    )
    with psycopg.connect(postgres_url) as connection:
        lock, delete, restart = (connection.execute(query).fetchone()[0] for query in named)
    return f"{lock}; {delete}; DELETE FROM profiles WHERE name <> 'default'; {restart}"


def empty(url, statements):
    """Delete all rows, which is much faster than making a new database."""
    with psycopg.connect(url) as connection:
        connection.execute("SET lock_timeout = '10s'")
        connection.execute("SET session_replication_role = replica")  # foreign keys in any order
        connection.execute(statements)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request, tmp_path):
    """The URL of an empty database with the schema; tests that use it run on both kinds."""
    (tmp_path / "data").mkdir()
    if request.param == "sqlite":
        copy = tmp_path / "data" / "app.db"
        shutil.copy(request.getfixturevalue("empty_sqlite"), copy)
        return f"sqlite:///{copy}"
    url = request.getfixturevalue("postgres_url")
    empty(url, request.getfixturevalue("emptying"))
    return url


# --- Applications ---


@pytest.fixture
def settings(database_url, store_dir, tmp_path):
    """The settings of the test's application; a test may change them before it is made."""
    return {
        "DATABASE_URL": database_url,
        "DATA_DIR": tmp_path / "data",
        "STORE_DIR": store_dir,
        "CATALOGS": f"{BUNDLED} {CATALOGS / 'trouble.nix'} {CATALOGS / 'tools.nix'}",
        "SECRET_KEY": "for-tests-only-and-long-enough-for-production",
        "MIN_FREE_BYTES": 1,
        "INDEX_BYTES": 0,  # no index, unless a test is about it
        "INDEX_VERIFY": "false",
    }


@pytest.fixture
def recipes(settings, tmp_path):
    """A catalog for packages that the test makes up; request it before any application."""
    recipes = Recipes(tmp_path)
    settings["CATALOGS"] += f" {recipes.catalog}"
    return recipes


@pytest.fixture
def create_app():
    """Return a function that makes an application with exactly these settings."""
    made = []

    def create_app(settings):
        made.append(pkgd.create_app(settings))
        return made[-1]

    yield create_app
    # A look at the catalogs reads the pins: past the end, its connection would stay open.
    for look in [thread for thread in threading.enumerate() if thread.name == "catalogs"]:
        look.join(5)
    for app in made:
        services.get(Pool, app).stop()
        with app.app_context():
            db.session.remove()
            close_connections()


@pytest.fixture
def make_app(create_app, settings):
    """Return a function that makes an application with the test's settings and these overrides."""
    return lambda **overrides: create_app(settings | overrides)


@pytest.fixture
def app(make_app):
    """The application; its worker pool does nothing until a test starts it or runs one step."""
    return make_app()
