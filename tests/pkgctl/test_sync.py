"""The command sync, with a real Nix, a signed cache, and a server that offers store paths."""

import contextlib
import fcntl
import json
import os
import shutil
import signal
import sqlite3
import sys
import threading
from types import SimpleNamespace

import figures
import pytest
from click.shell_completion import ShellComplete
from daemon import Daemon
from harness import CommandRunner, FakeAnswer, FakeServer, finish, problem
from offering import TOKEN, MachineStore, OfferingServer, SignedCache, basic, tool
from support import remove_store, until

from pkgctl import follower, nix_client, sync
from pkgctl.cli import cli
from pkgctl.errors import ExitCode
from pkgctl.nix_client import is_store_path
from pkgctl.sync_state import StateFolder, SyncState

KILL = f"{sys.executable} -c 'import os; os.kill(os.getppid(), 9)'"


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache that all tests of this module share, with two profiles."""
    folder = tmp_path_factory.mktemp("cache").resolve()
    cache = SignedCache(folder)
    cache.one, cache.two = cache.add("one"), cache.add("two")
    yield cache
    remove_store(folder)


@pytest.fixture
def server(cache):
    """A server that offers the first profile."""
    with OfferingServer(cache) as server:
        server.offer(cache.one)
        yield server


@pytest.fixture
def path(tmp_path):
    """Where the profile of the machine is to be."""
    return tmp_path / "web"


@pytest.fixture
def ctl(server, cache, tmp_path):
    """The command on a machine that has no store path yet."""
    runner = CommandRunner(tmp_path, server.url, TOKEN)
    runner.environ |= MachineStore(cache, tmp_path / "nix").environ
    return runner


@pytest.fixture
def follow(ctl, path):
    """Return a function that runs `pkgctl sync web` with more words."""
    return lambda *words: ctl("sync", "web", "--to", path, "--name", "m1", *words)


@pytest.fixture
def generations(path):
    """Return a function that returns the store paths of the generations by their numbers."""

    def generations():
        links = path.parent.glob("web-*-link")
        return {int(link.name.split("-")[1]): os.readlink(link) for link in links}

    return generations


# --- what a round does ---


def test_a_machine_gets_what_is_offered(follow, server, cache, path):
    done = follow()

    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout == f"Success: {path} is now generation 1 of web, {cache.one}\n"
    assert tool(path) == "one"
    report = {"generation": 1, "store_path": cache.one, "state": "current", "error": None}
    assert server.reports == [("m1", {"profile": "web", **report})]


def test_a_round_without_a_change_is_a_conditional_request_and_a_report(follow, server, path):
    follow()

    assert follow().stdout == f"{path} is generation 1 of web, as offered\n"
    assert server.statuses == [200, 304]
    assert server.said == ("current", 1, None)
    assert len(server.reports) == 2


def test_a_machine_follows_a_change_and_the_way_back(follow, server, cache, path, generations):
    follow()
    server.offer(cache.two, 2)
    assert follow().exit_code == 0
    assert tool(path) == "two"
    server.offer(cache.one, 1)
    assert follow().exit_code == 0

    assert tool(path) == "one"
    assert server.said == ("current", 1, None)
    assert generations() == {1: cache.one, 2: cache.two, 3: cache.one}


def test_the_state_is_a_document(ctl, server, cache, path):
    shown = ctl.json("sync", "web", "--to", path, "--name", "m1")

    offered = {"store_path": cache.one, "generation": 1}
    of = {"profile": "web", "machine": "m1", "path": str(path), "changed": True}
    held = {"state": "current", "error": None, "offered": offered}
    assert shown == {**of, **held, **offered}


def test_where_nothing_is_offered_nothing_is_changed(follow, server, path):
    server.offered = None

    assert follow().stdout == f"web offers nothing yet; {path} stays as it is\n"
    assert server.said == ("current", None, None)
    assert not path.exists()


def test_nix_sends_the_token_to_the_server_alone_and_it_stays_nowhere(follow, server, path):
    follow()

    assert set(server.cache_logins) == {basic(TOKEN)}
    files = [one for one in path.parent.glob("web.sync/**/*") if one.is_file()]
    assert files
    assert not any(TOKEN.encode() in one.read_bytes() for one in files)


@pytest.mark.parametrize(
    ("login", "sent"), [("token-5", "token-5"), ("token-5\npassword x", "pkgd")]
)
def test_nix_sends_the_login_that_the_server_tells(follow, server, login, sent):
    server.netrc = f"machine localhost login {login} password TOKEN\n"
    assert follow().exit_code == 0
    assert set(server.cache_logins) == {basic(TOKEN, sent)}


def test_another_host_does_not_get_the_token(follow, server, path):
    server.cache_url = server.cache_url.replace("127.0.0.1", "localhost")

    assert follow().exit_code == 0
    assert set(server.cache_logins) == {None}


def test_the_daemon_of_nix_fetches_with_the_token(follow, ctl, server, cache, tmp_path, path):
    (tmp_path / "daemon").mkdir()
    daemon = Daemon(tmp_path / "daemon", cache.store.directory)
    daemon.start()
    own = daemon.store.environ
    ctl.environ |= {name: own[name] for name in own if name.startswith("NIX_")}
    try:
        done = follow()
    finally:
        daemon.close()

    assert (done.exit_code, done.stderr) == (0, "")
    assert set(server.cache_logins) == {basic(TOKEN)}
    assert tool(path) == "one"


def test_the_machine_is_called_as_its_host_and_its_profile_is_among_those_of_nix(
    ctl, server, monkeypatch
):
    monkeypatch.setattr("socket.gethostname", lambda: "host-7")
    ctl.environ["NIX_STATE_DIR"] = state = ctl.environ["NIX_STATE_DIR"]

    assert ctl("sync", "web").exit_code == 0
    assert server.reports[0][0] == "host-7"
    assert os.path.exists(f"{state}/profiles/pkgd-web/bin/tool")


# --- the check ---


def test_the_check_gets_the_path_of_the_generation(follow, server, path, tmp_path):
    done = follow("--check", f"sh -c 'echo $0 $(readlink $1) >{tmp_path}/said' 'two words'")

    assert done.exit_code == 0
    assert (tmp_path / "said").read_text() == f"two words {os.readlink(f'{path}-1-link')}\n"


def test_what_fails_at_first_leaves_no_profile(follow, server, generations, path):
    done = follow("--check", "sh -c 'echo no library; exit 3'")

    assert done.exit_code == ExitCode.FAILED
    error = "the check failed: exit code 3: no library"
    again = "tried again when another one is offered, or with --retry"
    assert done.stderr == f"Error: {error} (nothing is active; {again})\n"
    assert not os.path.lexists(path)
    assert generations() == {}
    assert server.said == ("failed", None, error)


def test_what_fails_later_leaves_what_was_there(follow, server, cache, path, generations):
    follow()
    server.offer(cache.two, 2)

    done = follow("--check", "false")

    assert (done.exit_code, "back to what it was" in done.stderr) == (ExitCode.FAILED, True)
    assert tool(path) == "one"
    assert generations() == {1: cache.one}
    assert server.said == ("failed", 1, "the check failed: exit code 1")


def test_what_failed_is_not_tried_again_and_told_once(follow, server, path, tmp_path):
    check = ("--check", f"sh -c 'echo tried >>{tmp_path}/tries; exit 1'")
    assert follow(*check).exit_code == ExitCode.FAILED

    again = follow(*check)

    assert (again.exit_code, again.stderr) == (0, "")
    assert again.stdout.startswith(f"{path} stays as it is until web offers something else: the ch")
    assert (tmp_path / "tries").read_text() == "tried\n"
    assert server.said == ("failed", None, "the check failed: exit code 1")


def test_another_offer_is_tried_after_a_failure(follow, server, cache, path):
    assert follow("--check", "false").exit_code == ExitCode.FAILED
    server.offer(cache.two, 2)

    assert follow("--check", "true").exit_code == 0
    assert tool(path) == "two"
    server.offer(cache.one, 1)
    assert follow("--check", "true").exit_code == 0
    assert tool(path) == "one"


def test_what_failed_is_tried_again_when_told_to(follow, server, path):
    assert follow("--check", "false").exit_code == ExitCode.FAILED

    assert follow("--check", "true", "--retry").exit_code == 0
    assert tool(path) == "one"
    assert server.said == ("current", 1, None)


@pytest.mark.parametrize(
    ("check", "why"),
    [
        ("sh -c 'sleep 60'", "it took longer than 0.2 s"),
        ("sh -c 'trap \"\" TERM; sleep 60 & sleep 60'", "it took longer than 0.2 s"),
        ("sh -c 'exec >&- 2>&-; sleep 60'", "it took longer than 0.2 s"),
        ("/no/such/check", "/no/such/check can't be run: No such file or directory"),
    ],
)
def test_a_check_that_does_not_end_or_begin_has_failed(follow, monkeypatch, check, why):
    monkeypatch.setattr("pkgctl.children.GRACE_SECONDS", 0.1)

    done = follow("--check", check, "--check-timeout", "0.2s")

    assert done.exit_code == ExitCode.FAILED
    assert f"the check failed: {why}" in done.stderr


def test_what_a_check_leaves_running_is_not_waited_for(follow, tmp_path):
    check = f"sh -c 'sleep 60 & echo $! >{tmp_path}/pid'"

    assert follow("--check", check).exit_code == 0
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


def test_a_check_does_not_get_the_token(follow):
    assert follow("--check", "sh -c 'test -z \"$PKGCTL_TOKEN\"'").exit_code == 0


def test_a_check_has_to_be_a_command(follow):
    done = follow("--check", "'")

    assert done.exit_code == ExitCode.USAGE
    assert "is no command: No closing quotation" in done.stderr


# --- killed in between ---


@pytest.fixture
def killed(ctl, path):
    """Return a function that has a sync killed by its own check."""

    def killed():
        words = ("sync", "web", "--to", path, "--name", "m1", "--check", KILL)
        assert ctl.run(*words)[0] == -signal.SIGKILL

    return killed


def test_a_check_that_was_cut_short_is_repeated(follow, killed, server, cache, path):
    follow()
    server.offer(cache.two, 2)
    killed()
    assert tool(path) == "two"

    done = follow("--check", "false")

    assert done.exit_code == ExitCode.FAILED
    assert (tool(path), server.said[0]) == ("one", "failed")
    assert follow("--check", "true").stdout.startswith(f"{path} stays as it is")


def test_a_check_that_was_cut_short_may_pass(follow, killed, server, path):
    killed()

    assert follow("--check", "true").stdout == f"{path} is generation 1 of web, as offered\n"
    assert server.said == ("current", 1, None)


def test_a_check_that_is_always_cut_short_has_failed(follow, killed, server, cache, path):
    follow()
    server.offer(cache.two, 2)
    killed()
    killed()
    file, state = remembered(path)
    assert state["trying"]["cut_short"] == 1
    state["trying"]["cut_short"] = follower.CUT_SHORT
    file.write_text(json.dumps(state))

    done = follow("--check", "true")

    assert (done.exit_code, tool(path)) == (ExitCode.FAILED, "one")
    assert server.said == ("failed", 1, "the check failed: it was cut short 4 times")


KILLED = """#!/bin/sh
case "$*" in
  *{step}*) [ {moment} = before ] || {real} "$@"; kill -9 $PPID ;;
  *) exec {real} "$@" ;;
esac
"""


@pytest.mark.parametrize(
    ("step", "moment", "check"),
    [
        ("--realise", "after", "true"),
        ("--set", "before", "true"),
        ("--set", "after", "true"),
        ("--switch-generation", "before", "false"),
        ("--switch-generation", "after", "false"),
    ],
)
def test_a_kill_at_any_step_leaves_the_old_generation_or_the_new_one(
    follow, ctl, server, cache, tmp_path, path, generations, step, moment, check
):
    follow()
    server.offer(cache.two, 2)
    (tmp_path / "bin").mkdir()
    for name in ("nix-env", "nix-store"):
        program = tmp_path / "bin" / name
        program.write_text(KILLED.format(step=step, moment=moment, real=shutil.which(name)))
        program.chmod(0o755)
    words = ("sync", "web", "--to", path, "--name", "m1", "--check", check)
    ctl.environ["PATH"] = f"{tmp_path}/bin:{os.environ['PATH']}"
    assert ctl.run(*words)[0] == -signal.SIGKILL
    assert tool(path) in ("one", "two")
    del ctl.environ["PATH"]

    # Nix's program holds the lock until it has ended, too.
    until(lambda: "Another sync" not in follow("--check", check).stdout)

    kept = {1: cache.one, 2: cache.two} if check == "true" else {1: cache.one}
    assert (tool(path), generations()) == (("two" if check == "true" else "one"), kept)


def remembered(path):
    """Return the file of what is remembered, and what it holds."""
    file = path.with_name("web.sync") / "state.json"
    return file, json.loads(file.read_text())


def test_a_way_back_that_was_cut_short_is_finished(follow, server, cache, path, generations):
    follow()
    server.offer(cache.two, 2)
    follow()
    file, state = remembered(path)
    offer = {"store_path": cache.two, "generation": 2}
    refused = {"store_path": cache.two, "error": "no"}
    state |= {"trying": {"offer": offer, "before": 1}, "refused": refused}
    file.write_text(json.dumps(state))

    assert follow("--check", "true").exit_code == 0
    assert (tool(path), generations()) == ("one", {1: cache.one})
    assert server.said == ("failed", 1, "no")


@pytest.mark.parametrize("active", [True, False])
def test_a_trial_of_what_is_not_active_is_forgotten(follow, cache, path, active):
    follow()
    file, state = remembered(path)
    other = cache.two if active else cache.one
    state["trying"] = {"offer": {"store_path": other, "generation": 2}, "before": None}
    state["refused"] = {"store_path": other, "error": "no"}
    file.write_text(json.dumps(state))
    if not active:
        path.unlink()

    follow("--status")
    assert follow().exit_code == 0
    assert remembered(path)[1]["trying"] is None


def test_a_profile_that_its_check_removes_is_gone(follow, server, path):
    assert follow("--check", f"sh -c 'rm {path}; exit 1'").exit_code == ExitCode.FAILED
    assert not os.path.lexists(path)
    assert server.said[0] == "failed"


def test_a_way_back_to_what_was_deleted_leaves_nothing_active(follow, server, cache, path):
    follow()
    server.offer(cache.two, 2)
    check = f"sh -c 'rm {path}-1-link; exit 1'"

    assert follow("--check", check).exit_code == ExitCode.FAILED
    assert not os.path.lexists(path)


# --- trust ---


def test_what_another_key_has_signed_is_refused(follow, server, cache, path):
    done = follow("--public-key", cache.keys["wrong"])

    assert done.exit_code == ExitCode.UNTRUSTED
    assert "the key of the cache is not the one that is trusted: it is now right-1:" in done.stderr
    server.public_key = None
    done = follow("--public-key", cache.keys["wrong"])
    assert done.exit_code == ExitCode.UNTRUSTED
    assert "is not signed by any of the keys" in done.stderr
    assert not path.exists()
    assert server.said[0] == "failed"


@pytest.mark.parametrize("more", ["?trusted=true", "?%74rusted=1", "#?trusted=true"])
def test_a_server_can_not_turn_the_check_of_signatures_off(follow, server, cache, path, more):
    server.public_key, server.cache_url = None, server.cache_url + more

    done = follow("--public-key", cache.keys["wrong"])

    assert done.exit_code == ExitCode.UNTRUSTED, done.output
    assert "is not signed by any of the keys" in done.stderr
    assert not path.exists()


def test_of_a_bucket_only_where_it_is_is_passed_on():
    url = nix_client.cache_url("s3://b?region=eu&trusted=1&endpoint=h:9&local-nar-cache=/etc#x")

    assert url.geturl() == "s3://b?region=eu&endpoint=h%3A9"


def test_a_key_that_changes_is_refused_until_it_is_given(follow, server, cache, path):
    follow()
    server.offer(cache.two, 2)
    server.public_key = cache.keys["wrong"]
    done = follow()
    assert done.exit_code == ExitCode.UNTRUSTED
    assert "if that is meant: pkgctl sync web --public-key KEY" in done.stderr
    assert tool(path) == "one"

    keys = [word for key in cache.keys.values() for word in ("--public-key", key)]

    assert follow(*keys).exit_code == 0
    assert tool(path) == "two"


def test_a_cache_without_a_key_is_refused(follow, server):
    server.public_key = None

    done = follow()

    assert done.exit_code == ExitCode.UNTRUSTED
    assert done.stderr.endswith(
        "doesn't tell the public key of its cache (--public-key gives it)\n"
    )


@pytest.mark.parametrize("damage", [b"X", None])
def test_damaged_contents_are_refused_until_they_are_repaired(
    follow, server, cache, tmp_path, path, damage
):
    server.cache_folder = tmp_path / "copy"
    shutil.copytree(cache.folder, server.cache_folder)
    whole = {nar: nar.read_bytes() for nar in (server.cache_folder / "nar").iterdir()}
    for nar, data in whole.items():
        nar.write_bytes(data[:40] + damage + data[41:] if damage else data[:-20])

    done = follow()

    assert done.exit_code == ExitCode.UNTRUSTED, done.stderr
    assert server.said[0] == "failed"
    assert not path.exists()
    for nar, data in whole.items():
        nar.write_bytes(data)
    assert follow().exit_code == 0
    assert server.said == ("current", 1, None)


@pytest.mark.parametrize("store_path", ["--help", "/etc/passwd", "DRV", 7, None])
def test_only_a_store_path_is_taken(follow, server, cache, path, store_path):
    server.offer(f"{cache.one}.drv" if store_path == "DRV" else store_path)

    done = follow()

    assert (done.exit_code, "which is no store path" in done.stderr) == (ExitCode.REFUSED, True)
    assert not path.exists()


@pytest.mark.parametrize("offered", [[], "x", 5, {}, {"generation": "x"}, {"generation": 1.5}])
def test_an_offer_of_another_form_is_told(follow, server, cache, offered):
    known = isinstance(offered, dict) and offered
    server.offered = {"store_path": cache.one, **offered} if known else offered

    done = follow()

    assert (done.exit_code, done.stderr[:18]) == (ExitCode.REFUSED, "Error: the server ")


def test_an_answer_that_is_no_object_is_told(follow, server):
    answer = server.answer
    server.answer = lambda handler, _, *more, **headers: answer(handler, 5, *more, **headers)

    done = follow()

    assert (done.exit_code, done.stderr) == (
        ExitCode.REFUSED,
        "Error: the server answers 5, and no object\n",
    )


def test_an_answer_that_takes_for_ever_ends_the_round(follow, server, monkeypatch):
    monkeypatch.setattr(sync, "ANSWER_SECONDS", 0.3)
    ended = threading.Event()
    server.answer = lambda handler, *_, **__: trickle(handler, ended)

    done = follow()
    ended.set()

    assert done.exit_code == ExitCode.UNREACHABLE
    assert "did not send all of its answer in 0.3 s" in done.stderr


def trickle(handler, ended):
    """Answer by one header after the other."""
    with contextlib.suppress(OSError):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
        while not ended.wait(0.05):
            handler.wfile.write(b"A")


@pytest.mark.parametrize("key", [5, ["a:AAAA"], "\ud800", "x y z", "a\x1b:AA\x1b"])
def test_a_key_of_another_form_is_refused_and_not_learnt(follow, server, path, key):
    server.public_key = key

    done = follow()

    assert (done.exit_code, "which is none" in done.stderr) == (ExitCode.UNTRUSTED, True)
    assert not path.with_name("web.sync").joinpath("public_keys").exists()


URLS = ("http://a http://b", "", None, 5, "http://[::", "http://x:99999/", "file:///", "daemon")


@pytest.mark.parametrize("url", [*URLS, "ssh://host", "http://a\x1b", "/srv/cache", "http://"])
def test_a_cache_has_one_url(follow, server, url):
    server.cache_url = url

    done = follow()

    assert (done.exit_code, "as its cache" in done.stderr) == (ExitCode.REFUSED, True)


def test_a_key_has_a_name_and_a_text(follow):
    assert follow("--public-key", "nonsense").exit_code == ExitCode.USAGE


# --- what is away or refuses ---


def test_without_the_server_the_machine_keeps_what_it_has(follow, ctl, server, path):
    follow()
    ctl.environ["PKGCTL_URL"] = "http://127.0.0.1:1"

    done = follow()

    assert done.exit_code == ExitCode.UNREACHABLE
    assert done.stderr.count("\n") == 1
    assert tool(path) == "one"


def test_what_the_cache_does_not_have_is_looked_for_again(follow, server, cache, tmp_path, path):
    server.cache_folder = tmp_path
    (tmp_path / "nix-cache-info").write_text(f"StoreDir: {cache.store.directory}\n")
    assert follow().exit_code == ExitCode.UNREACHABLE

    server.cache_folder = cache.folder

    assert follow().exit_code == 0
    assert tool(path) == "one"


def test_a_clock_that_is_set_back_hides_nothing_of_the_cache(follow, server, cache, tmp_path, path):
    server.cache_folder = tmp_path
    (tmp_path / "nix-cache-info").write_text(f"StoreDir: {cache.store.directory}\n")
    assert follow().exit_code == ExitCode.UNREACHABLE
    (remembered,) = tmp_path.rglob("binary-cache-*.sqlite")
    with contextlib.closing(sqlite3.connect(remembered)) as database, database:
        missed = database.execute("UPDATE NARs SET timestamp = timestamp + 600 WHERE NOT present")
        assert missed.rowcount

    server.cache_folder = cache.folder

    assert follow().exit_code == 0
    assert tool(path) == "one"
    figures.keep(
        "a machine's clock set back by 10 minutes after its cache had lacked a path",
        "sqlite",
        "once",
        "the path was fetched in the next round",
    )


def test_a_refusal_changes_nothing(follow, server, path):
    follow()

    for server.refuse, exit_code in {401: 7, 403: 7, 404: 6, 503: 8}.items():
        assert follow().exit_code == exit_code
    assert tool(path) == "one"


def test_a_report_that_is_refused_is_told_after_the_change(follow, server, path):
    server.report_status = 403

    assert follow().exit_code == ExitCode.NOT_ALLOWED
    assert tool(path) == "one"


def test_a_server_without_a_cache_is_told_as_such(unconfigured, path):
    profile = {"name": "web", "generation": 3, "published": None, "offered": None}
    with FakeServer(lambda *_: FakeAnswer(profile)) as server:
        done = unconfigured("sync", "web", "--to", path, "--url", server.url, "--name", "m1")

    assert done.exit_code == ExitCode.UNREACHABLE
    assert "the server has no binary cache, so that it offers nothing" in done.stderr


@pytest.mark.parametrize("answer", [FakeAnswer({"name": "web"}), problem(422, "machine: unknown")])
def test_an_older_server_can_not_be_followed(unconfigured, path, answer):
    with FakeServer(lambda *_: answer) as server:
        done = unconfigured("sync", "web", "--to", path, "--url", server.url, "--name", "m1")

    assert done.exit_code == ExitCode.REFUSED
    assert "is of an older release" in done.stderr


# As Nix 2.26 says it; that of the tests may be another.
UNSIGNED = (
    "warning: ignoring substitute for '/nix/store/x-libarchive' from 'http://c', "
    "as it's not signed by any of the keys in 'trusted-public-keys'"
)
AWAY = "warning: error: unable to download 'http://c/x': Couldn't connect (7); retrying in 2 ms"


@pytest.mark.parametrize(
    ("script", "exit_code", "said"),
    [
        (
            f'echo "{AWAY}"; exit 1',
            8,
            "Error: unable to download 'http://c/x': Couldn't connect (7)",
        ),
        ("echo 'error: x: HTTP error 401'; exit 1", 7, "x: HTTP error 401"),
        (f'echo "{UNSIGNED}"; exit 1', 9, "it's not signed by any of the keys in 'trusted"),
        (
            "echo 'ignoring it: you are not a trusted user' >&2; exit 1",
            10,
            "this user may not tell",
        ),
        ("echo 'error: disk full' >&2; exit 1", 10, "Nix failed: disk full"),
        ("echo \"error: no '/x-libarchive' on disk\" >&2; exit 1", 10, "Nix failed: no '/x-lib"),
        (
            "echo \"error: path '$2' is not in the Nix store\" >&2; exit 1",
            10,
            "and that of this machine's Nix elsewhere (both have to be at the same place",
        ),
        ("echo 'odd' >&2; exit 1", 10, "Nix failed: odd"),
        ("exit 4", 10, "Nix failed: it ended with exit code 4"),
        ("exec sleep 60", 10, "Nix took too long"),
    ],
)
def test_a_nix_that_fails_is_told(
    follow, ctl, server, tmp_path, monkeypatch, script, exit_code, said
):
    monkeypatch.setattr(nix_client, "FETCH_SECONDS", 0.2)
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "nix-store"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    ctl.environ["PATH"] = f"{tmp_path}/bin:{os.environ['PATH']}"

    done = follow()

    assert (done.exit_code, said in done.stderr) == (exit_code, True), done.stderr
    assert server.said[0] == "failed"


def test_a_nix_that_is_not_there_is_told(follow, ctl):
    ctl.environ["PATH"] = ""

    done = follow()

    assert done.exit_code == ExitCode.MACHINE_FAILED
    assert "nix-store can't be run: No such file or directory (a sync needs Nix" in done.stderr


def test_a_profile_that_can_not_be_set_is_told_and_set_later(follow, ctl, server, tmp_path, path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "nix-env").symlink_to("/bin/false")
    ctl.environ["PATH"] = f"{tmp_path}/bin:{os.environ['PATH']}"

    done = follow()

    assert done.exit_code == ExitCode.MACHINE_FAILED
    assert server.said == ("failed", None, "Nix failed: it ended with exit code 1")
    (tmp_path / "bin" / "nix-env").unlink()
    assert follow().exit_code == 0
    assert tool(path) == "one"


def test_a_generation_that_is_gone_is_made_again(follow, path):
    follow()
    os.unlink(f"{path}-1-link")

    assert follow().exit_code == 0
    assert tool(path) == "one"


# --- on the machine ---


def test_a_rollback_needs_no_server_and_stays(follow, ctl, server, cache, path):
    follow()
    server.offer(cache.two, 2)
    follow()

    done = follow("--rollback", "--url", "http://127.0.0.1:1")

    assert done.exit_code == 0
    assert f"Success: {path} is back at {cache.one}, until another generation is" in done.stdout
    assert follow().exit_code == 0
    assert (tool(path), server.said) == ("one", ("failed", 1, "rolled back on the machine"))
    assert follow("--retry").exit_code == 0
    assert tool(path) == "two"


def test_a_rollback_of_what_was_never_offered_again_is_one(follow, server, cache, path):
    follow()
    server.offer(cache.two, 2)
    follow()
    remembered(path)[0].unlink()

    assert follow("--rollback").exit_code == 0
    assert tool(path) == "one"


def test_a_rollback_needs_an_earlier_generation(follow, path):
    follow()

    done = follow("--rollback")

    assert done.exit_code == ExitCode.NOT_FOUND
    assert f"{path} has no earlier generation" in done.stderr
    assert tool(path) == "one"


def test_the_status_needs_no_server(follow, ctl, server, cache, path):
    def status():
        return {name: ctl.json("sync", "web", "--to", path, "--status")[name] for name in names}

    names = ("state", "generation", "store_path", "error")
    assert status() == dict(zip(names, ("waiting", None, None, None), strict=True))
    follow()
    server.refuse = 500
    assert status() == dict(zip(names, ("current", 1, cache.one, None), strict=True))
    server.refuse = None
    server.offer(cache.two, 2)
    follow("--check", "false")
    error = "the check failed: exit code 1"
    assert status() == dict(zip(names, ("failed", 1, cache.one, error), strict=True))
    assert follow("--status").stdout.splitlines()[3] == "state\tfailed"


def test_two_syncs_of_a_path_do_not_run_at_once(follow, server, path):
    follow()
    with open(path.with_name("web.sync") / "lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        done = follow()

        assert (done.exit_code, len(server.statuses)) == (0, 1)
        assert done.stdout == f"Another sync of {path} is running; nothing was done\n"
        assert follow("--rollback").exit_code == ExitCode.REFUSED


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff",
        b"[]",
        b"{",
        b'{"etag": 7}',
        b'{"more": 1}',
        b'{"offered": {}}',
        b'{"numbers": [3]}',
        b'{"numbers": {"a": "b"}}',
        b'{"trying": 1}',
        b'{"trying": {"offer": null}}',
        b"[" * 100_000,
    ],
)
def test_a_damaged_state_is_told_and_learnt_anew(path, text, capfd):
    folder = StateFolder(path)
    folder.path.mkdir()
    (folder.path / "state.json").write_bytes(text)

    assert folder.load() == SyncState()
    assert f"Warning: {folder.path}/state.json is damaged: " in capfd.readouterr().err


def test_damage_to_the_state_makes_no_other_key_trusted(follow, server, cache, path):
    follow()
    remembered(path)[0].write_text("")
    assert follow().stdout == f"{path} is generation 1 of web, as offered\n"
    assert server.statuses == [200, 200]
    server.offer(cache.two, 2)
    server.public_key = cache.keys["wrong"]

    assert follow().exit_code == ExitCode.UNTRUSTED


def test_what_is_heard_of_one_server_is_not_asked_of_another(follow, ctl, server, cache):
    follow()
    with OfferingServer(cache) as other:
        other.offer(cache.two, 5)
        ctl.environ["PKGCTL_URL"] = other.url

        assert follow().exit_code == 0
        assert other.statuses == [200]


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_is_no_profile_stays_as_it_is(follow, path, kind, tmp_path):
    make = {"file": path.touch, "folder": path.mkdir, "link": lambda: path.symlink_to(tmp_path)}
    make[kind]()
    before = identity(path)

    done = follow()

    assert done.exit_code == ExitCode.USAGE
    assert f"{path} is not a profile of Nix, and stays as it is" in done.stderr
    assert identity(path) == before


def identity(path):
    """Return what tells that a file is the one it was, and unchanged; not when it was read."""
    status = os.lstat(path)
    return status.st_ino, status.st_mode, status.st_mtime_ns, status.st_ctime_ns


@pytest.mark.parametrize("name", ["", "state.json", "public_keys", "netrc"])
def test_a_folder_that_can_not_be_used_is_told(follow, path, name):
    folder = path.with_name("web.sync")
    if name:
        (folder / name).mkdir(parents=True)
        (folder / name / "file").touch()
    else:
        folder.touch()

    done = follow()

    assert (done.exit_code, done.stderr.count("\n")) == (ExitCode.MACHINE_FAILED, 1)
    assert f"{folder / name} can't be used: " in done.stderr


def test_where_no_more_can_be_written_the_machine_goes_back_all_the_same(follow, server, path):
    done = follow("--check", f"sh -c 'rm -r {path}.sync; exit 1'")

    assert done.exit_code == ExitCode.MACHINE_FAILED
    assert f"{path}.sync/state.json can't be used: No such file or directory" in done.stderr
    assert not os.path.lexists(path)
    assert server.said[0] == "failed"


def test_a_generation_that_its_check_removes_is_not_active(follow, server, cache, path):
    done = follow("--check", f"sh -c 'rm {path}-1-link; exit 1'")

    assert (done.exit_code, path.exists()) == (ExitCode.FAILED, False)
    server.offer(cache.two, 2)
    assert follow().exit_code == 0
    assert tool(path) == "two"


# --- the command line ---


@pytest.mark.parametrize(
    "words",
    [
        ("Web",),
        ("web", "--name", "a b"),
        ("web", "--to", "/"),
        ("web", "--every", "0"),
        ("web", "--every", "5", "--once"),
        ("web", "--every", "5", "--status"),
    ],
)
def test_a_wrong_command_line_is_refused(unconfigured, words):
    assert unconfigured("sync", *words).exit_code == ExitCode.USAGE


def test_the_name_of_the_profile_is_completed(ctl, server, monkeypatch):
    for name in ("PKGCTL_URL", "PKGCTL_TOKEN"):
        monkeypatch.setenv(name, ctl.environ[name])
    completion = ShellComplete(cli, {}, "pkgctl", "_PKGCTL_COMPLETE")

    assert [item.value for item in completion.get_completions(["sync"], "we")] == ["web"]


def test_a_host_name_that_can_not_be_a_machines_is_told(unconfigured, monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "my_host")

    done = unconfigured("sync", "web")

    assert done.exit_code == ExitCode.USAGE
    assert done.stderr.endswith("can't be the name of a machine (--name gives another one)\n")


@pytest.mark.parametrize(
    ("uid", "environ", "path"),
    [
        (0, {}, "/nix/var/nix/profiles/pkgd-web"),
        (0, {"NIX_STATE_DIR": "/srv/nix"}, "/srv/nix/profiles/pkgd-web"),
        (7, {}, "/home/me/.local/state/nix/profiles/pkgd-web"),
        (7, {"XDG_STATE_HOME": "/state"}, "/state/nix/profiles/pkgd-web"),
    ],
)
def test_a_profile_goes_where_nix_has_those_of_the_user(monkeypatch, uid, environ, path):
    for name in ("NIX_STATE_DIR", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/me", **environ}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("os.geteuid", lambda: uid)

    assert str(sync.default_path("web")) == path


def test_a_user_without_a_home_has_to_say_where_the_profile_goes(unconfigured, monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: 7)
    unconfigured.environ |= {"HOME": "nowhere", "XDG_STATE_HOME": None}

    done = unconfigured("sync", "web")

    assert done.exit_code == ExitCode.USAGE
    assert done.stderr.endswith("for the profile (--to says where it goes)\n")


def test_a_token_may_stand_in_a_file(follow, ctl, server, tmp_path):
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    ctl.environ |= {"PKGCTL_TOKEN": None, "PKGCTL_TOKEN_FILE": str(tmp_path / "token")}

    assert follow().exit_code == 0
    assert set(server.cache_logins) == {basic(TOKEN)}


@pytest.mark.parametrize(("data", "why"), [(None, "No such file"), (b"\xff", "it is no text")])
def test_a_file_without_a_token_is_told(follow, ctl, tmp_path, data, why):
    if data:
        (tmp_path / "token").write_bytes(data)
    ctl.environ |= {"PKGCTL_TOKEN": None, "PKGCTL_TOKEN_FILE": str(tmp_path / "token")}

    done = follow()

    assert (done.exit_code, why in done.stderr) == (ExitCode.NOT_ALLOWED, True)


# --- again and again ---


@pytest.fixture
def rounds(follow, monkeypatch):
    """Return a function that does rounds until each of some steps was done in a pause."""

    def rounds(*steps):
        left = iter(steps)

        def pause(_seconds):
            if (step := next(left, None)) is None:
                raise KeyboardInterrupt
            step()

        monkeypatch.setattr(sync, "time", SimpleNamespace(sleep=pause))
        return follow("--every", "5")

    return rounds


def test_rounds_go_on_and_say_only_what_is_new(rounds, server, cache, path):
    def refuse(status):
        return lambda: setattr(server, "refuse", status)

    def same():
        pass

    done = rounds(
        same, same, refuse(503), same, refuse(None), lambda: server.offer(cache.two, 2), same
    )

    assert done.exit_code == ExitCode.INTERRUPTED
    assert done.stderr.splitlines() == ["Error: refused", "Interrupted"]
    assert [line.split(", ")[0].removeprefix("Success: ") for line in done.stdout.splitlines()] == [
        f"{path} is now generation 1 of web",
        f"{path} is generation 1 of web",
        f"{path} is generation 1 of web",
        f"{path} is now generation 2 of web",
        f"{path} is generation 2 of web",
    ]
    assert [body["generation"] for _, body in server.reports] == [1, 2]


def test_after_an_hour_without_the_server_the_next_round_catches_up(
    follow, server, cache, path, monkeypatch
):
    follow()
    server.refuse, pauses, held = 503, [], []

    def pause(seconds):
        pauses.append(seconds)
        held.append(tool(path))
        if server.refuse is None:
            raise KeyboardInterrupt
        if sum(pauses) > 3600:
            server.offer(cache.two, 2)
            server.refuse = None

    monkeypatch.setattr(sync, "time", SimpleNamespace(sleep=pause))
    done = follow("--every", "1")

    assert done.stderr.splitlines() == ["Error: refused", "Interrupted"]
    assert held == ["one"] * (len(held) - 1) + ["two"]
    assert len(held) > 40  # at most 60 s are between rounds, give or take half
    assert max(pauses) <= 90
    keep_hour(len(held) - 1)


def keep_hour(rounds):
    """Add a row to the table of faults."""
    figures.keep(
        "a server that answers 503 for an hour to a machine with `--every 1` (pauses not slept)",
        "sqlite",
        f"once, {rounds} rounds",
        "the machine kept what it had, told it once, and took a change in the first round after",
    )


def test_rounds_end_where_the_token_does_not_count(rounds, server):
    server.refuse = 401

    assert rounds().exit_code == ExitCode.NOT_ALLOWED


def test_a_signal_ends_nix_as_well(ctl, server, tmp_path, path):
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "nix-store"
    program.write_text(f"#!/bin/sh\necho $$ >{tmp_path}/pid\necho begun\nexec sleep 60\n")
    program.chmod(0o755)
    ctl.environ["PATH"] = f"{tmp_path}/bin:{os.environ['PATH']}"
    terminal = ctl.terminal("sync", "web", "--to", path, "--name", "m1")
    terminal.until("begun")
    terminal.process.terminate()

    assert terminal.close() == ExitCode.INTERRUPTED
    with pytest.raises(ProcessLookupError):
        os.killpg(int((tmp_path / "pid").read_text()), 0)


def test_a_sync_that_goes_on_ends_by_a_signal(ctl, server, path):
    process = ctl.start("sync", "web", "--to", path, "--name", "m1", "--every", "60")
    until(lambda: server.reports)
    process.terminate()

    exit_code, _, errors = finish(process)
    assert (exit_code, errors) == (ExitCode.INTERRUPTED, "Interrupted\n")


@pytest.mark.parametrize(
    ("every", "failures", "least", "most"),
    [(5, 0, 4.5, 5.5), (5, 1, 5, 15), (5, 40, 30, 90), (600, 0, 540, 660), (600, 9, 300, 900)],
)
def test_pauses_grow_with_failures_and_differ(every, failures, least, most):
    pauses = [sync.pause(every, failures) for _ in range(100)]

    assert least <= min(pauses) < max(pauses) <= most


def test_a_report_is_repeated_as_a_sign_of_life(monkeypatch):
    told = []
    monkeypatch.setattr(follower, "HEARTBEAT_SECONDS", 1000)
    client = SimpleNamespace(put=lambda *words: told.append(words))
    reporter = follower.Reporter()

    for state in ("current", "current", "failed"):
        reporter.report(client, "m1", {"state": state})
    monkeypatch.setattr(follower, "HEARTBEAT_SECONDS", 0)
    reporter.report(client, "m1", {"state": "failed"})

    assert [body["state"] for _, body in told] == ["current", "failed", "failed"]


def test_what_nix_writes_is_shown_on_a_terminal(ctl, path):
    terminal = ctl.terminal("sync", "web", "--to", path, "--name", "m1")

    assert terminal.close() == 0
    assert "copying path" in terminal.shown


@pytest.mark.parametrize("path", ["/nix/store/0000000000000000000000000000000-short", "relative"])
def test_a_path_of_another_form_is_no_store_path(path):
    assert not is_store_path(path)
