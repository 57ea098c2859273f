"""The routes of the binary cache: what they send, to whom, and what they refuse."""

import os
from base64 import b64encode
from socket import socketpair

import pytest
from support import SQLITE

import nix
import services
from cache.routes import TransferSlots
from config import STALL_SECONDS

INFO = "/cache/nix-cache-info"
NAR = f"/cache/nar/{'0' * 52}.nar.zst"
NARINFO = f"/cache/{'0' * 32}.narinfo"
BODY = b"zstd" * 1000


@pytest.fixture
def settings(settings, store, tmp_path):
    """The settings of the test's application, with a cache that is a folder of its own."""
    nix.make_key(store, "cache-1", tmp_path / "key")
    return settings | {"CACHE": f"file://{tmp_path}/cache", "CACHE_KEY_FILE": tmp_path / "key"}


@pytest.fixture
def folder(tmp_path):
    """The cache's folder, with a file of each kind."""
    folder = tmp_path / "cache"
    (folder / "nar").mkdir(parents=True)
    (folder / "nix-cache-info").write_text("StoreDir: /nix/store\n")
    (folder / os.path.basename(NARINFO)).write_text("StorePath: /nix/store/x\n")
    (folder / "nar" / os.path.basename(NAR)).write_bytes(BODY)
    (folder / "key").write_text("not for others")
    return folder


def basic(login, password):
    """Return the header by which Nix sends what is in its netrc file."""
    return {"Authorization": "Basic " + b64encode(f"{login}:{password}".encode()).decode()}


# --- How to use it ---


@SQLITE
def test_a_machine_is_told_what_to_configure(client, tmp_path):
    key, url = nix.public_key(tmp_path / "key"), "http://localhost/cache"
    assert client.get("/api/v1/cache").json == {
        "url": url,
        "public_key": key,
        "nix_conf": f"extra-substituters = {url}\nextra-trusted-public-keys = {key}\n"
        "netrc-file = /etc/nix/netrc\n",
        "netrc": "machine localhost login token-1 password TOKEN\n",
    }


@SQLITE
@pytest.mark.parametrize(
    ("host", "login"),
    [("[::1]:8080", "machine ::1 login"), ("h:80", "machine h login"), ("[::1", "machine ")],
)
def test_the_host_in_netrc_is_the_one_that_was_asked(client, host, login):
    answer = client.get("/api/v1/cache", headers={"Host": host})
    assert (answer.status_code, answer.json["netrc"][: len(login)]) == (200, login)


@SQLITE
def test_a_bucket_is_told_without_what_is_for_this_host(app, client):
    app.config["CACHE"] = "s3://bucket?region=eu-1&profile=secret"
    told = client.get("/api/v1/cache").json
    assert (told["url"], told["netrc"]) == ("s3://bucket?region=eu-1", None)
    assert "netrc" not in told["nix_conf"]
    assert client.get(INFO).json["type"] == "urn:pkgd:problem:no-cache"


@SQLITE
def test_without_a_cache_that_is_told(app, client):
    app.config["CACHE"] = ""
    for path in ("/api/v1/cache", INFO, NAR, NARINFO):
        answer = client.get(path)
        assert (answer.status_code, answer.json["type"]) == (404, "urn:pkgd:problem:no-cache")


@SQLITE
def test_a_key_that_can_not_be_used_is_told(client, tmp_path):
    (tmp_path / "key").chmod(0o644)
    answer = client.get("/api/v1/cache")
    assert (answer.status_code, "chmod 600" in answer.json["detail"]) == (503, True)


# --- Files ---


@SQLITE
@pytest.mark.parametrize(
    ("path", "kind", "body", "caching"),
    [
        (INFO, "text/x-nix-cache-info", b"StoreDir: /nix/store\n", "private, max-age=60"),
        (NARINFO, "text/x-nix-narinfo", b"StorePath: /nix/store/x\n", "private, max-age=60"),
        (NAR, "application/x-nix-nar", BODY, "private, max-age=31536000, immutable"),
    ],
)
def test_a_file_is_sent_as_it_is(client, folder, path, kind, body, caching):
    answer = client.get(path, buffered=True)
    assert (answer.status_code, answer.content_type.partition(";")[0]) == (200, kind)
    assert answer.data == body
    assert answer.headers.getlist("Cache-Control") == [caching]

    head = client.head(path)
    assert (head.status_code, head.data, head.content_length) == (200, b"", len(body))
    again = client.get(path, headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")


@SQLITE
@pytest.mark.parametrize(
    "path",
    [
        "/cache/key",
        "/cache/nar/key",
        "/cache/../key",
        "/cache/nar/../key",
        "/cache/%2e%2e/key",
        "/cache/nar/..%2fkey",
        f"/cache/{'e' * 32}.narinfo",  # no letter of Nix's base 32
        f"/cache/{'0' * 31}.narinfo",
        f"/cache/{'0' * 32}.narinfo%0a",
        f"/cache/{'1' * 32}.narinfo",
        f"/cache/nar/{'1' * 52}.nar.zst",
        f"/cache/nar/{'0' * 52}.nar.xz",
        "/cache/nar",
        "/cache",
    ],
)
def test_nothing_else_is_there(client, folder, path):
    answer = client.get(path)
    assert answer.status_code == 404
    assert answer.content_type == "application/problem+json"


@SQLITE
def test_a_file_is_only_read(client, folder):
    assert client.put(NAR, json={}).status_code == 405
    assert client.delete(NARINFO).status_code == 405


# --- To whom ---


@SQLITE
def test_a_token_may_be_the_password_of_basic_here_alone(client, anonymous, mint, folder):
    secret = mint(scope="read")["token"]
    for login in ("pkgd", "", "any:thing"[:3]):
        assert anonymous.head(NAR, headers=basic(login, secret)).status_code == 200
    assert anonymous.get("/api/v1/packages", headers=basic("pkgd", secret)).status_code == 401
    assert anonymous.get("/api/v1/cache", headers=basic("pkgd", secret)).status_code == 401
    assert anonymous.head(NAR, headers={"Authorization": f"Bearer {secret}"}).status_code == 200


@SQLITE
@pytest.mark.parametrize(
    "credentials",
    ["Basic", "Basic %%%", "Basic cGtnZA==", "Basic cGtnZDo=", "Basic /////w==", "Basic Ojpw"],
)
def test_other_credentials_are_refused(anonymous, folder, credentials):
    answer = anonymous.get(INFO, headers={"Authorization": credentials})
    assert answer.status_code == 401
    assert 'Basic realm="pkgd"' in answer.headers.getlist("WWW-Authenticate")
    assert anonymous.get(INFO).status_code == 401


@SQLITE
def test_the_challenge_of_basic_is_the_cache_s_alone(anonymous):
    challenges = anonymous.get("/api/v1/packages").headers.getlist("WWW-Authenticate")
    assert not any("Basic" in challenge for challenge in challenges)


# --- How many at once ---


@SQLITE
def test_past_the_bound_a_nar_has_to_wait_and_nothing_else_has(app, client, folder):
    slots = services.get(TransferSlots, app)
    while slots.acquire(blocking=False):
        pass
    answer = client.get(NAR)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
    assert answer.json["type"] == "urn:pkgd:problem:too-many-transfers"
    assert [client.get(path).status_code for path in (INFO, NARINFO)] == [200, 200]
    assert client.head(NAR).status_code == 200
    slots.release()
    assert [client.get(NAR, buffered=True).status_code for _ in range(3)] == [200] * 3


@SQLITE
def test_a_client_that_leaves_gives_its_slot_back(make_app, client, folder):
    app = client.application
    before = services.get(TransferSlots, app)._value
    answer = client.get(NAR, buffered=False)
    assert services.get(TransferSlots, app)._value == before - 1
    answer.close()
    answer.close()
    assert services.get(TransferSlots, app)._value == before


@SQLITE
def test_a_client_may_stall_only_so_long_while_it_is_sent_a_nar(client, folder):
    here, there = socketpair()
    with here, there:
        client.get(NAR, environ_overrides={"gunicorn.socket": here}).close()

        assert here.gettimeout() == STALL_SECONDS


@SQLITE
def test_a_nar_that_can_not_be_opened_keeps_no_slot(client, folder):
    nar = folder / "nar" / os.path.basename(NAR)
    nar.unlink()
    nar.mkdir()
    before = services.get(TransferSlots, client.application)._value
    assert client.get(NAR).status_code == 503
    assert services.get(TransferSlots, client.application)._value == before


@SQLITE
def test_nginx_is_told_which_file_to_send(app, client, folder):
    app.config["CACHE_ACCEL"] = "/internal-cache/"
    for path in (NAR, NARINFO, INFO):
        answer = client.get(path, headers={"X-Forwarded-For": "192.0.2.1"})
        there = path.replace("/cache/", "/internal-cache/")
        assert (answer.headers["X-Accel-Redirect"], answer.data) == (there, b"")
        assert "ETag" not in answer.headers
        with client.get(path) as direct:  # which did not come through nginx
            assert direct.data
    assert client.get(f"/cache/nar/{'1' * 52}.nar.zst").status_code == 404
