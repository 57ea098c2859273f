"""The commands of machines and rollouts, and what they make of a machine's own words."""

import pytest
from harness import FakeAnswer, FakeServer, problem

from pkgctl.errors import ExitCode

TWO, THREE = ({"generation": n, "store_path": f"/nix/store/{n}-profile"} for n in (2, 3))
SEEN = "2026-01-01T00:00:00.000Z"


def machine(name="web-1", held=TWO, offered=THREE, state="behind", error=None):
    """Return a machine as the API shows it."""
    held = held or {"generation": None, "store_path": None}
    about = {"name": name, "profile": "default", "state": state, "error": error, "seen_at": SEEN}
    return {**about, **held, "offered": offered}


@pytest.fixture
def answering(unconfigured):
    """Return a function that runs a command against one answer; it returns that and requests."""

    def answering(answer, *words):
        with FakeServer(lambda *_: answer) as server:
            done = unconfigured(*words, "--url", server.url)
        return done, [f"{method} {path}" for method, path, _ in server.requests]

    return answering


def test_machines_are_listed_with_what_they_hold_and_wait_for(answering):
    listed = [machine(), machine("web-2", THREE, state="current"), machine("web-3", None, None)]
    listed += [machine("web-4", TWO | {"generation": None})]  # of no number that it knows

    done, requests = answering(FakeAnswer(listed), "machines", "-p", "default", "--state", "behind")

    assert requests == ["GET /api/v1/machines?limit=1000&profile=default&state=behind"]
    assert [line.split("\t")[:4] for line in done.stdout.splitlines()] == [
        ["web-1", "default", "behind", "2, not 3"],
        ["web-2", "default", "current", "3"],
        ["web-3", "default", "behind", "none"],
        ["web-4", "default", "behind", "another, not 3"],
    ]


def test_a_profile_that_is_not_there_has_no_list_of_machines(unconfigured):
    missing = problem(404, "there is no profile 'none'")
    with FakeServer(lambda _, path: FakeAnswer([]) if "machines" in path else missing) as server:
        done = unconfigured("machines", "-p", "none", "--url", server.url)
    assert (done.exit_code, done.stderr) == (
        ExitCode.NOT_FOUND,
        "Error: there is no profile 'none'\n",
    )


def test_a_profile_is_not_promoted_to_itself(unconfigured):
    done = unconfigured("promote", "team", "team")
    assert (done.exit_code, "team can't be promoted to itself" in done.stderr) == (2, True)


@pytest.mark.parametrize("words", [["machines"], ["machine", "web-1"]], ids=" ".join)
def test_a_machines_words_control_no_terminal(answering, words):
    failed = machine(state="failed", error="\x1b[31mno\x1b[0m\n  answer\u202e")

    done, _ = answering(FakeAnswer([failed] if words == ["machines"] else failed), *words)

    assert "?[31mno?[0m answer?" in done.stdout
    assert done.stdout.isascii()
    assert "\x1b" not in done.stdout


def test_a_machine_is_shown_whole(answering):
    done, requests = answering(FakeAnswer(machine()), "machine", "web-1")

    shown = dict(line.split("\t") for line in done.stdout.splitlines())
    assert requests == ["GET /api/v1/machine/web-1"]
    assert (shown["generation"], shown["offered"]) == ("2", "generation 3, /nix/store/3-profile")
    assert (shown["error"], shown["seen"]) == ("-", "2026-01-01T00:00:00Z")


def test_a_machine_that_is_offered_nothing_says_so(answering):
    done, _ = answering(FakeAnswer(machine(offered=None)), "machine", "web-1")

    assert "offered\tnone" in done.stdout


def test_a_machine_is_removed(answering):
    done, requests = answering(FakeAnswer({}), "machine", "a/b", "--remove")

    assert requests == ["DELETE /api/v1/machine/a%2Fb"]
    assert done.stdout == "Success: Removed machine a/b\n"


def test_a_machine_that_there_is_not_is_not_found(answering):
    done, _ = answering(problem(404, "there is no machine 'x'"), "machine", "x")

    assert (done.exit_code, done.stderr) == (
        ExitCode.NOT_FOUND,
        "Error: there is no machine 'x'\n",
    )


def test_an_older_server_is_told_to_have_no_machines(answering):
    done, _ = answering(problem(404, "no such URL"), "machines")

    assert "the server is of an older release" in done.stderr


@pytest.mark.parametrize(
    ("percent", "offered", "rest", "told"),
    [
        (100, THREE, None, "All machines of default are offered generation 3"),
        (100, None, None, "All machines of default are offered nothing"),
        (
            10,
            None,
            None,
            "10 % of the machines of default are offered what comes first, the others nothing",
        ),
        (
            10,
            THREE,
            TWO,
            "10 % of the machines of default are offered generation 3, the others generation 2",
        ),
        (
            10,
            THREE,
            THREE,
            "10 % of the machines of default are offered what comes after generation 3,"
            " the others keep that",
        ),
        (
            10,
            THREE,
            None,
            "10 % of the machines of default are offered generation 3, the others nothing",
        ),
    ],
)
def test_a_rollout_tells_who_is_offered_what(answering, percent, offered, rest, told):
    profile = {
        "name": "default",
        "offered": offered,
        "rollout": {"percent": percent, "rest": rest},
    }

    done, requests = answering(FakeAnswer(profile), "rollout", "default", percent)

    assert requests == ["PUT /api/v1/profile/default/rollout"]
    assert done.stdout == f"Success: {told}\n"


def test_a_rollout_without_a_percentage_is_told_and_stays(answering):
    rollout = {"percent": 10, "rest": TWO}
    profile = {"name": "default", "offered": THREE, "rollout": rollout}

    done, requests = answering(FakeAnswer(profile), "rollout", "default")

    assert requests == ["GET /api/v1/profile/default"]
    assert done.stdout.startswith("10 % of the machines of default are offered generation 3, the")


@pytest.mark.parametrize("percent", ["0", "101", "x"])
def test_a_rollout_is_a_percentage(unconfigured, percent):
    assert unconfigured("rollout", "default", percent).exit_code == ExitCode.USAGE


@pytest.mark.parametrize(("words", "query"), [((), ""), (("--dry-run",), "dry_run=true&")])
def test_a_promotion_can_require_current_machines(unconfigured, words, query):
    profile = FakeAnswer({"packages": [], "generation": 1})
    refusal = problem(409, "the profile a is not proven by its machines")
    words = ("promote", "a", "b", "--require-current", *words)

    with FakeServer(lambda method, _: profile if method == "GET" else refusal) as server:
        done = unconfigured(*words, "--url", server.url)

    assert server.count(f"/profile/b/promote?{query}require=current") == 1
    assert (done.exit_code, done.stderr) == (
        ExitCode.REFUSED,
        "Error: the profile a is not proven by its machines\n",
    )
