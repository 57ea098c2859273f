"""Metrics of requests, whatever the number of processes, and who may read them."""

from prometheus_client.parser import text_string_to_metric_families
from service import Service
from support import SQLITE, bearing, metrics

from auth import FAILURES, RefusalReason


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
    assert found["pkgd_memory_bytes",] > 1_000_000


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


@SQLITE
def test_every_refusal_is_counted_by_its_reason(app, anonymous, scrape, mint, expire):
    before = scrape()
    expired, reader = mint(), mint(scope="read")
    expire(expired["id"])

    anonymous.get("/api/v1/packages")
    bearing(app, "pkgd_guess").get("/nope")
    bearing(app, expired["token"]).get("/metrics")
    bearing(app, reader["token"]).post("/api/v1/packages")

    assert refusals(before, scrape()) == {"missing": 1, "unknown": 1, "expired": 1, "scope": 1}


@SQLITE
def test_a_revoked_token_is_told_from_an_expired_one_in_metrics_alone(
    app, client, scrape, mint, expire
):
    before = scrape()
    expired, revoked = mint(), mint()
    expire(expired["id"])
    client.delete(f"/api/v1/token/{revoked['id']}")

    answers = [bearing(app, one["token"]).get("/api/v1/packages") for one in (expired, revoked)]

    first, second = [answer.json | {"instance": None} for answer in answers]
    assert first == second
    assert refusals(before, scrape()) == {"expired": 1, "revoked": 1}


@SQLITE
def test_a_flood_of_bad_tokens_is_counted_to_the_last(app, scrape):
    before = scrape()
    client = bearing(app, "pkgd_guess")

    for _ in range(FAILURES.amount + 5):
        client.get("/api/v1/packages")

    assert refusals(before, scrape()) == {"unknown": FAILURES.amount, "throttled": 5}


def refusals(before, after):
    """Return how many requests were refused between two scrapes, by reason."""
    keys = [("pkgd_refusals_total", reason.value) for reason in RefusalReason]
    return {key[1]: after[key] - before[key] for key in keys if after[key] > before[key]}
