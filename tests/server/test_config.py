"""The settings: read from the environment, refused in one line when invalid."""

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import config
from app import create_app

LONG = "k" * 32


def load(tmp_path, **environ):
    """Load the settings of an environment, with a DATA_DIR in the test's folder."""
    return config.load({"DATA_DIR": str(tmp_path / "data"), **environ})


def test_every_setting_has_a_default(tmp_path):
    settings = load(tmp_path)

    assert settings["APP_ENV"] == "development"
    assert settings["PROFILE"] == tmp_path / "data" / "profile"
    assert settings["DATABASE_URL"] == f"sqlite:///{tmp_path}/data/app.db"
    assert settings["WORKER_THREADS"] == 2
    assert settings["LOG_BYTES"] == 16 * 1024 * 1024


def test_values_are_converted(tmp_path):
    settings = load(
        tmp_path, CATALOGS="<nixpkgs>  /srv/pins/a", PORT="80", PROFILE="~/p", DB_PATH="/x.db"
    )

    assert settings["CATALOGS"] == ("<nixpkgs>", "/srv/pins/a")
    assert settings["PORT"] == 80
    assert settings["PROFILE"] == Path.home() / "p"
    assert settings["DATABASE_URL"] == "sqlite:////x.db"


@pytest.mark.parametrize("scheme", ["postgres", "postgresql"])
def test_a_postgresql_url_gets_its_driver(tmp_path, scheme):
    url = load(tmp_path, DATABASE_URL=f"{scheme}://u:p@db/pkgd")["DATABASE_URL"]

    assert url == "postgresql+psycopg://u:p@db/pkgd"


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("APP_ENV", "staging", "development or production"),
        ("PORT", "http", "a port"),
        ("WORKER_THREADS", "-1", "a whole number from 0"),
        ("LEASE_SECONDS", "0", "a whole number from 1"),
    ],
)
def test_an_invalid_value_is_named(tmp_path, name, value, wanted):
    with pytest.raises(config.ConfigError) as refusal:
        load(tmp_path, **{name: value})

    assert str(refusal.value) == f"{name} is {value!r}, but must be {wanted}"


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("", "SECRET_KEY is not set"),
        ("short", "SECRET_KEY is shorter than 32 bytes"),
        ("change-me", "SECRET_KEY is an example's value"),
    ],
)
def test_production_needs_a_secret_key(tmp_path, key, reason):
    with pytest.raises(config.ConfigError, match=reason):
        load(tmp_path, APP_ENV="production", SECRET_KEY=key)


def test_production_accepts_a_long_key(tmp_path):
    assert load(tmp_path, APP_ENV="production", SECRET_KEY=LONG)["SECRET_KEY"] == LONG


def test_development_makes_a_private_key_once(tmp_path):
    with ThreadPoolExecutor(8) as threads:
        keys = set(threads.map(lambda _: load(tmp_path)["SECRET_KEY"], range(8)))

    assert len(keys) == 1
    kept = tmp_path / "data" / "secret_key"
    assert kept.read_text() == keys.pop()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert list(kept.parent.iterdir()) == [kept]


def test_an_unusable_data_dir_is_named(tmp_path):
    (tmp_path / "data").write_text("a file")

    with pytest.raises(config.ConfigError, match="DATA_DIR can't be used"):
        load(tmp_path)


def test_the_application_exits_with_the_reason_in_one_line(tmp_path):
    with pytest.raises(SystemExit) as end:
        create_app({"DATA_DIR": tmp_path, "APP_ENV": "production"})

    assert str(end.value.code).startswith("pkgd: SECRET_KEY is not set; make one with: ")
    assert "\n" not in end.value.code


def test_the_environment_has_priority_over_a_dot_env_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(".env").write_text("PORT=81\nTOKEN_DAYS=7\nBUILDERS=\n")
    monkeypatch.setenv("PORT", "82")

    settings = config.load()

    assert (settings["PORT"], settings["TOKEN_DAYS"], settings["BUILDERS"]) == (82, 7, "")


def test_a_secret_key_may_come_from_a_file(tmp_path):
    file = tmp_path / "key"
    file.touch(mode=0o600)
    file.write_text(f"{LONG}\n")

    settings = load(tmp_path, APP_ENV="production", SECRET_KEY_FILE=str(file))

    assert settings["SECRET_KEY"] == LONG


def test_a_secret_key_file_that_everyone_can_read_is_refused(tmp_path):
    file = tmp_path / "key"
    file.write_text(LONG)
    file.chmod(0o644)

    with pytest.raises(config.ConfigError, match="can be read by everyone: chmod o-r it"):
        load(tmp_path, APP_ENV="production", SECRET_KEY_FILE=str(file))


def test_a_missing_secret_key_file_is_named(tmp_path):
    with pytest.raises(config.ConfigError, match="SECRET_KEY_FILE can't be read"):
        load(tmp_path, SECRET_KEY_FILE=str(tmp_path / "none"))


@pytest.mark.parametrize(("value", "parsed"), [("true", True), ("false", False)])
def test_a_boolean_is_true_or_false(tmp_path, value, parsed):
    assert load(tmp_path, METRICS_PUBLIC=value)["METRICS_PUBLIC"] is parsed
    with pytest.raises(config.ConfigError, match="must be true or false"):
        load(tmp_path, METRICS_PUBLIC="yes")
