"""Logins, the choice of server and token, the commands of tokens, and status."""

import json
import os
import re
import resource
import signal
import stat
from pathlib import Path

import pytest
from harness import FakeAnswer, FakeServer, finish, problem
from support import until

from pkgctl.errors import ExitCode

# --- login ---


def test_a_login_is_saved_for_its_owner_alone_and_used(unconfigured, service):
    done = unconfigured("login", service.url, input=f"{service.secret}\n")

    assert done.exit_code == 0, done.stderr
    assert service.secret not in done.output
    path = unconfigured.servers_path
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert unconfigured("list").exit_code == 0


def test_a_login_on_a_terminal_prompts_and_hides_the_token(unconfigured, service):
    terminal = unconfigured.terminal("login")
    terminal.until("Server [http://127.0.0.1:8000]: ")
    terminal.type(service.url)
    terminal.until("Token (hidden; none for a new server's first one): ")
    terminal.type(service.secret)

    assert terminal.close() == 0
    assert service.secret not in terminal.shown
    assert "Success: Logged in to " in terminal.shown


def test_a_login_without_a_token_gets_the_first_one_of_a_new_server(unconfigured):
    with FakeServer(lambda *_: FakeAnswer({"token": "pkgd_first"}, 201)) as server:
        done = unconfigured("login", server.url, "--json")

    name = server.url.removeprefix("http://")
    assert json.loads(done.stdout) == {"name": name, "url": server.url}
    assert server.requests == [("POST", "/api/v1/tokens", None)]
    assert "pkgd_first" in unconfigured.servers_path.read_text()


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("", "wants a token (an admin's is minted by pkgctl token create"),
        (
            "pkgd_wrong",
            "(the one that was given is unknown, expired or revoked; pkgctl login keeps another)",
        ),
        ("two words", "the token contains characters that no token can have"),
    ],
)
def test_a_refused_login_is_not_saved(unconfigured, service, typed, message):
    done = unconfigured("login", service.url, input=f"{typed}\n")

    assert done.exit_code == ExitCode.NOT_ALLOWED
    assert message in done.stderr
    assert typed == "" or typed not in done.output
    assert not unconfigured.servers_path.exists()


def test_a_login_to_an_unreachable_server_is_not_saved(unconfigured):
    done = unconfigured("login", "--url", "http://127.0.0.1:1")

    assert done.exit_code == ExitCode.UNREACHABLE
    assert not unconfigured.servers_path.exists()


def test_a_login_without_a_url_is_to_this_machine(unconfigured, monkeypatch, fake_server):
    monkeypatch.setattr("pkgctl.login.DEFAULT_URL", fake_server.url)

    done = unconfigured("login", "--token", "pkgd_any")

    assert done.exit_code == 0
    assert fake_server.requests == [("GET", "/api/v1/version", "Bearer pkgd_any")]


def test_the_end_of_input_at_a_prompt_is_an_interrupt(unconfigured):
    terminal = unconfigured.terminal("login")
    terminal.until("Server [")
    terminal.type("\x04")

    assert terminal.close() == ExitCode.INTERRUPTED
    assert "\r\nInterrupted\r\n" in terminal.shown


# --- who am I, and log out ---


@pytest.mark.parametrize("scope", ["read", "admin"])
def test_whoami_shows_the_server_and_the_token(ctl, scope):
    minted = ctl.json("token", "create", "--name", "robot", "--scope", scope)
    ctl("login", ctl.environ["PKGCTL_URL"], "--server", "near", "--token", minted["token"])

    shown = dict(ctl.rows("whoami", "--server", "near"))

    assert shown == {
        "server": ctl.environ["PKGCTL_URL"],
        "login": "near",
        "token": str(minted["id"]),
        "name": "robot",
        "scope": scope,
        "expires": f"{minted['expires_at'][:19]}Z",
    }


def test_whoami_needs_no_login(ctl, service):
    assert dict(ctl.rows("whoami"))["login"] == "-"
    assert "in 90 days)" in shown_on_terminal(ctl, "whoami")


def shown_on_terminal(runner, *words):
    """Return what a command shows on a terminal, where it must succeed."""
    terminal = runner.terminal(*words)
    assert terminal.close() == 0
    return terminal.shown


def test_an_older_server_does_not_tell_whose_token_it_is(unconfigured):
    with FakeServer(lambda *_: problem(404, "not found")) as server:
        done = unconfigured("whoami", "--url", server.url)

    assert "older release, which can't tell whose token this is" in done.stderr


def test_whoami_needs_no_home(ctl):
    ctl.environ |= {"XDG_CONFIG_HOME": None, "HOME": ""}

    assert dict(ctl.rows("whoami"))["scope"] == "admin"


def test_a_logout_forgets_the_default_login(unconfigured, fake_server):
    unconfigured("login", fake_server.url, "--token", "pkgd_secret")
    requests = len(fake_server.requests)

    done = unconfigured("logout")

    rest = "its token stays valid until it expires"
    name = fake_server.url.removeprefix("http://")
    assert done.stdout == f"Success: Logged out of {fake_server.url}, server {name}; {rest}\n"
    assert "pkgd_secret" not in unconfigured.servers_path.read_text()
    assert len(fake_server.requests) == requests
    assert unconfigured("logout").exit_code == ExitCode.NOT_FOUND


@pytest.mark.parametrize("flags", [[], ["--force"]])
def test_a_logout_may_revoke_the_token(unconfigured, flags):
    with FakeServer(lambda *_: FakeAnswer({"id": 7})) as server:
        unconfigured("login", server.url, "--token", "pkgd_mine", "--server", "far")
        done = unconfigured("logout", "--server", "far", "--revoke", *flags)

        path = "/api/v1/token/7?force=true" if flags else "/api/v1/token/7"
        assert server.requests[-1] == ("DELETE", path, "Bearer pkgd_mine")
    assert done.stdout.endswith("server far; revoked its token\n")


@pytest.mark.parametrize(
    ("method", "status", "exit_code", "said"),
    [
        ("DELETE", 403, ExitCode.NOT_ALLOWED, "Error: no\n"),
        ("DELETE", 409, ExitCode.REFUSED, "Error: no (--force revokes it all the same)\n"),
        ("GET", 404, ExitCode.REFUSED, "older release, which can't tell which token is to be"),
    ],
)
def test_a_logout_whose_token_can_not_be_revoked_forgets_nothing(
    unconfigured, method, status, exit_code, said
):
    def answer(asked, path):
        is_refused = asked == method and "/token" in path
        return problem(status, "no") if is_refused else FakeAnswer({"id": 7})

    with FakeServer(answer) as server:
        unconfigured("login", server.url, "--token", "pkgd_mine")
        done = unconfigured("logout", "--revoke")

    assert (done.exit_code, said in done.stderr) == (exit_code, True)
    assert "pkgd_mine" in unconfigured.servers_path.read_text()


# --- several servers ---


@pytest.fixture
def two_logins(unconfigured, fake_server, service):
    """The command with the logins `far`, which is the default and fake, and `near`."""
    unconfigured("login", fake_server.url, "--server", "far", "--token", "pkgd_far")
    near = ("--server", "near", "--token", service.secret, "--no-default")
    unconfigured("login", service.url, *near)
    return unconfigured


def test_the_first_login_stays_the_default_until_another_is_chosen(
    two_logins, fake_server, service
):
    far, near = ["far", fake_server.url], ["near", service.url]

    assert two_logins.rows("server", "list") == [[*far, "yes"], [*near, "no"]]
    used = two_logins("server", "use", "near")
    assert used.stdout == f"Success: The default is near, {service.url}\n"
    assert two_logins.rows("server", "list") == [[*far, "no"], [*near, "yes"]]


def test_forgetting_the_default_server_makes_another_the_default(two_logins, fake_server):
    two_logins("server", "use", "near")

    assert (
        two_logins("server", "forget", "near").stdout
        == "Success: Forgot near; the default is now far\n"
    )
    listed = two_logins.json("server", "list")
    assert listed == [{"name": "far", "url": fake_server.url, "default": True}]


def test_forgetting_another_server_keeps_the_default(two_logins, fake_server):
    two_logins("login", fake_server.url, "--server", "third", "--token", "x")

    two_logins("server", "forget", "near")

    url = fake_server.url
    assert two_logins.rows("server", "list") == [["far", url, "no"], ["third", url, "yes"]]


def test_forgetting_the_last_server_leaves_none(two_logins):
    two_logins("server", "forget", "near")
    two_logins("server", "forget", "far")

    assert two_logins.rows("server", "list") == []


def test_a_new_login_becomes_the_default(two_logins, fake_server):
    two_logins("login", fake_server.url, "--server", "third", "--token", "x")

    assert two_logins.rows("server", "list")[-1] == ["third", fake_server.url, "yes"]


@pytest.mark.parametrize("command", [["server", "use"], ["server", "forget"], ["list", "--server"]])
def test_an_unknown_server_is_not_found(two_logins, command):
    done = two_logins(*command, "mars")

    assert done.exit_code == ExitCode.NOT_FOUND
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
def test_a_flag_overrides_the_environment_and_that_overrides_a_login(
    two_logins, fake_server, flags, environ, sent
):
    two_logins.environ |= environ

    assert two_logins("list", *flags).exit_code == 0
    assert fake_server.requests[-1][2] == sent


def test_options_before_the_subcommand_count_and_later_ones_override_them(two_logins, fake_server):
    done = two_logins("--server", "near", "--token", "x", "--json", "list", "--server", "far")

    assert done.stdout == "[]\n"
    assert fake_server.requests[-1][2] == "Bearer x"


def test_a_saved_token_is_never_sent_to_another_server(two_logins):
    with FakeServer(lambda *_: FakeAnswer([])) as other:
        two_logins("list", "--url", other.url)
        two_logins.environ["PKGCTL_URL"] = other.url
        two_logins("list")

    assert [token for _, _, token in other.requests] == [None, None]


def test_of_two_logins_to_one_server_the_default_gives_the_token(unconfigured, fake_server):
    unconfigured("login", fake_server.url, "--server", "first", "--token", "pkgd_first")
    unconfigured("login", fake_server.url, "--server", "second", "--token", "pkgd_second")

    unconfigured("list")
    assert fake_server.requests[-1][2] == "Bearer pkgd_second"
    unconfigured("server", "use", "first")
    unconfigured("list")
    assert fake_server.requests[-1][2] == "Bearer pkgd_first"


def test_without_a_token_no_credentials_of_a_netrc_file_are_sent(
    unconfigured, fake_server, tmp_path
):
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password secret\n")
    unconfigured.environ |= {"HOME": str(tmp_path)}

    assert unconfigured("list", "--url", fake_server.url).exit_code == 0
    assert fake_server.requests[-1][2] is None


@pytest.mark.parametrize(
    "flags",
    [
        ["--url", "ftp://host"],
        ["--url", "host:8000"],
        ["--url", "http://"],
        ["--url", "http://host:port"],
        ["--url", "http://host:0"],
        ["--url", "http://user:secret@host"],
        ["--url", "http://host?query"],
        ["--url", "http://[host"],
        ["--url", "http://host", "--server", "far"],
    ],
)
def test_a_url_that_is_no_servers_is_wrong_usage(two_logins, flags):
    done = two_logins("list", *flags)

    assert (done.exit_code, done.stderr.count("\n")) == (ExitCode.USAGE, 1)


LOGIN = '{"url": "http://host", "token": "t"}'


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "null",
        "7",
        "[" * 100_000,
        "1" * 5_000,
        b"\xff\xfe",
        "{}",
        '{"servers": {}}',
        '{"default": null, "servers": []}',
        '{"default": null, "servers": {"a": {"u": 1}}}',
        '{"default": null, "servers": {"a": null}}',
        '{"default": null, "servers": {"a": ["http://host", "t"]}}',
        '{"default": null, "servers": {"a": {"url": "http://host", "token": null}}}',
        '{"default": null, "servers": {"a": {"url": "http://host", "token": 7}}}',
        '{"default": null, "servers": {"a": {"url": "http://host", "token": ""}}}',
        '{"default": null, "servers": {"a": {"url": 7, "token": "t"}}}',
        '{"default": null, "servers": {"a": {"url": "host", "token": "t"}}}',
        '{"default": null, "servers": {"a": {"url": "http://host", "token": "a b"}}}',
        '{"default": null, "servers": {"\\ud800": LOGIN}}',
        '{"default": "prod", "servers": {}}',
        '{"default": "prod", "servers": {"a": LOGIN}}',
        '{"default": ["a"], "servers": {"a": LOGIN}}',
        '{"default": 1, "servers": {"a": LOGIN}}',
    ],
)
@pytest.mark.parametrize("words", [["list"], ["server", "list"], ["list", "--server", "a"]])
def test_a_broken_servers_file_is_reported(unconfigured, content, words):
    unconfigured.servers_path.parent.mkdir()
    raw = content if isinstance(content, bytes) else content.replace("LOGIN", LOGIN).encode()
    unconfigured.servers_path.write_bytes(raw)

    done = unconfigured(*words)

    assert (done.exit_code, done.stderr.count("\n")) == (ExitCode.USAGE, 1)
    assert f"{unconfigured.servers_path} can't be read" in done.stderr


@pytest.mark.parametrize(
    "make",
    [
        os.mkfifo,
        os.mkdir,
        lambda path: path.symlink_to(path),
        lambda path: path.symlink_to("/dev/zero"),
    ],
)
def test_a_servers_file_that_is_no_file_is_reported(unconfigured, make):
    unconfigured.servers_path.parent.mkdir()
    make(unconfigured.servers_path)

    done = unconfigured("list")

    assert (done.exit_code, done.stderr.count("\n")) == (ExitCode.USAGE, 1)
    assert f"{unconfigured.servers_path} can't be read" in done.stderr


@pytest.mark.parametrize("is_there", [True, False])
def test_a_link_stays_one_and_the_file_it_leads_to_is_replaced(
    unconfigured, fake_server, tmp_path, is_there
):
    dotfiles = tmp_path / "dotfiles"
    dotfiles.mkdir()
    target = dotfiles / "pkgctl.json"
    if is_there:
        target.write_text(f'{{"default": null, "servers": {{"old": {LOGIN}}}}}')
    unconfigured.servers_path.parent.mkdir()
    unconfigured.servers_path.symlink_to("../dotfiles/pkgctl.json")

    assert unconfigured("login", fake_server.url, "--token", "x").exit_code == 0

    assert unconfigured.servers_path.readlink() == Path("../dotfiles/pkgctl.json")
    assert ("old" in target.read_text()) is is_there
    assert fake_server.url in target.read_text()
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert list(dotfiles.iterdir()) == [target]


def test_a_full_disk_leaves_the_servers_file_and_no_draft(unconfigured, fake_server):
    """A process whose files may only have so many bytes stands for a full disk."""
    login = {"url": "http://host", "token": "t" * 2**19}
    unconfigured.servers_path.parent.mkdir()
    unconfigured.servers_path.write_text(json.dumps({"default": "a", "servers": {"a": login}}))
    before = unconfigured.servers_path.read_bytes()

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**18, 2**18))

    words = ["login", fake_server.url, "--token", "second"]
    exit_code, _, errors = finish(unconfigured.start(*words, preexec_fn=limit))

    assert (exit_code, errors.count("\n")) == (ExitCode.USAGE, 1)
    assert "can't be written: File too large" in errors
    assert unconfigured.servers_path.read_bytes() == before
    assert list(unconfigured.servers_path.parent.iterdir()) == [unconfigured.servers_path]


@pytest.mark.parametrize("words", [["list"], ["login", "URL", "--token", "x"], ["server", "list"]])
@pytest.mark.parametrize("home", ["", "relative"])
def test_without_a_home_a_login_is_refused(
    unconfigured, fake_server, tmp_path, monkeypatch, words, home
):
    monkeypatch.chdir(tmp_path)
    unconfigured.environ |= {"XDG_CONFIG_HOME": None, "HOME": home}

    done = unconfigured(*(fake_server.url if word == "URL" else word for word in words))

    assert (done.exit_code, done.stderr.count("\n")) == (ExitCode.USAGE, 1)
    assert "there is no home folder for servers.json" in done.stderr
    assert list(tmp_path.iterdir()) == []
    assert fake_server.requests == []  # above all, no token is minted that could not be kept


def test_a_user_without_a_home_is_refused(unconfigured, tmp_path, monkeypatch):
    def unknown(_):
        raise KeyError

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    unconfigured.environ |= {"XDG_CONFIG_HOME": None, "HOME": None}

    done = unconfigured("list")

    assert (done.exit_code, done.stderr.count("\n")) == (ExitCode.USAGE, 1)
    assert "there is no home folder for servers.json" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_without_a_home_a_url_and_a_token_are_enough(unconfigured, fake_server):
    unconfigured.environ |= {"XDG_CONFIG_HOME": None, "HOME": ""}

    assert unconfigured("list", "--url", fake_server.url, "--token", "x").exit_code == 0


def test_white_space_around_a_url_or_a_token_is_no_part_of_it(unconfigured, fake_server):
    unconfigured.environ |= {"PKGCTL_URL": f"{fake_server.url}/\n", "PKGCTL_TOKEN": "x\r\n"}

    assert unconfigured("list").exit_code == 0
    assert fake_server.requests[-1][2] == "Bearer x"


def test_an_input_that_is_no_text_is_no_token(unconfigured, fake_server):
    with unconfigured.start("login", fake_server.url) as process:
        _, errors = process.communicate(b"\xff\xfe\n")

    assert process.returncode == ExitCode.NOT_ALLOWED
    assert errors == b"Error: the token contains characters that no token can have\n"


def test_an_input_that_can_not_be_read_is_wrong_usage(unconfigured, fake_server, tmp_path):
    with open(tmp_path / "output", "w") as file:
        exit_code, _, errors = finish(unconfigured.start("login", fake_server.url, stdin=file))

    assert (exit_code, errors.count("\n")) == (ExitCode.USAGE, 1)
    assert errors.startswith("Error: the standard input can't be read: ")


def test_a_servers_file_that_can_not_be_written_is_reported(unconfigured, fake_server):
    unconfigured.environ["XDG_CONFIG_HOME"] = "/proc"

    done = unconfigured("login", fake_server.url, "--token", "x")

    assert (done.exit_code, done.stderr.count("\n")) == (ExitCode.USAGE, 1)
    assert "/proc/pkgctl/servers.json can't be written" in done.stderr


def test_a_relative_config_folder_is_ignored(unconfigured, fake_server, tmp_path):
    unconfigured.environ |= {"XDG_CONFIG_HOME": "relative", "HOME": str(tmp_path)}

    assert unconfigured("login", fake_server.url, "--token", "x").exit_code == 0
    assert (tmp_path / ".config" / "pkgctl" / "servers.json").exists()


# --- tokens ---


def test_a_minted_token_is_printed_alone_on_its_line(ctl):
    done = ctl("token", "create", "--name", "robot", "--scope", "read", "--expires-in", "1h")

    ctl.environ["PKGCTL_TOKEN"] = done.stdout.strip()
    assert (done.output.count("\n"), ctl("list").exit_code) == (1, 0)
    refused = ctl("create", "hello@1.0.0")
    assert refused.exit_code == ExitCode.NOT_ALLOWED
    assert refused.stderr == "Error: this needs scope operate; the token's is read\n"


def test_on_a_terminal_a_minted_token_comes_with_its_expiry(ctl):
    terminal = ctl.terminal("token", "create", "--expires-in", "30d")

    assert terminal.close() == 0
    assert re.match(r"pkgd_\S+\r\nToken \d+, admin, until \S+; it isn't shown", terminal.shown)


@pytest.mark.parametrize("duration", ["soon", "", "1w", "-1", "1e3", "٣"])
def test_a_malformed_duration_is_wrong_usage(ctl, duration):
    assert ctl("token", "create", "--expires-in", duration).exit_code == ExitCode.USAGE


def test_tokens_are_listed_without_their_secrets(ctl, service):
    ctl("token", "create", "--name", "robot", "--scope", "read")

    done = ctl("token", "list")

    assert ["robot", "read"] in [line.split("\t")[1:3] for line in done.stdout.splitlines()]
    assert service.secret not in done.output


def test_a_revoked_token_is_not_accepted(ctl):
    minted = ctl.json("token", "create")

    assert ctl("token", "revoke", minted["id"]).stdout == f"Success: Revoked token {minted['id']}\n"
    assert ctl("token", "revoke", minted["id"]).exit_code == ExitCode.NOT_FOUND
    assert ctl("list", "--token", minted["token"]).exit_code == ExitCode.NOT_ALLOWED


def test_all_other_tokens_are_revoked_at_once(ctl):
    ctl("token", "create")

    assert ctl("token", "revoke-others").exit_code == 0
    assert [row[-1] for row in ctl.rows("token", "list")] == ["yes"]


# --- status ---


def test_status_shows_checks_and_the_length_of_the_queue(ctl):
    # The service's own work, such as the index of its catalogs, counts, too, until it is done.
    until(lambda: ctl.json("status")["tasks"] == {"queued": 0, "running": 0})

    shown = dict(ctl.rows("status"))

    assert (shown["database"], shown["queued"], shown["running"]) == ("ok", "0", "0")


def test_status_counts_a_task_that_runs(ctl, gated):
    until(lambda: ctl.json("status")["tasks"] == {"queued": 0, "running": 0})
    installation = ctl.start("install", gated.spec)
    until(gated.has_begun)

    shown = dict(ctl.rows("status"))

    assert (shown["queued"], shown["running"]) == ("0", "1")
    gated.open()
    assert finish(installation)[0] == 0


def test_the_status_of_a_server_that_is_not_ready_names_the_failed_check(unconfigured):
    with FakeServer(lambda *_: problem(503, "database: it does not answer")) as server:
        done = unconfigured("status", "--url", server.url)

    assert (done.exit_code, done.stdout) == (ExitCode.UNREACHABLE, "")
    assert done.stderr == "Error: database: it does not answer\n"


def test_a_last_admins_token_is_revoked_in_a_pipe_only_with_force(unconfigured):
    def answer(method, path):
        return FakeAnswer({}) if "force=true" in path else problem(409, "the last one")

    with FakeServer(answer) as server:
        refused = unconfigured("token", "revoke", 1, "--url", server.url, input="y\n")
        done = unconfigured("token", "revoke", 1, "--force", "--url", server.url)

    assert (refused.exit_code, refused.stdout) == (ExitCode.REFUSED, "")
    assert refused.stderr == "Error: the last one (--force revokes it all the same)\n"
    assert (done.exit_code, done.stdout) == (0, "Success: Revoked token 1\n")


@pytest.mark.parametrize(("typed", "exit_code"), [("y", 0), ("n", ExitCode.REFUSED)])
def test_on_a_terminal_revoking_a_last_admins_token_asks(unconfigured, typed, exit_code):
    def answer(method, path):
        return FakeAnswer({}) if "force=true" in path else problem(409, "the last one")

    with FakeServer(answer) as server:
        terminal = unconfigured.terminal("token", "revoke", 1, "--url", server.url)
        terminal.until("the last one. Revoke it all the same? [y/N]: ")
        terminal.type(typed)

        assert terminal.close() == exit_code
    assert ("Success: Revoked token 1" in terminal.shown) == (typed == "y")


def test_whoever_revokes_the_own_token_is_told(ctl):
    minted = ctl.json("token", "create")

    done = ctl("token", "revoke", minted["id"], "--token", minted["token"])

    own = (
        f"Success: Revoked token {minted['id']}, which was this one (pkgctl login keeps another)\n"
    )
    assert (done.exit_code, done.stdout) == (0, own)


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["token", "revoke", "robot"], "'robot' is no number; pkgctl token list lists them"),
        (["switch", "9" * 5000], "is no number; pkgctl generations lists them"),
    ],
    ids=["token", "generation"],
)
def test_what_is_no_number_is_refused_with_what_lists_them(unconfigured, words, hint):
    done = unconfigured(*words)

    assert (done.exit_code, done.stdout) == (ExitCode.USAGE, "")
    assert hint in done.stderr


def test_another_refusal_to_revoke_asks_nothing(unconfigured):
    with FakeServer(lambda *_: problem(404, "there is no live token 7")) as server:
        terminal = unconfigured.terminal("token", "revoke", 7, "--url", server.url)

        assert terminal.close() == ExitCode.NOT_FOUND
    assert terminal.shown == "Error: there is no live token 7\r\n"


def test_a_revocation_is_forced_with_yes_too(ctl):
    minted = ctl.json("token", "create")

    assert ctl("token", "revoke", minted["id"], "--yes").exit_code == 0


EXPIRING = {"X-Token-Expires": "2026-12-01T00:00:00.000Z\x9b31m"}


@pytest.mark.parametrize("status", [200, 403])
def test_that_the_token_expires_soon_is_said_once_on_the_standard_error(unconfigured, status):
    def answer(method, path):
        more = {"Link": '</api/v1/tokens?after=1>; rel="next"'} if "after" not in path else {}
        return FakeAnswer([], status, EXPIRING | more)

    with FakeServer(answer) as server:
        done = unconfigured("token", "list", "--token", "t", "--json", "--url", server.url)

    assert done.stderr.count("Warning: the token expires at 2026-12-01T00:00:00.000Z?31m") == 1
    assert (done.exit_code == 0) == (status == 200)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_warning_that_can_not_be_written_changes_no_exit_code(unconfigured, unbuffered):
    unconfigured.environ["PYTHONUNBUFFERED"] = unbuffered
    with (
        FakeServer(lambda *_: FakeAnswer([], headers=EXPIRING)) as server,
        open("/dev/full", "w") as disk,
    ):
        process = unconfigured.start("token", "list", "--url", server.url, stderr=disk)

        assert finish(process)[0] == 0
