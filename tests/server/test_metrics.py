"""Metrics, which agree with the database whatever the number of processes."""

import pytest
from prometheus_client.parser import text_string_to_metric_families
from service import Service
from sqlalchemy import update
from support import SQLITE, bearing

from models import Token, db, soon


def metrics(text):
    """Return every sample, by its name and its labels' values in the order of their names."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
def scrape(client):
    """Return a function that returns the metrics, parsed."""

    def scrape():
        answer = client.get("/metrics")
        assert answer.status_code == 200
        assert answer.content_type.startswith("text/plain; version=")
        return metrics(answer.text)

    return scrape


def test_the_queue_is_measured(scrape, schedule, pool):
    schedule("nosuch", "1.0.0")
    pool.run_one()
    schedule()
    pool.run_one()
    schedule(version="2.10.0")

    found = scrape()

    assert [found["pkgd_tasks", status] for status in ("queued", "succeeded", "failed")] == [1] * 3
    assert found["pkgd_tasks", "running"] == 0
    assert found["pkgd_task_errors", "name_unknown"] == 1
    assert found["pkgd_task_attempts",] == 2
    assert found["pkgd_task_seconds",] > 0
    assert found["pkgd_oldest_queued_seconds",] > 0


def test_nothing_but_gauges_shrinks_when_tasks_are_deleted(client, downloaded):
    package_id = downloaded()
    before = counters(client)

    client.delete(f"/api/v1/package/{package_id}")

    after = counters(client)
    assert before
    assert [sample for sample, value in before.items() if after[sample] < value] == []


def counters(client):
    """Return every sample that Prometheus takes for one that only grows."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    samples = [each for family in families if family.type != "gauge" for each in family.samples]
    return {(each.name, *each.labels.items()): each.value for each in samples}


def test_an_empty_queue_has_no_age(scrape):
    assert scrape()["pkgd_oldest_queued_seconds",] == 0


def test_packages_the_profile_and_the_disk_are_measured(scrape, activated, register):
    activated()
    register()

    found = scrape()

    assert (found["pkgd_packages", "activated"], found["pkgd_packages", "created"]) == (1, 1)
    assert found["pkgd_profile_generation",] == 1
    assert found["pkgd_free_bytes",] > 0


def test_metrics_need_a_token(anonymous):
    assert anonymous.get("/metrics").status_code == 401


def test_metrics_can_be_made_public(make_app):
    assert make_app(METRICS_PUBLIC="true").test_client().get("/metrics").status_code == 200


@SQLITE
def test_requests_are_counted_by_all_processes(settings):
    with Service(settings | {"WEB_PROCESSES": 2, "WORKER_THREADS": 0}) as service:
        service.init_db()
        service.start()
        service.sign_in()
        for n in range(25):
            service.register("made", f"{n}.0.0")
            service.get(f"package/{n + 1}")
            assert service.request("GET", f"package/{n + 1000}").status_code == 404
            assert service.request("POST", "packages", json={}).status_code == 422

        found = metrics(service.session.get(f"{service.url}/metrics").text)
        service.stop()

    one = "/api/v1/package/<id:package_id>"
    assert found["pkgd_request_seconds_count", "201", "POST", "/api/v1/packages"] == 25
    assert found["pkgd_request_seconds_count", "422", "POST", "/api/v1/packages"] == 25
    assert found["pkgd_request_seconds_count", "200", "GET", one] == 25
    assert found["pkgd_request_seconds_count", "404", "GET", one] == 25
    assert found["pkgd_packages", "created"] == 25


def test_unknown_urls_share_one_label(client, scrape):
    for n in range(5):
        client.get(f"/nope/{n}")

    routes = {labels[-1] for labels in scrape() if labels[0] == "pkgd_request_seconds_count"}

    assert "none" in routes
    assert not [route for route in routes if "nope" in route]


def test_a_reader_may_scrape(app, client):
    reader = client.post("/api/v1/tokens", json={"scope": "read"}).json["token"]

    assert bearing(app, reader).get("/metrics").status_code == 200


@SQLITE
def test_a_method_that_a_client_invents_is_no_series_of_its_own(client):
    client.open("/api/v1/packages", method="INVENTED")

    text = client.get("/metrics").text

    assert 'method="other"' in text
    assert "INVENTED" not in text


def test_tokens_that_are_used_and_expire_soon_are_counted(app, client, scrape):
    for name in ("used", "unused"):
        client.post("/api/v1/tokens", json={"name": name})
    assert scrape()["pkgd_tokens_expiring",] == 0

    with app.app_context():
        times = {"created_at": soon(-3600), "expires_at": soon(60)}
        db.session.execute(update(Token).where(Token.id > 1).values(**times))
        used = update(Token).where(Token.name == "used").values(last_used_at=soon(0))
        db.session.execute(used)
        db.session.commit()

    assert scrape()["pkgd_tokens_expiring",] == 1
