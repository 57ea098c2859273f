"""The routes of health, and the checks before the start of a production server."""

import logging
import os

import pytest
from sqlalchemy import update
from support import bearing, until

import nix
import services
from config import BUILD, BUNDLED_CATALOG, VERSION
from health import check_start
from models import Token, db, soon
from worker import Pool

UNREACHABLE = "postgresql://nobody@/nothing?host=/nonexistent"


def test_a_process_that_answers_is_alive(anonymous):
    assert anonymous.get("/livez").json == {"status": "alive", "checks": {}}


def test_the_version_tells_where_the_profile_is(client, profile):
    answer = client.get("/api/v1/version").json

    assert answer == {"version": VERSION, "build": BUILD, "profile": str(profile)}
    assert profile.is_absolute()


def test_the_version_needs_a_token(anonymous):
    assert anonymous.get("/api/v1/version").status_code == 401


# --- Readiness ---


def test_a_service_with_all_that_it_needs_is_ready(anonymous, pool):
    pool.start()

    until(lambda: anonymous.get("/readyz").status_code == 200)

    answer = anonymous.get("/readyz")
    assert answer.json["status"] == "ready"
    checks = answer.json["checks"]
    assert (checks["database"], checks["workers"]) == ("ok", "ok")
    assert checks["nix"].startswith("ok, ")


def test_a_process_without_workers_is_ready(make_app):
    app = make_app(WORKER_THREADS=0)
    services.get(Pool, app).start()

    answer = app.test_client().get("/readyz")

    assert answer.status_code == 200
    assert answer.json["checks"]["workers"] == "ok, in other processes"


def failed_checks(app):
    """Ask whether the service is ready, which it must not be, and return the checks that fail."""
    answer = app.test_client().get("/readyz")
    assert answer.status_code == 503
    assert answer.json["type"] == "urn:pkgd:problem:not-ready"
    assert answer.headers["Retry-After"] == "2"
    return answer.json["errors"]


def test_a_service_whose_workers_do_not_run_is_not_ready(app):
    assert failed_checks(app) == {"workers": ["a worker thread of this process is not running"]}


def test_a_service_without_nix_is_not_ready(make_app, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))

    assert failed_checks(make_app(WORKER_THREADS=0)) == {"nix": ["setpriv is not on PATH"]}


@pytest.mark.parametrize("url", ["sqlite:////nonexistent/app.db", UNREACHABLE])
def test_a_service_whose_database_is_down_is_not_ready(tmp_path, store_dir, url, create_app):
    settings = {"DATA_DIR": tmp_path, "STORE_DIR": store_dir, "WORKER_THREADS": 0}
    app = create_app(settings | {"DATABASE_URL": url})

    (reason,) = failed_checks(app)["database"]
    assert reason.startswith("the database does not answer: ")


def test_a_service_without_a_schema_is_not_ready(tmp_path, store_dir, create_app):
    app = create_app({"DATA_DIR": tmp_path, "STORE_DIR": store_dir, "WORKER_THREADS": 0})

    (reason,) = failed_checks(app)["database"]
    assert reason.startswith("the schema is None, not ")
    assert reason.endswith(": run flask init-db")


def test_a_service_is_ready_with_one_working_catalog_and_not_without(make_app, tmp_path):
    broken = tmp_path / "broken.nix"
    broken.write_text("throw ''on purpose''")
    one_works = make_app(WORKER_THREADS=0, CATALOGS=f"{broken} {BUNDLED_CATALOG}")
    none_works = make_app(WORKER_THREADS=0, CATALOGS=f"{broken}")

    def shown(app, key):
        return app.test_client().get("/readyz").json.get(key, {}).get("catalogs")

    until(lambda: "on purpose" in (shown(one_works, "checks") or ""))
    until(lambda: shown(none_works, "errors"))

    assert one_works.test_client().get("/readyz").status_code == 200
    assert shown(one_works, "checks").startswith(f"ok, but {broken} fails: ")
    (reason,) = failed_checks(none_works)["catalogs"]
    assert reason.startswith(f"{broken} fails: ")


# --- The start ---


def refusal_to_start(app):
    """Check the start in production, which must be refused, and return the one line about it."""
    app.config["APP_ENV"] = "production"
    with pytest.raises(SystemExit) as end:
        check_start(app)
    assert ("\n" in str(end.value), end.value.code) == (False, os.EX_CONFIG)
    return str(end.value)


def test_production_does_not_start_without_a_schema(tmp_path, create_app):
    reason = refusal_to_start(create_app({"DATA_DIR": tmp_path}))

    assert reason.startswith("pkgd: the schema is None")
    assert reason.endswith("run flask init-db")


def test_production_does_not_start_without_its_data_folder(app, tmp_path):
    app.config["DATA_DIR"] = tmp_path / "nowhere"

    assert refusal_to_start(app) == f"pkgd: DATA_DIR {tmp_path}/nowhere can't be written"


def test_production_starts_with_the_schema_and_the_data_folder(app):
    app.config["APP_ENV"] = "production"

    assert check_start(app) is None


def test_production_starts_while_its_database_is_down(tmp_path, create_app):
    app = create_app({"DATA_DIR": tmp_path, "DATABASE_URL": UNREACHABLE})
    app.config["APP_ENV"] = "production"

    assert check_start(app) is None

    assert failed_checks(app)["database"][0].startswith("the database does not answer: ")


def test_development_starts_without_a_schema_and_then_is_not_ready(tmp_path, create_app):
    app = create_app({"DATA_DIR": tmp_path, "APP_ENV": "development"})

    assert check_start(app) is None

    assert failed_checks(app)["database"][0].startswith("the schema is None, not ")


def test_the_checks_of_the_start_leave_no_connection_open(app):
    """Processes that fork from this one must not share a connection."""
    app.config["APP_ENV"] = "production"

    check_start(app)

    with app.app_context():
        assert db.engine.pool.checkedin() == db.engine.pool.checkedout() == 0


def test_the_start_has_one_program_of_nix_make_a_new_store(tmp_path, create_app):
    app = create_app({"DATA_DIR": tmp_path / "data", "STORE_DIR": tmp_path / "store"})

    check_start(app)

    assert (tmp_path / "store/var/nix/gcroots/profiles").is_symlink()


def test_a_server_starts_on_a_new_store_without_nix(tmp_path, create_app, monkeypatch):
    app = create_app({"DATA_DIR": tmp_path / "data", "STORE_DIR": tmp_path / "store"})
    monkeypatch.setitem(services.get(nix.Store, app).environ, "PATH", str(tmp_path))

    check_start(app)

    assert not (tmp_path / "store/store").exists()


# --- The key ---


def key_warnings(app, caplog):
    """Check the start, and return the warnings about the key."""
    caplog.clear()
    log = logging.getLogger("pkgd.server")
    log.addHandler(caplog.handler)  # an application made by the test has removed that of the root
    check_start(app)
    log.removeHandler(caplog.handler)
    return [record.message for record in caplog.records if "SECRET_KEY" in record.message]


@pytest.mark.parametrize("used", [False, True])
def test_the_start_warns_of_a_key_that_fits_no_live_token(app, make_app, client, caplog, used):
    if used:
        client.get("/api/v1/version")
    other = make_app(SECRET_KEY="another-key-that-is-just-as-long-as-it-must-be")

    line, *_ = key_warnings(other, caplog)

    assert line.startswith("SECRET_KEY fits none of the live tokens in the database")
    assert key_warnings(app, caplog) == []


def test_a_key_that_fits_one_token_or_as_a_fallback_is_no_reason_to_warn(
    make_app, settings, client, caplog
):
    new = "another-key-that-is-just-as-long-as-it-must-be"
    rotating = make_app(SECRET_KEY=new, SECRET_KEY_FALLBACKS=settings["SECRET_KEY"])
    assert key_warnings(rotating, caplog) == []

    rotated = make_app(SECRET_KEY=new)
    rotated.test_cli_runner().invoke(args=["create-token"], catch_exceptions=False)
    assert key_warnings(rotated, caplog) == []


def test_a_token_moves_to_the_new_key_in_the_eyes_of_the_start_too(
    make_app, settings, client, caplog
):
    new = "another-key-that-is-just-as-long-as-it-must-be"
    rotating = make_app(SECRET_KEY=new, SECRET_KEY_FALLBACKS=settings["SECRET_KEY"])
    bearing(rotating, client.secret).get("/api/v1/version")

    assert key_warnings(make_app(SECRET_KEY=new), caplog) == []


def test_without_live_tokens_or_with_those_of_earlier_versions_no_key_is_warned_of(
    app, client, caplog
):
    for values in ({"key_id": None}, {"revoked_at": soon(0), "key_id": "other"}):
        with app.app_context():
            db.session.execute(update(Token).values(**values))
            db.session.commit()
        assert key_warnings(app, caplog) == []
