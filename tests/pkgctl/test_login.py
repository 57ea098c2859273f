"""pkgctl: logins, servers, tokens, what it is told by flags, and servers that are no pkgd."""

import json
import re
import stat

import pytest
from harness import Answer, Ctl, Liar, problem, served

from pkgctl.client import Exit

VERSION = Answer({"version": "1.0.0", "build": "20240505"})
EMPTY = Answer([])


@pytest.fixture(scope="module")
def service(tmp_path_factory, store_dir):
    """A server that the tests of this module share."""
    with served(tmp_path_factory.mktemp("access"), store_dir) as service:
        yield service


@pytest.fixture
def ctl(service, tmp_path):
    """Pkgctl, with the server and an admin's token in its environment."""
    return Ctl(tmp_path, service.url, service.secret)


@pytest.fixture
def newcomer(tmp_path):
    """Pkgctl as nobody has set it up yet."""
    return Ctl(tmp_path)


@pytest.fixture
def liar():
    """A server that takes every token and has empty lists."""
    with Liar(lambda _, path: VERSION if "version" in path else EMPTY) as liar:
        yield liar


def kept(ctl):
    """Return the login file's path."""
    return ctl.folder / "pkgctl" / "servers.json"


# --- login ---


def test_a_login_is_kept_for_its_owner_alone_and_used(newcomer, service):
    done = newcomer("login", service.url, input=f"{service.secret}\n")

    assert done.exit_code == 0, done.stderr
    assert service.secret not in done.output
    assert stat.S_IMODE(kept(newcomer).stat().st_mode) == 0o600
    assert stat.S_IMODE(kept(newcomer).parent.stat().st_mode) == 0o700
    assert newcomer("list").exit_code == 0


def test_a_login_on_a_terminal_asks_without_showing_the_token(newcomer, service):
    terminal = newcomer.terminal("login")
    terminal.until("Server [http://127.0.0.1:8000]: ")
    terminal.type(service.url)
    terminal.until("Token (hidden; none for a new server's first one): ")
    terminal.type(service.secret)

    assert terminal.close() == 0
    assert service.secret not in terminal.shown
    assert "Success: Logged in to " in terminal.shown


def test_a_login_without_a_token_gets_a_new_servers_first_one(newcomer):
    with Liar(lambda *_: Answer({"token": "pkgd_first"}, 201)) as liar:
        done = newcomer("login", liar.url, "--json")

    assert json.loads(done.stdout) == {"name": liar.url.removeprefix("http://"), "url": liar.url}
    assert liar.asked == [("POST", "/api/v1/tokens", None)]
    assert "pkgd_first" in kept(newcomer).read_text()


@pytest.mark.parametrize(
    ("typed", "code", "said"),
    [
        ("", Exit.NOT_ALLOWED, "wants a token (an admin's is minted by pkgctl token create"),
        ("pkgd_wrong", Exit.NOT_ALLOWED, "(the one that was given is unknown, expired or revoked)"),
        ("two words", Exit.NOT_ALLOWED, "the token has characters that no token has"),
    ],
)
def test_a_login_that_is_refused_is_not_kept(newcomer, service, typed, code, said):
    done = newcomer("login", service.url, input=f"{typed}\n")

    assert (done.exit_code, said in done.stderr) == (code, True), done.stderr
    assert typed == "" or typed not in done.output
    assert not kept(newcomer).exists()


def test_a_login_to_nobody_is_not_kept(newcomer, monkeypatch):
    done = newcomer("login", "--url", "http://127.0.0.1:1")

    assert done.exit_code == Exit.UNREACHABLE
    assert not kept(newcomer).exists()


def test_a_login_tries_this_machine_when_nobody_says_where(newcomer, monkeypatch, liar):
    monkeypatch.setattr("pkgctl.login.DEFAULT_URL", liar.url)

    assert newcomer("login", "--token", "pkgd_any").exit_code == 0


def test_a_closed_prompt_is_an_interrupt(newcomer):
    terminal = newcomer.terminal("login")
    terminal.until("Server [")
    terminal.type("\x04")

    assert terminal.close() == Exit.INTERRUPTED
    assert "\r\nInterrupted\r\n" in terminal.shown


# --- several servers ---


@pytest.fixture
def two(newcomer, liar, service):
    """Pkgctl with two logins: `far`, the default, and `near`, the real one."""
    newcomer("login", liar.url, "--server", "far", "--token", "pkgd_far")
    newcomer("login", service.url, "--server", "near", "--token", service.secret, "--no-default")
    return newcomer


def test_the_first_server_is_the_default_until_another_one_is_made_it(two, liar, service):
    assert two("server", "list").stdout == f"far\t{liar.url}\tyes\nnear\t{service.url}\tno\n"
    assert two("server", "use", "near").stdout == f"Success: The default is near, {service.url}\n"
    assert two("server", "forget", "near").stdout == "Success: Forgot near\n"
    listed = json.loads(two("server", "list", "--json").stdout)
    assert listed == [{"name": "far", "url": liar.url, "default": True}]


def test_a_new_login_becomes_the_default(two, liar):
    two("login", liar.url, "--server", "third", "--token", "x")

    assert two("server", "list").stdout.endswith(f"third\t{liar.url}\tyes\n")


def test_forgetting_another_server_keeps_the_default(two):
    two("server", "forget", "near")

    assert two("server", "list").stdout.startswith("far\t")
    assert two("server", "forget", "far").exit_code == 0
    assert two("server", "list").stdout == ""


@pytest.mark.parametrize("command", [["server", "use"], ["server", "forget"], ["list", "--server"]])
def test_an_unknown_server_is_not_found(two, command):
    done = two(*command, "mars")

    assert done.exit_code == Exit.NOT_FOUND
    assert done.stderr == "Error: no server is named mars (known: far, near)\n"


@pytest.mark.parametrize(
    ("flags", "environ", "sent"),
    [
        ([], {}, "Bearer pkgd_far"),
        (["--server", "far"], {"PKGCTL_TOKEN": "pkgd_env"}, "Bearer pkgd_far"),
        ([], {"PKGCTL_TOKEN": "pkgd_env"}, "Bearer pkgd_env"),
        (["--token", "pkgd_flag"], {"PKGCTL_TOKEN": "pkgd_env"}, "Bearer pkgd_flag"),
        (["--server", "far", "--token", "pkgd_flag"], {}, "Bearer pkgd_flag"),
    ],
)
def test_a_flag_goes_before_the_environment_and_that_before_a_login(
    two, liar, flags, environ, sent
):
    two.environ |= environ

    assert two("list", *flags).exit_code == 0
    assert liar.asked[-1][2] == sent


def test_flags_count_before_the_subcommand_too(two, liar):
    assert two("--server", "near", "--token", "x", "--json", "list", "--server", "far").stdout
    assert liar.asked[-1][2] == "Bearer x"


def test_a_token_is_never_sent_to_another_server(two):
    with Liar(lambda *_: EMPTY) as other:
        two("list", "--url", other.url)
        two.environ["PKGCTL_URL"] = other.url
        two("list")

    assert [token for _, _, token in other.asked] == [None, None]


def test_a_page_of_another_server_is_asked_of_this_one(two):
    link = {"Link": '<http://127.0.0.1:1/api/v1/packages?after=7>; rel="next"'}
    with Liar(lambda _, path: EMPTY if "after" in path else Answer([], headers=link)) as server:
        done = two("list", "--url", server.url)

    assert done.exit_code == 0
    assert server.asked[1][1] == "/api/v1/packages?after=7"


@pytest.mark.parametrize(
    "flags",
    [
        ["--url", "ftp://host"],
        ["--url", "host:8000"],
        ["--url", "http://"],
        ["--url", "http://host:port"],
        ["--url", "http://user:secret@host"],
        ["--url", "http://host?query"],
        ["--url", "http://[host"],
        ["--url", "http://host", "--server", "far"],
    ],
)
def test_a_url_that_makes_no_sense_is_wrong_usage(two, flags):
    done = two("list", *flags)

    assert (done.exit_code, done.stderr.count("\n")) == (Exit.USAGE, 1)


@pytest.mark.parametrize("text", ["", "[]", '{"servers": {}}', '{"servers": {"a": {"u": 1}}}'])
def test_a_broken_login_file_is_told(newcomer, text):
    kept(newcomer).parent.mkdir()
    kept(newcomer).write_text(text)

    done = newcomer("list")

    assert (done.exit_code, done.stderr.count("\n")) == (Exit.USAGE, 1)
    assert f"{kept(newcomer)} can't be read" in done.stderr


def test_a_login_file_that_can_not_be_written_is_told(newcomer, liar):
    newcomer.environ["XDG_CONFIG_HOME"] = "/proc"

    done = newcomer("login", liar.url, "--token", "x")

    assert (done.exit_code, done.stderr.count("\n")) == (Exit.USAGE, 1)
    assert "/proc/pkgctl/servers.json can't be written" in done.stderr


def test_a_config_folder_that_is_no_whole_path_is_passed_over(newcomer, liar, tmp_path):
    newcomer.environ |= {"XDG_CONFIG_HOME": "relative", "HOME": str(tmp_path)}

    assert newcomer("login", liar.url, "--token", "x").exit_code == 0
    assert (tmp_path / ".config" / "pkgctl" / "servers.json").exists()


# --- tokens ---


def test_a_token_is_minted_alone_on_its_line(ctl, service):
    done = ctl("token", "create", "--name", "robot", "--scope", "read", "--expires-in", "1h")

    ctl.environ["PKGCTL_TOKEN"] = done.stdout.strip()
    assert (done.output.count("\n"), ctl("list").exit_code) == (1, 0)
    refused = ctl("create", "hello@1.0.0")
    assert (refused.exit_code, refused.stderr) == (
        Exit.NOT_ALLOWED,
        "Error: this needs scope operate; the token's is read\n",
    )


def test_on_a_terminal_a_minted_token_comes_with_its_life(ctl):
    terminal = ctl.terminal("token", "create", "--expires-in", "30d")

    assert terminal.close() == 0
    assert re.match(r"pkgd_\S+\r\nToken \d+, admin, until \S+; it isn't shown", terminal.shown)


@pytest.mark.parametrize("life", ["soon", "", "1w", "-1", "1e3", "٣"])
def test_a_life_that_is_no_time_is_wrong_usage(ctl, life):
    assert ctl("token", "create", "--expires-in", life).exit_code == Exit.USAGE


def test_tokens_are_listed_without_their_secrets_and_can_not_control_a_terminal(ctl, service):
    ctl("token", "create", "--name", "evil\u009b31m\u202e[bold]x[/bold]:smile:")

    terminal = ctl.terminal("token", "list")

    assert terminal.close() == 0
    assert "evil?31m?[bold]x[/bold]:smile:" in terminal.shown
    assert service.secret not in terminal.shown


def test_a_revoked_token_is_out(ctl):
    minted = json.loads(ctl("token", "create", "--json").stdout)

    assert ctl("token", "revoke", minted["id"]).stdout == f"Success: Revoked token {minted['id']}\n"
    assert ctl("token", "revoke", minted["id"]).exit_code == Exit.NOT_FOUND
    assert ctl("list", "--token", minted["token"]).exit_code == Exit.NOT_ALLOWED


def test_all_other_tokens_are_revoked_at_once(ctl):
    ctl("token", "create")

    assert ctl("token", "revoke-others").exit_code == 0
    assert [line.split("\t")[-1] for line in ctl("token", "list").stdout.splitlines()] == ["yes"]


# --- the server ---


def test_the_status_tells_checks_and_queue(ctl):
    told = dict(line.split("\t") for line in ctl("status").stdout.splitlines())

    assert (told["database"], told["queued"], told["running"]) == ("ok", "0", "0")
    document = json.loads(ctl("status", "--json").stdout)
    assert document["tasks"] == {"queued": 0, "running": 0}


def test_the_status_of_a_server_that_is_not_ready_says_what_fails(newcomer):
    with Liar(lambda *_: problem(503, "database: it does not answer")) as liar:
        done = newcomer("status", "--url", liar.url)

    assert (done.exit_code, done.stdout) == (Exit.UNREACHABLE, "")
    assert done.stderr == "Error: database: it does not answer\n"
