"""The cache as machines see it: real Nix clients, gunicorn, nginx, and a service that is killed."""

import hashlib
import time
from base64 import b64encode
from contextlib import ExitStack
from functools import partial

import pytest
import requests
from proxy import Nginx
from service import Service
from support import remove_store, until

import nix
from cache.access import PERIOD_SECONDS
from cache.routes import NAR_TYPE
from nix.cache import FORGET, NIX
from nix.store import call


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """The folder of the service's data."""
    return tmp_path_factory.mktemp("cache").resolve() / "data"


@pytest.fixture(scope="module")
def settings(data_dir, store, store_dir):
    """The settings of a service whose cache is below its data."""
    data_dir.mkdir()
    access = data_dir / "cache-access"
    access.mkdir()
    access.chmod(0o750)
    nix.make_key(store, "cache-1", data_dir / "cache_key")
    return {
        "DATA_DIR": data_dir,
        "STORE_DIR": store_dir,
        "CACHE": f"file://{data_dir}/cache",
        "CACHE_KEY_FILE": data_dir / "cache_key",
        "MIN_FREE_BYTES": 1,
        "INDEX_BYTES": 0,
        "WEB_PROCESSES": 1,
        "TRUSTED_PROXIES": 1,
        "CACHE_ACCESS_DIR": access,
    }


@pytest.fixture(scope="module")
def service(settings):
    """A running service, which sends the files of its cache itself."""
    with Service(settings) as service:
        service.token = service.init_db().start().sign_in()
        service.ended(service.schedule("hello"))
        yield service


@pytest.fixture(scope="module")
def nginx(service, settings, tmp_path_factory):
    """The nginx of deploy/, which sends the files, in front of another server of the service."""
    behind = settings | {"WORKER_THREADS": 0}
    changes = [(" ssl http2;", ";"), ("/var/lib/pkgd/cache", f"{settings['DATA_DIR']}/cache")]
    with Service(behind | {"CACHE_ACCEL": "/internal-cache/"}) as server:
        server.start()
        with Nginx(tmp_path_factory.mktemp("nginx"), server.port, changes) as nginx:
            yield nginx


@pytest.fixture(params=["gunicorn", "nginx"])
def url(request, service):
    """The URL of the cache."""
    if request.param == "gunicorn":
        return f"{service.url}/cache"
    return f"http://127.0.0.1:{request.getfixturevalue('nginx').port}/cache"


@pytest.fixture
def path(service):
    """The store path that was published."""
    return service.get("packages")[0]["store_path"]


@pytest.fixture
def client(service, store, data_dir, tmp_path):
    """Return a function that runs a program of Nix as a machine with an empty store."""
    root = tmp_path / "machine"

    def client(argv, *more, token=service.token, key=None):
        netrc = tmp_path / "netrc"
        netrc.write_text(f"machine 127.0.0.1 login pkgd password {token}\n")
        keys = key or nix.public_key(data_dir / "cache_key")
        options = {"netrc-file": str(netrc), "trusted-public-keys": keys, "download-attempts": "1"}
        given = [word for option in options.items() for word in ("--option", *option)]
        return call(store, [*argv, *given, *FORGET, *more])

    client.store = f"local?root={root}&store={store.directory}"
    yield client
    if root.exists():
        remove_store(root)


def test_nix_copies_from_the_cache(client, url, path):
    done = client([*NIX, "copy", "--from", url, "--to", client.store], path)
    assert (done.code, done.stderr[-500:]) == (0, done.stderr[-500:])
    asked = client([*NIX, "path-info", "--store", url], path)
    assert (asked.code, asked.stdout.decode().strip()) == (0, path)


def test_nix_store_substitutes_from_the_cache(client, url, path):
    where = ["--store", client.store, "--option", "substitute", "true"]
    argv = ["nix-store", "--realise", *where, "--option", "substituters", url]
    assert client(argv, path).stdout.decode().strip() == path


@pytest.mark.parametrize("token", ["", "pkgd_unknown"])
def test_without_a_token_nix_gets_nothing(client, url, path, token):
    done = client([*NIX, "copy", "--from", url, "--to", client.store], path, token=token)
    assert done.code


def test_with_another_key_nix_takes_nothing(client, store, url, path, tmp_path):
    wrong = nix.make_key(store, "cache-1", tmp_path / "other")
    done = client([*NIX, "copy", "--from", url, "--to", client.store], path, key=wrong)
    assert done.code
    assert b"signature" in done.stderr


def test_no_one_reads_the_files_past_pkgd(service, nginx, data_dir):
    name = next((data_dir / "cache").glob("*.narinfo")).name
    where, headers = f"http://127.0.0.1:{nginx.port}", {"Authorization": f"Token {service.token}"}
    assert requests.get(f"{where}/internal-cache/{name}", headers=headers).status_code == 404
    assert requests.get(f"{where}/cache/{name}").status_code == 401
    answer = requests.get(f"{where}/cache/{name}", headers=headers)
    assert (answer.status_code, answer.headers["Cache-Control"]) == (200, "private, max-age=60")
    assert answer.headers["Content-Type"].startswith("text/x-nix-narinfo")


def test_a_slot_is_free_again_once_a_nar_was_sent(service, data_dir):
    nar = next((data_dir / "cache" / "nar").iterdir())
    for _ in range(10):
        answer = service.session.get(f"{service.url}/cache/nar/{nar.name}")
        assert (answer.status_code, answer.content) == (200, nar.read_bytes())


def test_clients_that_do_not_read_lose_their_slots(service, data_dir):
    nar = data_dir / "cache" / "nar" / f"{52 * '0'}.nar.zst"
    nar.write_bytes(bytes(20_000_000))
    url = f"{service.url}/cache/nar/{nar.name}"
    with ExitStack() as stack:
        stack.callback(nar.unlink)
        get = partial(service.session.get, url, stream=True, timeout=20)
        stalled = [stack.enter_context(get()) for _ in range(4)]
        assert [one.status_code for one in stalled] == [200] * 4
        with get() as refused:
            assert refused.status_code == 503
        until(lambda: stack.enter_context(get()).status_code == 200, 30)


# --- By nginx alone ---


@pytest.fixture
def fetch(nginx, data_dir):
    """Return a function that asks nginx for a narinfo, by HTTP Basic."""
    name = next((data_dir / "cache").glob("*.narinfo")).name

    def fetch(login, password, path=name):
        return requests.get(f"http://127.0.0.1:{nginx.port}/cache/{path}", auth=(login, password))

    return fetch


@pytest.fixture
def mint(service):
    """Return a function that mints a token, and returns its login, its secret and its URL."""

    def mint():
        token = service.post("tokens", json={"scope": "sync"})
        return f"token-{token['id']}", token["token"], f"token/{token['id']}"

    return mint


def write(data_dir, login, password, periods=(0, 1)):
    """Write what lets a login in, for periods from the current one on."""
    digest = b64encode(hashlib.sha1(password.encode()).digest()).decode()
    for period in periods:
        name = f"{login}.{int(time.time()) // PERIOD_SECONDS + period}"
        (data_dir / "cache-access" / name).write_text(f"{login}:{{SHA}}{digest}\n")


def test_nginx_checks_by_itself_who_is_in_the_folder(fetch, data_dir):
    write(data_dir, "token-900", "known to nginx alone")
    files = {"nix-cache-info": "text/x-nix-cache-info"}
    files[next((data_dir / "cache").glob("*.narinfo")).name] = "text/x-nix-narinfo"
    nar = next((data_dir / "cache" / "nar").iterdir())
    for path, kind in files.items():
        answer = fetch("token-900", "known to nginx alone", path)
        assert (answer.status_code, answer.headers["Content-Type"]) == (200, kind)
        assert answer.headers["Cache-Control"] == "private, max-age=60"
        assert answer.content == (data_dir / "cache" / path).read_bytes()
    answer = fetch("token-900", "known to nginx alone", f"nar/{nar.name}")
    assert (answer.headers["Content-Type"], answer.content) == (NAR_TYPE, nar.read_bytes())
    assert answer.headers["Cache-Control"] == "private, max-age=31536000, immutable"


def test_nginx_learns_a_token_from_pkgd_and_forgets_it_once_it_is_revoked(
    service, fetch, mint, data_dir
):
    login, secret, url = mint()
    assert fetch(login, secret).status_code == 200
    assert list((data_dir / "cache-access").glob(f"{login}.*"))
    assert [fetch(login, secret).status_code for _ in range(3)] == [200] * 3
    service.request("DELETE", url)
    assert fetch(login, secret).status_code == 401


def test_what_was_written_for_another_time_lets_nobody_in(fetch, data_dir):
    write(data_dir, "token-901", "of the past", [-2, -1])
    write(data_dir, "token-902", "of the future", [2, 3])
    assert fetch("token-901", "of the past").status_code == 401
    assert fetch("token-902", "of the future").status_code == 401


def test_a_login_names_no_other_file(fetch, mint, data_dir):
    write(data_dir, "token-903", "known")
    write(data_dir, "other", "known")
    _, secret, _ = mint()
    now = int(time.time()) // PERIOD_SECONDS
    tricks = [
        "../cache-access/token-903",
        "token-903\0",
        "token-903\n",
        f"token-903.{now}",
        "other",
    ]
    for login in [*tricks, "token-903/", "Token-903", "token-+903", "", "token-", "../token-903"]:
        assert fetch(login, "known").status_code == 401, login
        assert fetch(login, secret).status_code == 200, login  # by pkgd


def test_what_nginx_refuses_pkgd_answers(fetch, mint, data_dir, nginx):
    login, secret, _ = mint()
    fetch(login, secret)
    refused = fetch(login, "wrong")
    assert (refused.status_code, refused.json()["type"]) == (401, "about:blank")
    assert fetch(login, secret, f"{'1' * 32}.narinfo").json()["type"].endswith("not-in-cache")
    assert fetch(login, mint()[1]).status_code == 200  # any login will do
    url = f"http://127.0.0.1:{nginx.port}/cache/nix-cache-info"
    for chunked in (None, iter([b"x"])):
        answer = requests.put(url, auth=(login, secret), data=chunked)
        assert (answer.status_code, answer.json()["type"]) == (401, "about:blank")
    assert requests.get(url, data=b"x" * 100_000, auth=(login, secret)).status_code == 413


def test_a_wrong_password_is_counted_by_pkgd(fetch, mint):
    login, secret, _ = mint()
    fetch(login, secret)
    assert 429 in [fetch(login, "wrong").status_code for _ in range(61)]
    assert fetch(login, secret).status_code == 200


def test_machines_are_told_what_they_need(service):
    told = service.get("cache")
    assert told["url"] == f"{service.url}/cache"
    assert told["public_key"].startswith("cache-1:")
