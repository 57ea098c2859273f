"""Failed authentications are slowed per address; who has a live token is not."""

import pytest
from conftest import bearing

from auth import FAILURES


@pytest.fixture
def from_address(app):
    """Return a function that asks with a token, from an address, and returns the answer."""

    def from_address(address, secret="pkgd_guess", **headers):
        environ = {"REMOTE_ADDR": address}
        client = bearing(app, secret)
        return client.get("/api/v1/version", environ_overrides=environ, headers=headers)

    return from_address


def test_guesses_are_slowed_and_other_addresses_are_not(from_address):
    statuses = [from_address("192.0.2.1").status_code for _ in range(FAILURES.amount + 5)]

    assert statuses == [401] * FAILURES.amount + [429] * 5
    assert from_address("192.0.2.2").status_code == 401


def test_who_is_slowed_is_told_when_to_come_back(from_address):
    for _ in range(FAILURES.amount):
        from_address("192.0.2.1")

    answer = from_address("192.0.2.1")

    assert 1 <= int(answer.headers["Retry-After"]) <= 60
    assert answer.json["type"] == "urn:pkgd:problem:too-many-failures"


def test_a_live_token_passes_whatever_its_neighbours_do(client, from_address):
    for _ in range(FAILURES.amount + 1):
        from_address("192.0.2.1")

    assert from_address("192.0.2.1", client.secret).status_code == 200


@pytest.mark.parametrize(("proxies", "statuses"), [(0, {401, 429}), (1, {401})])
def test_only_a_trusted_proxy_says_who_is_asking(make_app, proxies, statuses):
    client = bearing(make_app(TRUSTED_PROXIES=proxies), "pkgd_guess")

    answers = {
        client.get("/hello/x", headers={"X-Forwarded-For": f"192.0.2.{n}"}).status_code
        for n in range(FAILURES.amount + 1)
    }

    assert answers == statuses
