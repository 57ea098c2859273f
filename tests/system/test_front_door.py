"""nginx and Caddy that serve pkgd below a path, with a real service behind them."""

import json
import subprocess

import pytest
from proxy import CADDY_PREFIX, HOST, NGINX_PREFIX, Nginx, TlsCaddy, program
from service import Service

HTML = ("-H", "Accept: text/html")
EVIL = ("-H", "X-Forwarded-Prefix: //evil.example")
PROXIES = {"nginx": (Nginx, NGINX_PREFIX), "caddy": (TlsCaddy, CADDY_PREFIX)}


@pytest.fixture(scope="module")
def service(tmp_path_factory, store_dir):
    """A running service that trusts one proxy."""
    data_dir = tmp_path_factory.mktemp("front") / "data"
    settings = {"DATA_DIR": data_dir, "STORE_DIR": store_dir, "WORKER_THREADS": 0}
    settings |= {"WEB_PROCESSES": 1, "TRUSTED_PROXIES": 1}
    with Service(settings, measured=False) as service:
        service.init_db().start().sign_in()
        for version in ("1.0.0", "2.0.0"):
            service.register("hello", version)
        yield service


@pytest.fixture(scope="module", params=PROXIES)
def proxy(request, service, tmp_path_factory):
    """A proxy that serves pkgd below /pkgd/."""
    kind, changes = PROXIES[request.param]
    with kind(tmp_path_factory.mktemp(request.param), service.port, changes) as proxy:
        yield proxy


@pytest.fixture(scope="module", params=PROXIES)
def root_proxy(request, service, tmp_path_factory):
    """A proxy that serves pkgd and nothing else, as the files in deploy/ have it."""
    with PROXIES[request.param][0](tmp_path_factory.mktemp("root"), service.port) as proxy:
        yield proxy


def ask(proxy, path, *options):
    """Ask the site over HTTP/2; return the status, the headers and the body."""
    where = f"{HOST}:{proxy.port}"
    own = ("--resolve", f"{where}:127.0.0.1", "--insecure", "--http2", "--silent", "--include")
    argv = [program("curl"), *own, *options, f"https://{where}{path}"]
    answer = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout
    head, _, body = answer.partition("\n\n")
    protocol, *lines = head.splitlines()
    assert protocol.startswith("HTTP/2 ")
    return int(protocol.split()[1]), dict(line.split(": ", 1) for line in lines), body


@pytest.mark.parametrize("path", ["/pkgd/", "/pkgd"])
def test_a_browser_is_sent_to_the_pages_below_the_path(proxy, path):
    status, headers, _ = ask(proxy, path, *HTML, *EVIL)

    assert (status, headers["location"]) == (303, "/pkgd/now")
    status, headers, _ = ask(proxy, headers["location"])
    assert (status, headers["location"]) == (303, "/pkgd/sign-in?next=/now")
    assert ask(proxy, headers["location"])[0] == 200


def test_a_program_is_told_where_the_api_is_below_the_path(proxy):
    places = json.loads(ask(proxy, "/pkgd/")[2])

    assert places["api"] == "/pkgd/api/v1"
    document = json.loads(ask(proxy, places["openapi"])[2])
    assert [server["url"] for server in document["servers"]] == ["/pkgd"]


def test_the_next_page_of_a_list_is_below_the_path(proxy, service):
    token = ("-H", f"Authorization: {service.session.headers['Authorization']}")

    _, headers, first = ask(proxy, "/pkgd/api/v1/packages?limit=1", *token)
    link = headers["link"].partition(">")[0].removeprefix("<")

    assert link == "/pkgd/api/v1/packages?limit=1&after=1"
    assert json.loads(ask(proxy, link, *token)[2])[0]["id"] == json.loads(first)[0]["id"] + 1


@pytest.mark.parametrize("sent", [EVIL, ("-H", "X-Forwarded-Prefix: /evil")])
def test_a_prefix_that_the_client_sends_has_no_effect(root_proxy, sent):
    assert ask(root_proxy, "/", *HTML, *sent)[1]["location"] == "/now"
    assert json.loads(ask(root_proxy, "/", *sent)[2])["docs"] == "/docs"
