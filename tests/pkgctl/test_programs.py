"""Where an installed program is said to be, and how PATH comes to have it."""

import os

import pytest
from harness import FakeAnswer, FakeServer

from pkgctl.errors import ExitCode

OFFERS = [
    {"version": version, "catalog": "a", "available": True, "prerelease": False}
    for version in ("1.1.0", "1.0.0")
]


@pytest.fixture
def profile(service):
    """The folder of the profile's programs."""
    return service.data_dir / "profile" / "bin"


def test_path_prints_the_profiles_programs(ctl, install, profile):
    install("hello")

    assert ctl("path").stdout == f"{profile}\n"
    assert ctl.json("path") == {"path": str(profile)}


@pytest.mark.parametrize("words", [["install", "hello"], ["activate", "hello"]], ids=" ".join)
def test_on_a_terminal_the_program_and_the_line_for_path_are_shown(ctl, install, profile, words):
    install("hello")
    ctl.environ["SHELL"] = "/bin/bash"

    terminal = ctl.terminal(*words)

    assert terminal.close() == 0
    lines = terminal.shown.split("Success: Activated hello 2.12.1\r\n")[-1].splitlines()
    assert lines == [
        f"{profile}/hello",
        "To run it by its name, put the profile on your PATH:",
        f'  export PATH="{profile}:$PATH"',
        "That line in ~/.bashrc keeps it there.",
    ]


@pytest.mark.parametrize("name", ["profile", "other"])
def test_where_path_has_the_profile_nothing_more_is_said(ctl, install, profile, tmp_path, name):
    install("hello")
    (tmp_path / "other").symlink_to(profile)
    folder = profile if name == "profile" else tmp_path / "other"
    ctl.environ["PATH"] = f"{os.environ['PATH']}:{folder}"

    terminal = ctl.terminal("install", "hello")

    assert terminal.close() == 0
    assert terminal.shown.endswith(f"{profile}/hello\r\n")


@pytest.mark.parametrize(
    ("shell", "line", "last"),
    [
        ("/usr/bin/zsh", "export PATH={quoted}", "That line in ~/.zshrc keeps it there."),
        ("/usr/bin/fish", "fish_add_path '{bin}'", ""),
        ("/bin/tcsh", "setenv PATH {quoted}", "That line in ~/.tcshrc keeps it there."),
        ("/bin/dash", "export PATH={quoted}", "That line in ~/.profile keeps it there."),
        ("", "export PATH={quoted}", "That line in ~/.profile keeps it there."),
    ],
)
def test_the_line_for_path_is_that_of_the_users_shell(unconfigured, tmp_path, shell, line, last):
    unconfigured.environ["SHELL"] = shell
    with activated(tmp_path, "hello") as server:
        terminal = unconfigured.terminal("activate", "hello", "--url", server.url)
        assert terminal.close() == 0

    folder = tmp_path / "my profile" / "bin"
    shown = terminal.shown.splitlines()[2:]
    line = line.format(quoted=f"'{folder}':\"$PATH\"", bin=folder)
    assert shown == [line for line in (shown[0], f"  {line}", last) if line]


def activated(folder, *programs, at="my profile", **fields):
    """Return a fake server whose package `hello` has these programs, in a profile with a space."""
    store_path = folder / "store"
    package = {"id": 1, "name": "hello", "version": "1.0.0", "status": "activated"}
    package |= {"store_path": str(store_path), "task": None, **fields}
    for program in programs:
        (store_path / "bin").mkdir(parents=True, exist_ok=True)
        (store_path / "bin" / program).touch()
    if programs:
        (folder / "my profile").symlink_to(store_path)
    version = {"version": "1", "build": "1", "profile": str(folder / at)}

    def answer(method, path):
        if "/version" in path:
            return FakeAnswer(version)
        if "/profile/" in path:
            return FakeAnswer({"packages": [package], "task_id": None})
        if method == "POST":
            return FakeAnswer(package | {"task_id": None})
        if "/catalog/" in path:
            return FakeAnswer({"versions": OFFERS})
        return FakeAnswer([package] if "/packages" in path else package)

    return FakeServer(answer)


def last_lines(runner, server, *words):
    """Return what a command, else an activation, says on a terminal after its success."""
    terminal = runner.terminal(*words or ("activate", "hello"), "--url", server.url)
    assert terminal.close() == 0
    return terminal.shown.partition("Success: ")[2].splitlines()[1:]


def test_an_upgrade_on_a_terminal_shows_the_programs(unconfigured, tmp_path):
    with activated(tmp_path, "hello") as server:
        lines = last_lines(unconfigured, server, "upgrade")

    assert lines[0] == f"{tmp_path}/my profile/bin/hello"


def test_of_many_programs_some_are_shown(unconfigured, tmp_path):
    with activated(tmp_path, *"abcdefg", ".a-wrapped") as server:
        lines = last_lines(unconfigured, server)

    folder = tmp_path / "my profile" / "bin"
    assert lines[:6] == [
        *(f"{folder}/{name}" for name in "abcde"),
        f"and 2 more programs, in {folder}",
    ]


def test_a_program_that_the_profile_does_not_have_is_shown_in_the_store(unconfigured, tmp_path):
    with activated(tmp_path, "hello", at="elsewhere") as server:
        lines = last_lines(unconfigured, server)

    assert lines[0] == f"{tmp_path}/store/bin/hello"


def test_a_profile_on_another_machine_is_told_to_be_there(unconfigured, tmp_path):
    with activated(tmp_path, store_path="/nowhere/store/hello") as server:
        done = unconfigured("path", "--url", server.url)
        assert last_lines(unconfigured, server) == [
            f"On 127.0.0.1, not to be read from here: {tmp_path}/my profile/bin"
        ]

    assert (done.exit_code, done.stdout) == (ExitCode.REFUSED, "")
    assert "my profile/bin is on 127.0.0.1, and can't be read from here" in done.stderr


def test_an_older_server_does_not_tell_where_its_profile_is(unconfigured, tmp_path):
    package = {"id": 1, "name": "a", "version": "1.0.0", "store_path": "/no/a", "status": "x"}

    def answer(_, path):
        return FakeAnswer([package] if "/packages" in path else {"version": "1", "build": "1"})

    with FakeServer(answer) as server:
        done = unconfigured("path", "--url", server.url)
        lines = last_lines(unconfigured, server)

    assert "the server is of an older release, which can't tell where its profile is" in done.stderr
    assert lines == ["On 127.0.0.1, not to be read from here: /no/a"]


@pytest.mark.parametrize(("folder", "exit_code"), [("here", 0), ("gone/profile", 1)])
def test_the_path_of_an_empty_profile_is_known_on_the_servers_machine(
    unconfigured, tmp_path, folder, exit_code
):
    version = FakeAnswer({"version": "1", "build": "1", "profile": str(tmp_path / folder)})
    with FakeServer(lambda _, path: version if "version" in path else FakeAnswer([])) as server:
        assert unconfigured("path", "--url", server.url).exit_code == exit_code
