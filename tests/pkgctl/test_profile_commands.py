"""What a switch of the profile is told to have changed."""

import pytest
from harness import FakeAnswer, FakeServer, problem

from pkgctl.errors import ExitCode


def generation(number, *versions, active=False):
    """Return a generation that holds these versions of hello, each under a name of its own."""
    packages = [{"id": 1, "name": f"hello{n}", "version": one} for n, one in enumerate(versions)]
    return {"number": number, "active": active, "packages": packages, "changes": []}


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (
            [generation(2, "2.0", active=True), generation(1, "1.0")],
            generation(1, "1.0"),
            ["- hello0 2.0", "+ hello0 1.0", "Success: Switched to generation 1"],
        ),
        (
            [generation(2), generation(1, "1.0", active=True)],
            generation(2),
            ["- hello0 1.0", "Success: Switched to generation 2"],
        ),
        (
            [generation(2, "1.0"), generation(1, "1.0", active=True)],
            generation(2, "1.0"),
            ["Success: Switched to generation 2, which holds the same packages"],
        ),
        (
            [generation(1, "1.0", active=True)],
            generation(1, "1.0"),
            ["Success: Generation 1 was active already; nothing has changed"],
        ),
        ([], generation(1, "1.0"), ["+ hello0 1.0", "Success: Switched to generation 1"]),
    ],
)
@pytest.mark.parametrize("words", [["rollback"], ["switch", "1"]], ids=" ".join)
def test_a_switch_tells_what_comes_and_what_goes(unconfigured, words, before, after, said):
    with FakeServer(lambda method, _: FakeAnswer(before if method == "GET" else after)) as server:
        done = unconfigured(*words, "--url", server.url)

        assert unconfigured.json(*words, "--url", server.url) == after
    assert (done.exit_code, done.stdout.splitlines()) == (0, said)


@pytest.mark.parametrize("command", ["remove", "activate"])
def test_a_refusal_for_another_reason_says_nothing_more(unconfigured, command):
    package = {"id": 1, "name": "hello", "version": "1.0.0", "status": "created"}

    def answer(method, _):
        return FakeAnswer(package) if method == "GET" else problem(403, "needs scope operate")

    with FakeServer(answer) as server:
        done = unconfigured(command, 1, "--url", server.url)

    assert (done.exit_code, done.stderr) == (ExitCode.NOT_ALLOWED, "Error: needs scope operate\n")


@pytest.mark.parametrize("word", ["cafe", "1234", "0123"])
def test_a_refusal_to_look_a_task_up_is_told(unconfigured, word):
    with FakeServer(lambda *_: problem(403, "needs scope read")) as server:
        done = unconfigured("logs", word, "--url", server.url)

        assert len(server.requests) == 1
    assert (done.exit_code, done.stderr) == (ExitCode.NOT_ALLOWED, "Error: needs scope read\n")


def test_a_package_that_is_downloading_is_to_be_cancelled_first(unconfigured):
    package = {"id": 1, "name": "hello", "version": "1.0.0", "status": "created"}

    def answer(method, _):
        return FakeAnswer(package) if method == "GET" else problem(409, "it is downloading")

    with FakeServer(answer) as server:
        done = unconfigured("remove", 1, "--url", server.url)

    assert done.stderr == "Error: it is downloading (pkgctl cancel hello@1.0.0 first)\n"
