"""The command as a whole: help, version, completion, and outputs that can't be written."""

import os
import re
import subprocess
import tomllib
from importlib.metadata import PackageNotFoundError

import click
import pytest
from harness import COMMAND, FakeAnswer, FakeServer, finish, problem
from service import ROOT

from pkgctl import cli
from pkgctl.errors import ExitCode
from script import manual


def commands(group=cli.cli, words=()):
    """Yield the words of every command and every group of commands."""
    for name, command in group.commands.items():
        yield (*words, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*words, name))


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_the_help_of_every_command_has_an_example(unconfigured, words):
    done = unconfigured(*words, "--help")

    assert done.exit_code == 0
    assert f"  pkgctl {' '.join(words)}" in done.output.partition("Example")[2]


@pytest.mark.parametrize("exit_code", list(ExitCode))
def test_the_help_documents_every_exit_code(unconfigured, exit_code):
    help_text = unconfigured("--help").output

    assert re.search(rf"^ +{exit_code:d}  \w", help_text, re.MULTILINE)


def test_the_version_is_that_of_the_installed_package(unconfigured, monkeypatch):
    monkeypatch.setattr(cli, "version", {"pkgd": "1.2.3"}.get)

    assert unconfigured("--version").output == "pkgctl 1.2.3\n"


def test_a_source_folder_has_no_version(unconfigured, monkeypatch):
    def version(_):
        raise PackageNotFoundError

    monkeypatch.setattr(cli, "version", version)

    assert unconfigured("--version").output == "pkgctl, of a source folder\n"


def test_a_package_to_register_needs_a_version(unconfigured):
    done = unconfigured("create", "hello")

    assert done.exit_code == ExitCode.USAGE
    assert "'hello' is not NAME@VERSION" in done.output
    assert "pkgctl versions hello tells the versions" in done.output


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script_asks_the_command_for_words(unconfigured, shell):
    assert f"_PKGCTL_COMPLETE={shell}_complete" in unconfigured("completion", shell).stdout


def test_the_command_completes_its_words(unconfigured):
    unconfigured.environ |= {"_PKGCTL_COMPLETE": "bash_complete"}
    unconfigured.environ |= {"COMP_WORDS": "pkgctl upg", "COMP_CWORD": "1"}

    assert unconfigured.run() == (0, "plain,upgrade\n", "")


def test_characters_that_the_encoding_lacks_are_question_marks(unconfigured):
    unconfigured.environ["PYTHONIOENCODING"] = "latin-1"
    offer = {"version": "1.0.0", "attr": "λ-calculus", "catalog": "good", "spelled": "1.0"}
    found = FakeAnswer({"name": "λ-calculus", "versions": [offer]})
    with FakeServer(lambda *_: found) as server:
        done = unconfigured.run("versions", "λ-calculus", "--url", server.url)

    assert done == (0, "1.0.0\t?-calculus\tgood\t1.0\t-\t-\t-\n", "")


def test_an_output_that_can_not_be_written_is_an_error(unconfigured):
    unconfigured.environ["PYTHONUNBUFFERED"] = ""  # the buffer is flushed once more at exit
    with open("/dev/full", "w") as full:
        exit_code, _, errors = finish(unconfigured.start("completion", "bash", stdout=full))

    assert exit_code == ExitCode.REFUSED
    assert errors == "Error: the output can't be written: No space left on device\n"


@pytest.mark.parametrize("words", [["--help"], ["list", "--help"], ["--version"]])
def test_help_that_can_not_be_written_is_an_error(unconfigured, words):
    with open("/dev/full", "w") as full:
        exit_code, _, errors = finish(unconfigured.start(*words, stdout=full))

    assert exit_code == ExitCode.REFUSED
    assert errors == "Error: the output can't be written: No space left on device\n"


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_an_error_that_can_not_be_written_keeps_its_exit_code(unconfigured, unbuffered):
    unconfigured.environ["PYTHONUNBUFFERED"] = unbuffered
    with open("/dev/full", "w") as full:
        process = unconfigured.start("list", "--url", "http://127.0.0.1:1", stderr=full)

        assert finish(process)[0] == ExitCode.UNREACHABLE


@pytest.mark.parametrize(
    ("closed", "words", "result"),
    [
        ("<&-", "list", (0, "hello\n", "")),
        (">&-", "list", (ExitCode.REFUSED, "", "Error: the standard output is closed\n")),
        (">&-", "--help", (ExitCode.REFUSED, "", "Error: the standard output is closed\n")),
        ("2>&-", "list", (0, "hello\n", "")),
        ("<&- 2>&-", "list", (0, "hello\n", "")),
        (">&- 2>&-", "list", (ExitCode.REFUSED, "", "")),
        ("<&- >&- 2>&-", "list", (ExitCode.REFUSED, "", "")),
    ],
)
def test_a_closed_stream_ends_no_command_with_a_traceback(unconfigured, closed, words, result):
    document = {"id": 1, "name": "hello", "version": "1.0.0", "status": "created", "task": None}
    with FakeServer(lambda *_: FakeAnswer([document])) as server:
        unconfigured.environ["PKGCTL_URL"] = server.url
        argv = ["sh", "-c", f'exec "$@" {closed}', "sh", *COMMAND, words]
        environ = {name: value for name, value in unconfigured.environ.items() if value}
        done = subprocess.run(
            argv, env={**os.environ, **environ}, cwd=ROOT, capture_output=True, text=True
        )

    output = "hello\n" if "hello" in done.stdout else done.stdout
    assert (done.returncode, output, done.stderr) == result


def test_a_login_with_a_closed_input_has_no_token(unconfigured):
    with FakeServer(lambda *_: problem(401, "no token")) as server:
        argv = ["sh", "-c", 'exec "$@" <&-', "sh", *COMMAND, "login", server.url]
        environ = {name: value for name, value in unconfigured.environ.items() if value}
        done = subprocess.run(
            argv, env={**os.environ, **environ}, cwd=ROOT, capture_output=True, text=True
        )

    assert (done.returncode, done.stderr.count("\n")) == (ExitCode.NOT_ALLOWED, 1)
    assert f"{server.url} wants a token" in done.stderr


def test_a_reader_that_closes_the_pipe_ends_the_command_quietly(unconfigured):
    with unconfigured.start("completion", "bash") as process:
        process.stdout.close()

        assert process.stderr.read() == b""
    assert process.returncode == 1


@pytest.mark.parametrize(
    "words",
    [
        ("show", "1" * 5000),
        ("logs", "1" * 5000),
        ("show", "a\udcff@1.0.0"),
        ("search", "a\udcff"),
        ("list", "--url", "http://a..b"),
        ("list", "--url", f"http://{'a' * 64}.example"),
        ("list", "--url", "http://127.0.0.1/\udcff"),
        ("login", "http://a..b", "--token", "x"),
    ],
    ids=lambda words: words[0] + words[-1][:14],
)
def test_words_of_anything_are_wrong_usage(unconfigured, words):
    done = unconfigured(*words)

    assert done.exit_code == ExitCode.USAGE
    assert done.output.splitlines()[-1].startswith("Error: ")


def test_a_url_of_the_environment_is_checked_as_well(unconfigured):
    unconfigured.environ |= {"PKGCTL_URL": "http://127.0.0.1/\udcff", "PKGCTL_TOKEN": "x"}

    assert unconfigured("list").exit_code == ExitCode.USAGE


@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_help_is_wider_than_the_terminal_or_cut(width):
    ctx = click.Context(cli.cli, info_name="pkgctl", terminal_width=width, max_content_width=100)
    for words in [(), *commands()]:
        inner = ctx
        for word in words:
            inner = click.Context(inner.command.commands[word], parent=inner, info_name=word)
        shown = inner.get_help()
        assert [line for line in shown.splitlines() if len(line) > width] == []
        assert [line for line in shown.splitlines() if re.search(r"[a-z]\.\.\.$", line)] == []


@pytest.mark.parametrize(("alias", "name"), cli.ALIASES.items())
def test_an_alias_is_another_name_of_a_command(unconfigured, alias, name):
    assert f"{alias} = {name}" in unconfigured("--help").output
    assert f"\n  {alias}  " not in unconfigured("--help").output
    as_alias, as_name = (unconfigured(word, "--help").output for word in (alias, name))
    assert as_alias.replace(f"Usage: pkgctl {alias} ", f"Usage: pkgctl {name} ") == as_name


def test_a_misspelt_command_is_answered_with_those_like_it(unconfigured):
    done = unconfigured("instal", "hello")

    assert done.exit_code == ExitCode.USAGE
    assert "install" in done.stderr


def test_the_manual_page_is_that_of_the_current_help():
    assert manual.PAGE.read_text() == manual.page(), "run: python -m script.manual"


def test_every_command_is_in_the_manual_page():
    page = manual.PAGE.read_text().replace("\\-", "-")

    assert [words for words in commands() if f"\\fBpkgctl {' '.join(words)}\\fR" not in page] == []


def test_the_manual_page_is_installed_with_the_command():
    files = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["data-files"]

    assert files == {"share/man/man1": [str(manual.PAGE.relative_to(ROOT))]}
