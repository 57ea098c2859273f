"""What the service says of itself."""

import pytest
from support import until

import services
from config import BUILD, VERSION
from health import check_start
from worker import Pool


def test_hello_greets_without_a_token(anonymous):
    answer = anonymous.get("/hello")

    assert (answer.status_code, answer.json) == (200, {"message": "Welcome to Package API"})


def test_a_process_that_answers_is_alive(anonymous):
    assert anonymous.get("/livez").json == {"status": "alive", "checks": {}}


def test_the_version_needs_a_token(client, anonymous):
    assert client.get("/api/v1/version").json == {"version": VERSION, "build": BUILD}
    assert anonymous.get("/api/v1/version").status_code == 401


def test_a_service_with_all_it_needs_is_ready(anonymous, pool):
    pool.start()

    until(lambda: anonymous.get("/readyz").status_code == 200)

    answer = anonymous.get("/readyz")
    assert answer.json["status"] == "ready"
    assert answer.json["checks"].keys() == {"database", "nix", "workers"}


def test_a_process_that_only_serves_is_ready_without_workers(make_app):
    app = make_app(WORKER_THREADS=0)
    services.get(Pool, app).start()

    answer = app.test_client().get("/readyz")

    assert answer.json["checks"]["workers"] == "ok, in other processes"


def failing(app):
    """Ask whether the service is ready, and return the checks that fail."""
    answer = app.test_client().get("/readyz")
    assert answer.status_code == 503
    assert answer.content_type == "application/problem+json"
    assert answer.headers["Retry-After"] == "2"
    return answer.json["errors"]


def test_without_its_workers_the_service_is_not_ready(app):
    workers = ["a worker thread of this process is not running"]

    assert failing(app) == {"workers": workers}


def test_without_nix_the_service_is_not_ready(make_app, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    app = make_app(WORKER_THREADS=0)

    assert failing(app) == {"nix": ["setpriv is not on PATH"]}


@pytest.mark.parametrize(
    "url", ["sqlite:////nonexistent/app.db", "postgresql://nobody@/nothing?host=/nonexistent"]
)
def test_without_its_database_the_service_is_not_ready(tmp_path, store_dir, url, create_app):
    settings = {"DATA_DIR": tmp_path, "DATABASE_URL": url, "STORE_DIR": store_dir}
    app = create_app(settings | {"WORKER_THREADS": 0})

    (said,) = failing(app)["database"]
    assert said.startswith("the database does not answer: ")


def test_with_an_old_schema_the_service_is_not_ready(tmp_path, store_dir, create_app):
    settings = {"DATA_DIR": tmp_path, "STORE_DIR": store_dir, "WORKER_THREADS": 0}
    app = create_app(settings)

    (said,) = failing(app)["database"]
    assert said.endswith("run flask init-db")


def start_in_production(app):
    """Check the start, as gunicorn and run-worker do, and return what was said."""
    app.config["APP_ENV"] = "production"
    with pytest.raises(SystemExit) as end:
        check_start(app)
    assert "\n" not in end.value.code
    return end.value.code


def test_production_does_not_start_on_an_old_schema(tmp_path, create_app):
    said = start_in_production(create_app({"DATA_DIR": tmp_path}))

    assert said.startswith("pkgd: the schema is None")
    assert said.endswith("run flask init-db")


def test_production_does_not_start_without_its_data_folder(app, tmp_path):
    app.config["DATA_DIR"] = tmp_path / "nowhere"

    assert start_in_production(app) == f"pkgd: DATA_DIR {tmp_path}/nowhere can't be written"


def test_production_starts_when_all_is_well_or_the_database_may_come_back(
    app, tmp_path, create_app
):
    app.config["APP_ENV"] = "production"
    check_start(app)

    url = "postgresql://nobody@/nothing?host=/nonexistent"
    away = create_app({"DATA_DIR": tmp_path, "DATABASE_URL": url})
    away.config["APP_ENV"] = "production"
    check_start(away)


def test_development_starts_without_a_schema_and_says_so_when_asked(tmp_path, create_app):
    check_start(create_app({"DATA_DIR": tmp_path}))
