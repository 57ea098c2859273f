"""The service under hostile requests: whatever their text, none is answered by 500."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import figures
from hostile import Requests, status_of

THREADS = 4
# Unknown Transfer-Encoding; no room at the moment; unknown version of HTTP.
DECLARED = {501, 503, 505}


def test_no_request_is_answered_by_500(service, database_url):
    service.settings |= {"TRUSTED_PROXIES": 1, "WEB_THREADS": 8}
    service.start()
    secret = service.sign_in()
    service.ended(service.schedule())
    service.post("package/1/activate")

    shares = [(figures.REQUESTS // THREADS, Requests(seed, secret)) for seed in range(THREADS)]
    with ThreadPoolExecutor(THREADS) as threads:
        found = threads.map(lambda share: statuses(service.port, *share), shares)
        counts = sum(found, Counter())

    assert {status for status in counts if status and status >= 500} <= DECLARED, counts
    assert "Traceback" not in service.said()
    assert counts[200] > figures.REQUESTS * 0.05
    assert service.get("tokens")[0]["current"]
    figures.keep(
        "requests with hostile text in every place, over sockets",
        database_url,
        f"{counts.total():,} requests",
        f"0 got 500, {counts[503]} got 503; {counts[400] + counts[404] + counts[422]:,} got 400, "
        "404 or 422",
    )


def statuses(port, count, requests):
    """Send this many of the requests; return how often each status was the answer."""
    return Counter(status_of(port, next(requests)) for _ in range(count))
