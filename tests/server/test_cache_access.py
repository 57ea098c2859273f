"""What nginx is told of tokens: which, for how long, and that a revocation takes it back."""

import hashlib
import os
import time
from base64 import b64encode

import pytest
from sqlalchemy import update
from support import SQLITE

import health
import services
from cache.access import MARGIN_SECONDS, PERIOD_SECONDS, CacheAccess
from models import Token, db, soon
from worker import Pool

NARINFO = f"/cache/{'0' * 32}.narinfo"
DAY = 86_400


@pytest.fixture
def folder(tmp_path):
    """The folder that nginx reads."""
    folder = tmp_path / "access"
    folder.mkdir()
    os.chown(folder, -1, os.getgid() if os.getuid() else 33)
    folder.chmod(0o2750)  # so that files go to its group, that of nginx
    return folder


@pytest.fixture
def settings(settings, tmp_path, folder):
    """The settings of the test's application, with a cache and that folder."""
    (tmp_path / "key").write_text(f"cache-1:{b64encode(bytes(64)).decode()}")
    (tmp_path / "key").chmod(0o600)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / os.path.basename(NARINFO)).write_text("StorePath: /nix/store/x\n")
    cache = {"CACHE": f"file://{tmp_path}/cache", "CACHE_KEY_FILE": tmp_path / "key"}
    return settings | cache | {"CACHE_ACCESS_DIR": folder, "TRUSTED_PROXIES": 1}


@pytest.fixture
def fetch(anonymous):
    """Return a function that asks for a file of the cache by HTTP Basic, and returns the status."""

    def fetch(login, password, path=NARINFO, client=anonymous):
        credentials = b64encode(f"{login}:{password}".encode()).decode()
        return client.get(path, headers={"Authorization": f"Basic {credentials}"}).status_code

    return fetch


@pytest.fixture
def admitted(mint, fetch):
    """Return a function that mints a token which nginx then knows, and returns the answer."""

    def admitted(**fields):
        token = mint(**fields)
        assert fetch(f"token-{token['id']}", token["token"]) == 200
        return token

    return admitted


def ids(folder):
    """Return the ids of the tokens that nginx knows."""
    return sorted(int(name.partition(".")[0].removeprefix("token-")) for name in os.listdir(folder))


# --- Which tokens ---


@SQLITE
def test_nginx_is_told_the_hash_of_a_secret_for_this_period_alone(admitted, folder):
    before = int(time.time()) // PERIOD_SECONDS
    (folder / "token-7.1000000").touch()  # of the past
    token = admitted(scope="sync")
    (file,) = folder.iterdir()
    name, _, period = file.name.partition(".")
    assert before <= int(period) <= int(time.time()) // PERIOD_SECONDS
    digest = b64encode(hashlib.sha1(token["token"].encode()).digest()).decode()
    assert (name, file.read_text()) == (f"token-{token['id']}", f"{name}:{{SHA}}{digest}\n")
    assert file.stat().st_mode & 0o777 == 0o640
    assert file.stat().st_gid == folder.stat().st_gid


@SQLITE
def test_the_use_of_a_token_that_nginx_is_told_of_is_noted(app, client, admitted, folder):
    token = admitted()
    used = Token.id == token["id"]
    with app.app_context():
        db.session.execute(update(Token).where(used).values(last_used_at=soon(-100)))
        db.session.commit()
        services.get(CacheAccess).dismiss([token["id"]])
        services.get(CacheAccess).admit(token["id"], soon(DAY), "secret")
        assert db.session.get(Token, token["id"]).last_used_at > soon(-50)


@SQLITE
def test_nginx_is_told_of_none_but_a_token_s_own_login(client, mint, fetch, folder):
    secret = mint()["token"]
    for login in ("pkgd", "token-1", "token-02", "../token-2", "token-2/../token-2", "token-2."):
        assert fetch(login, secret) == 200
    assert fetch("token-2", secret, f"/cache/{'1' * 32}.narinfo") == 404
    assert fetch("token-2", "wrong") == 401
    for scheme in ("Token", "Bearer"):
        client.get(NARINFO, headers={"Authorization": f"{scheme} {secret}"})
    expiring = mint(expires_in=MARGIN_SECONDS)
    assert fetch(f"token-{expiring['id']}", expiring["token"]) == 200
    assert ids(folder) == []


@SQLITE
def test_a_token_that_is_revoked_meanwhile_is_not_told(app, client, mint, folder):
    token = mint()
    client.delete(f"/api/v1/token/{token['id']}")
    with app.app_context():
        services.get(CacheAccess).admit(token["id"], soon(DAY), token["token"])
    assert ids(folder) == []


@pytest.mark.parametrize("setting", [{"READ_ONLY": "true"}, {"CACHE_ACCESS_DIR": ""}])
def test_nginx_is_told_nothing_by(make_app, mint, fetch, folder, setting):
    token = mint()
    other = make_app(**setting).test_client()
    assert fetch(f"token-{token['id']}", token["token"], client=other) == 200
    assert ids(folder) == []


@SQLITE
def test_a_folder_that_fails_does_not_fail_the_request(app, mint, fetch, folder, caplog):
    folder.rmdir()
    first, second = mint(), mint()
    assert fetch(f"token-{first['id']}", first["token"]) == 200
    assert f"nginx is not told of token {first['id']}" in caplog.text
    folder.mkdir()  # which is noticed a minute later
    assert fetch(f"token-{second['id']}", second["token"]) == 200
    assert (ids(folder), f"of token {second['id']}" in caplog.text) == ([], False)


# --- Until when ---


def test_a_token_that_is_revoked_is_gone_with_the_answer(client, admitted, folder):
    first, second, third = admitted(), admitted(), admitted()
    assert client.delete(f"/api/v1/token/{second['id']}").status_code == 200
    assert ids(folder) == [first["id"], third["id"]]
    assert client.delete("/api/v1/tokens/all").status_code == 200
    assert ids(folder) == []


@SQLITE
def test_a_token_stays_live_while_nginx_can_not_be_told(client, admitted, folder):
    token = admitted()
    (file,) = folder.iterdir()
    file.unlink()
    file.mkdir()
    assert client.delete(f"/api/v1/token/{token['id']}").status_code == 503
    file.rmdir()
    assert token["id"] in [one["id"] for one in client.get("/api/v1/tokens").json]
    assert client.delete(f"/api/v1/token/{token['id']}").status_code == 200


@SQLITE
def test_the_last_admin_that_is_not_revoked_stays_known(client, fetch, folder):
    assert fetch("token-1", client.secret) == 200
    assert client.delete("/api/v1/token/1").status_code == 409
    assert fetch("token-1", client.secret) == 200
    assert ids(folder) == [1]


def test_upkeep_removes_what_was_revoked_elsewhere(app, admitted, folder):
    first, second = admitted(), admitted()
    with app.app_context():
        revoked = update(Token).where(Token.id == first["id"]).values(revoked_at=soon(0))
        db.session.execute(revoked)
        db.session.commit()
        services.get(Pool).maintain_once()
    assert ids(folder) == [second["id"]]


@SQLITE
def test_a_start_removes_all_and_nothing_of_others(app, admitted, folder):
    admitted()
    (folder / f".token-1.1700000.{'0' * 16}").touch()
    (folder / "other").touch()
    health.check_start(app)
    assert os.listdir(folder) == ["other"]


@SQLITE
@pytest.mark.parametrize("fault", ["missing", "open", "kept"])
def test_a_folder_that_can_not_be_used_prevents_the_start(app, folder, fault, capsys):
    if fault == "missing":
        folder.rmdir()
    elif fault == "open":
        folder.chmod(0o770)
    else:
        (folder / "token-1.1700000").mkdir()
    with pytest.raises(SystemExit):
        health.check_start(app)
    assert "CACHE_ACCESS_DIR" in capsys.readouterr().err
