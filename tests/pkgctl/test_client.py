"""pkgctl: what it makes of answers, and what it says of itself."""

import re
import threading
from importlib.metadata import PackageNotFoundError

import click
import pytest
from harness import PATIENCE, Answer, Ctl, Liar, problem, task

from pkgctl import cli
from pkgctl import client as pkgctl_client
from pkgctl.client import Exit, Failure
from pkgctl.output import stage
from pkgctl.tasks import check


@pytest.fixture
def newcomer(tmp_path):
    """Pkgctl as nobody has set it up yet."""
    return Ctl(tmp_path)


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        (Answer([], is_pkgd=False), Exit.UNREACHABLE, "answers, but not as pkgd does"),
        (Answer(b"<html>"), Exit.UNREACHABLE, "answers, but not as pkgd does"),
        (Answer(b"", 404, is_pkgd=False), Exit.NOT_FOUND, "answers 404 Not Found"),
        (Answer(b"", 418), Exit.REFUSED, "answers 418 I'm a Teapot"),
        (
            Answer(b"", 301, {"Location": "https://x"}),
            Exit.REFUSED,
            "sends its clients on to https",
        ),
        (
            problem(500, "a fault"),
            Exit.REFUSED,
            "a fault (the server's log says more of request 1)",
        ),
        (None, Exit.UNREACHABLE, "the connection was lost"),
    ],
)
def test_an_answer_that_is_no_success_is_told_in_a_line(newcomer, answer, code, said):
    with Liar(lambda *_: answer) as liar:
        done = newcomer("list", "--url", liar.url)

    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (code, "", 1)
    assert said in done.stderr


def test_a_server_that_never_answers_is_given_up(newcomer, monkeypatch):
    monkeypatch.setattr(pkgctl_client, "ANSWER_SECONDS", 0.1)
    gate = threading.Event()
    with Liar(lambda *_: gate.wait(PATIENCE) and None) as liar:
        done = newcomer("list", "--url", liar.url)
        gate.set()

    assert (done.exit_code, "it doesn't answer in time" in done.stderr) == (8, True)


def test_a_failing_catalog_does_not_hide_what_the_others_offer(newcomer):
    offer = {"version": "1.0.0", "attr": "hello", "catalog": "good"}
    failure = {"catalog": "bad", "code": "evaluation_failed", "message": "error:\n  at 1:1"}
    catalog = {"name": "hello", "versions": [offer], "failures": [failure]}
    with Liar(lambda *_: Answer(catalog)) as liar:
        done = newcomer("search", "hello", "--url", liar.url)
        catalog["versions"] = []
        failed = newcomer("search", "hello", "--url", liar.url)

    assert (done.stdout, done.stderr) == (
        "1.0.0\thello\tgood\n",
        "Warning: bad: error ... at 1:1\n",
    )
    assert (failed.exit_code, failed.stderr) == (1, "Error: bad: error ... at 1:1\n")


def test_an_output_that_can_not_be_written_is_told(newcomer):
    with open("/dev/full", "w") as full:
        process = newcomer.start("completion", "bash", stdout=full)
        _, errors = process.communicate()

    said = b"Error: the output can't be written: No space left on device\n"
    assert (process.returncode, errors) == (Exit.REFUSED, said)


def test_a_reader_that_has_enough_is_no_trouble(newcomer):
    with newcomer.start("completion", "bash") as process:
        process.stdout.close()

        assert process.stderr.read() == b""


# --- tasks ---


@pytest.mark.parametrize(
    ("shown", "said"),
    [
        (task("queued"), "queued"),
        (task("queued", waiting="the disk is full"), "queued, the disk is full"),
        (task("running"), "running"),
        (task("running", progress={"done": 1, "expected": 3, "phase": "building"}), "building 1/3"),
        (task("running", attempt=2), "running (attempt 2)"),
        (task("failed", progress={"done": 1, "expected": 3, "phase": None}), "failed"),
    ],
)
def test_a_stage_is_told_in_a_few_words(shown, said):
    assert stage(shown) == said


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        ("build_failed", Exit.FAILED),
        ("lost", Exit.FAILED),
        ("timed_out", Exit.TIMED_OUT),
        ("name_unknown", Exit.NOT_FOUND),
    ],
)
def test_a_failed_task_is_a_failure_of_its_kind(code, exit_code):
    error = {"code": code, "message": "it failed:\n> because", "hint": "do this"}

    with pytest.raises(Failure, match=r"^it failed \.\.\. > because \(do this") as failure:
        check(task("failed", error=error))

    assert failure.value.exit_code == exit_code


# --- help ---


def commands(group=cli.cli, words=()):
    """Return the words of every command and every group of commands there is."""
    for name, command in group.commands.items():
        yield (*words, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*words, name))


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_the_help_of_every_command_has_an_example(newcomer, words):
    done = newcomer(*words, "--help")

    assert done.exit_code == 0
    assert f"  pkgctl {' '.join(words)}" in done.output.partition("Example")[2]


@pytest.mark.parametrize("code", list(Exit))
def test_the_help_documents_every_exit_code(newcomer, code):
    assert re.search(rf"^ +{code:d}  \w", newcomer("--help").output, re.MULTILINE)


def test_the_version_is_that_of_the_installed_package(newcomer, monkeypatch):
    monkeypatch.setattr(cli, "version", {"pkgd": "1.2.3"}.get)

    assert newcomer("--version").output == "pkgctl 1.2.3\n"


def test_a_source_folder_has_no_version(newcomer, monkeypatch):
    def version(_):
        raise PackageNotFoundError

    monkeypatch.setattr(cli, "version", version)

    assert newcomer("--version").output == "pkgctl, of a source folder\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_learns_to_complete_the_command(newcomer, shell):
    assert "_PKGCTL_COMPLETE" in newcomer("completion", shell).stdout
