"""Behind a proxy that serves pkgd below a path: X-Forwarded-Prefix, and who may not send it."""

import re

import pytest
from support import SQLITE, bearing

from app import create_app

HOSTILE = [
    *("//evil.example", "///evil.example", "/\\evil.example", "\\\\evil.example"),
    *("https://evil.example", "evil.example", "javascript:alert(1)", "/\t/evil.example"),
    *("/pkgd?x=", "/pkgd#", "/pkgd;x", "/pkgd x", '/pkgd"><script>', "/p\xe4th", "/pkgd\0"),
    *("/pkgd//evil.example", "/..", "/../..", "/pkgd/../..", "/.", "/pkgd/.", "/%2e%2e"),
    *("/pkgd\r\nSet-Cookie: a=b", "/" + "x" * 200),
]


@pytest.fixture(scope="module")
def proxied(tmp_path_factory):
    """A client of an application behind one proxy."""
    settings = {"DATA_DIR": tmp_path_factory.mktemp("proxied"), "TRUSTED_PROXIES": 1}
    return create_app(settings).test_client()


def redirect(client, prefix):
    """Return where a browser is sent whose proxy names this prefix."""
    environ = {"HTTP_ACCEPT": "text/html", "HTTP_X_FORWARDED_PREFIX": prefix}
    answer = client.get("/", environ_overrides=environ)
    assert answer.status_code == 303
    return answer.headers["Location"]


@pytest.mark.parametrize("prefix", ["/pkgd", "/pkgd/", "/a/b", "/~me/pkgd-1.0", "/..."])
def test_a_browser_stays_below_the_prefix(proxied, prefix):
    assert redirect(proxied, prefix) == f"{prefix.rstrip('/')}/now"


@pytest.mark.parametrize("prefix", ["", "/", *HOSTILE])
def test_a_prefix_that_is_no_plain_path_counts_as_none(proxied, prefix):
    assert redirect(proxied, prefix) == "/now"


@pytest.mark.parametrize("prefix", ["/pkgd", "//evil.example"])
def test_without_a_trusted_proxy_a_prefix_has_no_effect(tmp_path, prefix):
    client = create_app({"DATA_DIR": tmp_path, "TRUSTED_PROXIES": 0}).test_client()

    assert redirect(client, prefix) == "/now"


@pytest.mark.parametrize(
    ("prefix", "place"),
    [("/pkgd, /", "/pkgd/now"), ("/evil, /pkgd, /", "/pkgd/now"), ("/evil", "/now")],
)
def test_each_of_several_proxies_adds_its_own(tmp_path, prefix, place):
    client = create_app({"DATA_DIR": tmp_path, "TRUSTED_PROXIES": 2}).test_client()

    assert redirect(client, prefix) == place


def test_the_document_names_the_prefix_as_its_server(proxied):
    below = proxied.get("/openapi.json", headers={"X-Forwarded-Prefix": "/pkgd"}).json
    at_root = proxied.get("/openapi.json").json

    assert below.pop("servers") == [{"url": "/pkgd", "description": "This server"}]
    assert at_root.pop("servers") == [{"url": "/", "description": "This server"}]
    assert below == at_root


@pytest.mark.parametrize("page", ["/docs", "/redoc"])
def test_a_page_loads_from_below_any_prefix(proxied, page):
    html = proxied.get(page).get_data(as_text=True)

    places = re.findall(r'(?:src|href|spec-url)="([^"]*)"', html)
    assert {place.partition("/")[0] for place in places} <= {"data:,", "docs", "openapi.json"}


def test_a_401_names_the_pages_below_the_prefix(proxied):
    answer = proxied.get("/nope", headers={"X-Forwarded-Prefix": "/pkgd"})

    assert "/pkgd/docs" in answer.json["detail"]


@SQLITE
def test_links_and_locations_are_below_the_prefix(make_app):
    app = make_app(TRUSTED_PROXIES=1)
    client = bearing(app, app.test_client().post("/api/v1/tokens").json["token"])
    client.environ_base["HTTP_X_FORWARDED_PREFIX"] = "/pkgd"

    bodies = [{"name": name, "version": "1.0.0"} for name in ("one", "two")]
    answers = [client.post("/api/v1/packages", json=body) for body in bodies]
    link = client.get("/api/v1/packages?limit=1").headers["Link"]

    assert [each.headers["Location"] for each in answers] == [
        f"/pkgd/api/v1/package/{each.json['id']}" for each in answers
    ]
    assert link == '</pkgd/api/v1/packages?limit=1&after=1>; rel="next"'
