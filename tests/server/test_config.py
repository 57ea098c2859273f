"""The settings: read from the environment, refused in one line when invalid."""

import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from service import ROOT
from sqlalchemy import make_url

import config
import database
from app import create_app as make_application

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
        ("PORT", "http", "a whole number from 1 to 65535"),
        ("PORT", "70000", "a whole number from 1 to 65535"),
        ("WORKER_THREADS", "-1", "a whole number from 0 to 256"),
        ("LEASE_SECONDS", "1", "a whole number from 3 to 86400"),
        ("TOKEN_DAYS", "1000000000", "a whole number from 1 to 36500"),
        ("TASK_DAYS", "1000000000", "a whole number from 1 to 36500"),
        ("PROFILE_CHECK", "check 'it", "a command, quoted as in a shell"),
        ("BIND", "127.0.0.1:80", "an address without a port, or unix:PATH"),
        ("BIND", "unix:", "an address without a port, or unix:PATH"),
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


@pytest.mark.parametrize("space", ["\n", " ", "\r\n", "\t"])
def test_white_space_around_a_value_is_no_part_of_it(tmp_path, space):
    settings = load(tmp_path, PORT=f"81{space}", DB_PATH=f"{space}/x.db{space}", BUILDERS=space)

    assert (settings["PORT"], settings["BUILDERS"]) == (81, "")
    assert settings["DATABASE_URL"] == "sqlite:////x.db"


@pytest.mark.parametrize("how", ["SECRET_KEY", "SECRET_KEY_FILE"])
def test_a_key_is_the_same_with_a_newline_in_the_environment_and_in_a_file(tmp_path, how):
    file = tmp_path / "key"
    file.touch(mode=0o600)
    file.write_text(f"{LONG}\n")
    value = {"SECRET_KEY": f"{LONG}\n", "SECRET_KEY_FILE": str(file)}[how]

    settings = load(tmp_path, APP_ENV="production", **{how: value})

    assert settings["SECRET_KEY"] == LONG


def test_a_key_with_white_space_verifies_what_an_earlier_version_made_by_it(tmp_path):
    settings = load(tmp_path, SECRET_KEY=f"{LONG}\n", SECRET_KEY_FALLBACKS="former\n")

    assert settings["SECRET_KEY_FALLBACKS"] == ("former", f"{LONG}\n", "former\n")


def test_a_key_with_spaces_can_be_a_fallback(tmp_path):
    settings = load(tmp_path, SECRET_KEY_FALLBACKS="'a b  c' \"d")

    assert settings["SECRET_KEY_FALLBACKS"][:2] == ("a b  c", '"d')


@pytest.mark.parametrize("name", ["SECRET_KEY", "DATABASE_URL", "DATA_DIR", "CATALOGS"])
@pytest.mark.parametrize("value", ["a\0b" + LONG, "/\udcff" + LONG])
def test_a_value_that_is_no_text_is_refused(tmp_path, name, value):
    with pytest.raises(config.ConfigError) as refusal:
        load(tmp_path, **{name: value})

    assert str(refusal.value) == f"{name} contains bytes that are no text"


@pytest.mark.parametrize(
    ("content", "reason"), [(b"\xff" * 40, "contains bytes that are no text"), (b"\n", "is empty")]
)
@pytest.mark.parametrize("name", ["key", "data/secret_key"])
def test_a_key_file_without_a_key_is_named(tmp_path, content, reason, name):
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.touch(mode=0o600)
    file.write_bytes(content)
    environ = {"SECRET_KEY_FILE": str(file)} if name == "key" else {}

    with pytest.raises(config.ConfigError, match=reason) as refusal:
        load(tmp_path, **environ)

    assert str(file) in str(refusal.value)


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


def test_a_key_that_can_not_be_written_leaves_no_draft(tmp_path):
    """A process whose files may have no byte stands for a full disk."""
    script = "import resource, signal, config; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    script += "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)); config.load()"
    environ = {"DATA_DIR": str(tmp_path), "PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}

    done = subprocess.run(
        [sys.executable, "-c", script], env=environ, cwd=tmp_path, capture_output=True, text=True
    )

    assert "DATA_DIR can't be used: [Errno 27] File too large" in done.stderr
    assert list(tmp_path.iterdir()) == []


# --- Paths ---


@pytest.mark.parametrize("home", ["", "relative"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATA_DIR", "~/pkgd"),
        ("CATALOGS", "/srv ~/pins"),
        ("PROFILE_CHECK", "~/check --all"),
        ("BIND", "unix:~/socket"),
        ("DATABASE_URL", "sqlite:///~/app.db"),
        ("DB_PATH", "~nobody-of-that-name/app.db"),
    ],
)
def test_a_home_folder_that_there_is_not_is_refused(tmp_path, monkeypatch, home, name, value):
    monkeypatch.setenv("HOME", home)

    with pytest.raises(config.ConfigError, match=r"no home folder here$") as refusal:
        load(tmp_path, **{name: value})

    assert str(refusal.value).startswith(f"{name} is ")


def test_every_path_is_expanded_the_same_way(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")

    settings = load(
        tmp_path,
        CATALOGS="~/a b/c",
        PROFILE_CHECK="./check 'smoke test'",
        BIND="unix:~/socket",
        STORE_DIR="store",
        DATABASE_URL="sqlite:///./app.db",
    )

    assert settings["CATALOGS"] == ("/home/me/a", f"{tmp_path}/b/c")
    assert settings["PROFILE_CHECK"] == f"{tmp_path}/check 'smoke test'"
    assert settings["BIND"] == "unix:/home/me/socket"
    assert settings["STORE_DIR"] == tmp_path / "store"
    assert settings["DATABASE_URL"] == f"sqlite:///{tmp_path}/app.db"


@pytest.mark.parametrize(
    ("value", "parsed"),
    [
        ("<nixpkgs>\n/srv/pins/a/\t/b", ("<nixpkgs>", "/srv/pins/a/", "/b")),
        ("'/srv/my pins' <nixpkgs>", ("/srv/my pins", "<nixpkgs>")),
        ('"/srv/my  pins"\t"/it\'s"', ("/srv/my  pins", "/it's")),
        ("/it's /what\"s", ("/it's", '/what"s')),
    ],
)
def test_a_path_with_a_space_is_quoted_in_a_list(tmp_path, value, parsed):
    assert load(tmp_path, CATALOGS=value)["CATALOGS"] == parsed


@pytest.mark.parametrize("value", ["'/srv/my pins", '/a "', "'/a'/b"])
def test_a_quote_without_an_end_is_refused(tmp_path, value):
    with pytest.raises(config.ConfigError, match="which has a quote without an end"):
        load(tmp_path, CATALOGS=value)


def test_a_socket_with_too_long_a_path_is_refused(tmp_path):
    with pytest.raises(config.ConfigError, match=r"BIND has a path of more than 107 bytes, /x"):
        load(tmp_path, BIND="unix:/" + "x" * 107)


@pytest.mark.parametrize(
    ("bind", "address"),
    [
        ("::1", "[::1]:80"),
        ("[::1]", "[::1]:80"),
        ("::", "[::]:80"),
        ("127.0.0.1", "127.0.0.1:80"),
        ("db_1.example.org", "db_1.example.org:80"),
        ("unix:///run/socket", "unix:/run/socket"),
    ],
)
def test_the_address_to_listen_on_is_right_for_each_kind_of_host(tmp_path, bind, address):
    assert config.listen_address(load(tmp_path, BIND=bind, PORT="80")) == address


# --- The database ---


@pytest.mark.parametrize("name", ["a?b", "a#b", "a%41b", "a b", "a%b", "ä", "a:b@c", "a&uri=true"])
@pytest.mark.parametrize("how", ["DATA_DIR", "DB_PATH"])
def test_the_database_is_the_file_that_the_path_names(tmp_path, create_app, name, how):
    folder = tmp_path / name
    folder.mkdir()
    value = folder if how == "DATA_DIR" else folder / "app.db"

    app = create_app({"DATA_DIR": tmp_path / "data", how: value})
    done = app.test_cli_runner().invoke(args=["init-db"])

    assert done.exit_code == 0, done.output
    assert (folder / "app.db").stat().st_size > 0
    with app.app_context():
        assert database.state() == "ok"


def test_a_relative_database_url_is_relative_to_the_working_directory(
    tmp_path, monkeypatch, create_app
):
    monkeypatch.chdir(tmp_path)
    app = create_app({"DATA_DIR": tmp_path / "data", "DATABASE_URL": "sqlite:///./x.db"})

    assert app.test_cli_runner().invoke(args=["init-db"]).exit_code == 0

    assert (tmp_path / "x.db").stat().st_size > 0
    assert not (tmp_path / "instance").exists()


@pytest.mark.parametrize(
    ("former", "environ"),
    [
        ("instance/x.db", {"DATABASE_URL": "sqlite:///x.db"}),
        ("aAb.db", {"DB_PATH": "a%41b.db"}),
    ],
)
def test_a_database_where_an_earlier_version_put_it_stays_in_use(
    tmp_path, monkeypatch, former, environ
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "instance").mkdir()
    (tmp_path / former).touch()

    assert load(tmp_path, **environ)["DATABASE_URL"] == f"sqlite:///{tmp_path}/{former}"

    for name in ("x.db", "a%41b.db"):
        (tmp_path / name).touch()
    with pytest.raises(config.ConfigError, match="there are two databases") as refusal:
        load(tmp_path, **environ)
    assert f"{tmp_path}/{former}" in str(refusal.value)


def test_a_url_of_sqlite_keeps_its_parameters(tmp_path):
    url = load(tmp_path, DATABASE_URL="sqlite:///file:/a b.db?mode=ro&uri=true")["DATABASE_URL"]

    assert make_url(url).database == "file:/a b.db"
    assert make_url(url).query == {"mode": "ro", "uri": "true"}


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("app.db", "is no URL"),
        ("postgresql://me:secret@host:port/pkgd", "is no URL"),
        ("mysql://me:secret@host/pkgd", "is of mysql, not of postgresql or sqlite"),
        ("sqlite+aiosqlite:////x.db", "is of sqlite+aiosqlite, not of postgresql or sqlite"),
        ("sqlite://", "names no file: a database in memory is lost at each stop"),
        ("sqlite:///:memory:", "names no file: a database in memory is lost at each stop"),
    ],
)
def test_a_database_url_that_can_not_be_used_is_refused_without_its_password(tmp_path, url, reason):
    with pytest.raises(config.ConfigError) as refusal:
        load(tmp_path, DATABASE_URL=url)

    assert str(refusal.value) == f"DATABASE_URL {reason}"


# --- The `.env` file ---


def test_a_dot_env_file_that_is_no_text_ends_the_start(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(".env").write_bytes(b"PORT=81\xff\n")

    with pytest.raises(SystemExit) as end:
        make_application({"DATA_DIR": tmp_path})

    assert str(end.value).startswith("pkgd: .env can't be read: ")
    assert ("\n" in str(end.value), end.value.code) == (False, os.EX_CONFIG)


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(".env").write_bytes(b"\xef\xbb\xbfPORT=81\n")

    assert config.load()["PORT"] == 81


def test_the_application_exits_with_the_reason_in_one_line(tmp_path):
    with pytest.raises(SystemExit) as end:
        make_application({"DATA_DIR": tmp_path, "APP_ENV": "production"})

    assert str(end.value).startswith("pkgd: SECRET_KEY is not set; make one with: ")
    assert ("\n" in str(end.value), end.value.code) == (False, os.EX_CONFIG)


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


# --- Settings without an effect ---


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        (
            {"DB_PATH": "/x.db", "DATABASE_URL": "sqlite:////y.db"},
            "DB_PATH has no effect beside DATABASE_URL",
        ),
        (
            {"SECRET_KEY": LONG, "SECRET_KEY_FILE": "/x"},
            "SECRET_KEY_FILE has no effect beside SECRET_KEY",
        ),
        ({"STORE_DIR": "/x", "NIX_PATH": "nixpkgs=/y"}, "NIX_PATH has no effect beside STORE_DIR"),
        ({"STORE_DIR": "/x", "NIX_REMOTE": "daemon"}, "NIX_REMOTE has no effect beside STORE_DIR"),
        (
            {"MAX_FOLLOWERS": "8", "WEB_THREADS": "8"},
            "MAX_FOLLOWERS is 8, which limits nothing beside WEB_THREADS, 8",
        ),
        (
            {"SILENCE_SECONDS": "4000"},
            "SILENCE_SECONDS is 4000, which limits nothing beside BUILD_SECONDS, 3600",
        ),
        ({"SECRET_KEYS": LONG}, "'SECRET_KEYS' is no setting; did you mean SECRET_KEY?"),
        ({"WORKERS_THREADS": "1"}, "'WORKERS_THREADS' is no setting; did you mean WORKER_THREADS?"),
        ({"Data_Dir": "/x"}, "'Data_Dir' is no setting; did you mean DATA_DIR?"),
    ],
)
def test_a_setting_without_an_effect_is_told(environ, sentence):
    assert config.doubts(environ) == [sentence]


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"WORKER_THREADS": "0", "LEASE_SECONDS": "30"},
        {"DB_PATH": "/x.db", "DATABASE_URL": " "},
        {"NIX_PATH": "nixpkgs=/y", "PORTS": "1", "TERM": "xterm", "XDG_DATA_DIRS": "/usr/share"},
        {"BUILD_SECONDS": "60"},
        {"WEB_THREADS": "4"},
    ],
)
def test_other_settings_and_variables_are_no_matter_of_doubt(environ):
    assert config.doubts(environ) == []


def test_an_unknown_name_in_a_dot_env_file_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(".env").write_text("CATALOG=/x\nPORTS=1\nNIX_PATH=/x\nPOSTGRES_PASSWORD=x\nPKGCTL_URL=x\n")

    assert config.doubts({}) == [
        "'CATALOG' is no setting; did you mean CATALOGS?",
        "'NIX_PATH' in .env is no setting, and has no effect on the service",
        "'PORTS' is no setting; did you mean PORT?",
    ]


def test_the_start_logs_each_doubt_in_one_line(tmp_path, capfd):
    make_application({"DATA_DIR": tmp_path, "SECRET_KEYS": LONG, "APP_ENV": "development"})

    lines = [line for line in capfd.readouterr().err.splitlines() if "SECRET_KEYS" in line]
    assert len(lines) == 1
    assert "settings: 'SECRET_KEYS' is no setting; did you mean SECRET_KEY?" in lines[0]


def test_a_folder_that_cannot_be_used_ends_the_start_in_one_line(create_app, tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(SystemExit, match="pkgd: DATA_DIR or STORE_DIR can't be used: "):
        create_app({"SECRET_KEY": "for-tests", "DATA_DIR": tmp_path / "file"})


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has builders of other users")
def test_builders_of_root_may_pass_through_to_their_folders(create_app, tmp_path):
    before = os.umask(0)

    create_app({"SECRET_KEY": "for-tests", "DATA_DIR": tmp_path})

    assert os.umask(before) == 0o066


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("uri=true", "DATABASE_URL has uri, but no file: before its path"),
        ("timeout=soon", "DATABASE_URL has a parameter that can't be used: .*'soon'"),
    ],
)
def test_a_parameter_of_a_database_url_that_can_not_be_used_is_refused(tmp_path, query, said):
    with pytest.raises(config.ConfigError, match=said):
        config.load(
            {"DATA_DIR": str(tmp_path), "DATABASE_URL": f"sqlite:///{tmp_path}/app.db?{query}"}
        )
