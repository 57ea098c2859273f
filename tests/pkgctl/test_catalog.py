"""The commands of catalogs, and which version install takes."""

from urllib.parse import parse_qs, urlsplit

import pytest
from harness import PACKAGE, SCHEDULED, FakeAnswer, FakeServer, problem, task_answer, task_document
from service import ROOT

from pkgctl.errors import ExitCode

OLD_OFFER = {"version": "1.0.0", "attr": "app", "catalog": "good", "spelled": "1.0"}
NO_ROUTE = problem(404, "there is nothing at this URL")


def registered(ctl, name):
    """Return the versions of a name that are registered."""
    return [row[2] for row in ctl.rows("list", "--name", name)]


# --- install: which version ---


@pytest.mark.parametrize(
    ("wanted", "version"),
    [
        ("hello", "2.12.1"),
        ("hello@latest", "2.12.1"),
        ("hello@^2.10", "2.12.1"),
        ("hello@>=2,<2.12", "2.10.0"),
        ("hello@2", "2.12.1"),
        ("goose", "1.2.3"),
        ("goose@^1", "1.2.3"),
        ("goose@*", "1.2.3"),
    ],
)
def test_install_takes_the_newest_version_that_fits(ctl, wanted, version):
    done = ctl("install", wanted, "--no-activate")

    name = wanted.partition("@")[0]
    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines()[0].startswith(f"Chose {name} {version}, of catalog /")
    assert ctl.json("show", f"{name}@{version}")["status"] != "created"


@pytest.mark.parametrize(
    ("wanted", "version"),
    [("goose@1.0", "1.0.0"), ("goose@2.0rc1", "2.0.0-rc1"), ("goose@2.0.0-rc1", "2.0.0-rc1")],
)
def test_an_exact_version_is_taken_as_it_is(ctl, wanted, version):
    package = ctl.json("install", wanted, "--no-activate")

    assert (package["version"], package["status"]) == (version, "downloaded")


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("hello@^9", "no catalog has hello ^9; there are: 2.12.1, 2.10.0 (pkgctl versions hello"),
        ("gosling", "of gosling there are only pre-releases: 0.1.0-beta (pkgctl install gosling@0"),
        ("goose@>1.2.3", "of goose >1.2.3 there are only pre-releases: 2.0.0-rc1 (pkgctl install"),
        ("secret", "of secret nothing may be had: 1.0.0 (unfree)"),
        ("hallo", "no catalog has hallo; did you mean hello"),
        ("hallo@^1", "no catalog has hallo; did you mean hello"),
        ("a/b", "no catalog has 'a/b'"),
    ],
)
def test_nothing_is_registered_where_nothing_fits(ctl, wanted, message):
    before = ctl.json("list")

    done = ctl("install", wanted)

    assert (done.exit_code, done.stdout) == (ExitCode.NOT_FOUND, "")
    assert done.stderr.startswith(f"Error: {message}")
    assert ctl.json("list") == before


def test_a_range_that_can_not_be_read_is_refused_with_what_can(ctl):
    done = ctl("install", "hello@>>1")

    assert (done.exit_code, done.stdout) == (ExitCode.REFUSED, "")
    assert "or a range: ^1.2, ~1.2, >=1,<2" in done.stderr


def test_the_hint_lists_ten_versions_at_most(unconfigured):
    offers = [{"version": f"{n}.0.0", "available": True, "prerelease": False} for n in range(12)]

    def answer(_, path):
        return FakeAnswer({"name": "app", "versions": [] if "version=" in path else offers})

    with FakeServer(answer) as server:
        done = unconfigured("install", "app@>20", "--url", server.url)

    assert "9.0.0 and 2 more (" in done.stderr


@pytest.mark.parametrize("versions", [[], [OLD_OFFER | {"prerelease": False, "available": True}]])
def test_a_catalog_that_can_not_be_asked_is_told(unconfigured, versions):
    failure = {"catalog": "/srv/bad", "message": "error: syntax error"}

    def answer(method, _):
        if method == "POST":
            return problem(403, "this needs scope operate")
        return FakeAnswer({"name": "app", "versions": versions, "failures": [failure]})

    with FakeServer(answer) as server:
        done = unconfigured("install", "app", "--url", server.url)

    assert "/srv/bad: error: syntax error\n" in done.stderr
    assert done.stderr.startswith("Warning: " if versions else "Error: ")
    assert done.exit_code == (ExitCode.NOT_ALLOWED if versions else ExitCode.REFUSED)


OFFER = OLD_OFFER | {"prerelease": False, "available": True}
FAILURE = {"catalog": "/srv/bad", "message": "error: syntax error"}


@pytest.mark.parametrize(
    ("version", "offers", "message"),
    [
        (
            "9.9.9",
            [],
            "Error: no catalog that answers has app 9.9.9; /srv/bad: error: syntax error",
        ),
        ("1.0.0", [OFFER], "Warning: /srv/bad: error: syntax error"),
    ],
)
def test_a_catalog_that_fails_is_told_from_one_that_lacks_a_version(
    unconfigured, version, offers, message
):
    def answer(method, path):
        if method == "POST":
            return problem(403, "this needs scope operate")
        found = {"name": "app", "versions": offers, "failures": [FAILURE]}
        return FakeAnswer(found if "/catalog/" in path else [])

    with FakeServer(answer) as server:
        done = unconfigured("install", f"app@{version}", "--url", server.url)

        assert (server.requests[-1][0] == "POST") == bool(offers)
    assert done.stderr.splitlines()[0] == message
    assert done.exit_code == (ExitCode.NOT_ALLOWED if offers else ExitCode.REFUSED)


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("unfree", "it has an unfree license (the server's ALLOW_UNFREE would allow it)"),
        ("insecure", "it is known to be insecure (the server's ALLOW_INSECURE would allow it)"),
        ("unsupported_platform", "it isn't made for the server's platform"),
        ("removed", "it is refused as removed"),
    ],
)
def test_what_is_refused_is_told_before_anything_is_registered(unconfigured, reason, said):
    offer = OFFER | {"available": False, "reason": reason}
    found = FakeAnswer({"name": "app", "versions": [offer], "failures": []})
    with FakeServer(lambda _, path: found if "/catalog/" in path else FakeAnswer([])) as server:
        done = unconfigured("install", "app@1.0.0", "--url", server.url)

        assert {method for method, *_ in server.requests} == {"GET"}
    assert (done.exit_code, done.stderr) == (
        ExitCode.NOT_FOUND,
        f"Error: app 1.0.0 can't be had: {said}\n",
    )


# --- a server of an older release ---


def older_server(method, path):
    """Answer as a server that knows no search, no list of catalogs and no ranges."""
    if method == "POST":
        return problem(403, "this needs scope operate")
    if "/catalog/" not in path:
        return NO_ROUTE
    if "version=" in path:
        return problem(422, "version: Unknown field.")
    return FakeAnswer({"name": "app", "versions": [OLD_OFFER], "failures": []})


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["search", "app"], "search the catalogs"),
        (["catalogs"], "list its catalogs"),
        (["install", "app"], "choose a version"),
        (["install", "app@^1"], "choose a version"),
    ],
)
def test_an_older_server_is_told_in_one_line(unconfigured, words, what):
    with FakeServer(older_server) as server:
        done = unconfigured(*words, "--url", server.url)

    message = f"Error: the server is of an older release, which can't {what}\n"
    assert (done.exit_code, done.stderr) == (ExitCode.REFUSED, message)


def test_an_older_server_takes_a_spelling(unconfigured):
    with FakeServer(older_server) as server:
        done = unconfigured("install", "app@1.0", "--url", server.url)

        assert "POST" in [method for method, *_ in server.requests]
    assert done.stderr == "Error: this needs scope operate\n"


def unknown_to_an_older_server(method, path):
    """Answer as an older server on which the download of a package fails: no catalog has it."""
    if method == "GET" and "/task/" in path:
        error = {"code": "version_unavailable", "message": "no catalog has it", "hint": "another"}
        return task_answer("failed", error=error)
    if method == "POST":
        return SCHEDULED if "/download" in path else PACKAGE
    return older_server(method, path) if "/catalog/" in path else FakeAnswer([])


def test_of_an_older_server_what_no_catalog_has_is_removed_again(unconfigured):
    with FakeServer(unknown_to_an_older_server) as server:
        done = unconfigured("install", "hello@9.9.9", "--url", server.url)

        assert server.requests[-1][:2] == ("DELETE", "/api/v1/package/1")
    assert done.exit_code == ExitCode.NOT_FOUND
    assert done.stdout.endswith("Removed hello 1.0.0 again: no catalog has it\n")


def test_a_refusal_of_a_route_that_is_there_stays_what_it_is(unconfigured):
    with FakeServer(lambda *_: problem(403, "this needs scope read")) as server:
        done = unconfigured("catalogs", "--url", server.url)

    assert (done.exit_code, done.stderr) == (7, "Error: this needs scope read\n")


# --- versions ---


@pytest.mark.parametrize("words", [["versions"], ["search", "--versions"]], ids=" ".join)
def test_the_versions_of_a_name_are_listed(ctl, words):
    assert [row[0] for row in ctl.rows(*words, "hello")] == ["2.12.1", "2.10.0"]
    assert [row[0] for row in ctl.rows(*words, "hello", "-n", 1)] == ["2.12.1"]
    assert ctl.json(*words, "hello")["name"] == "hello"


def test_a_prerelease_is_marked(ctl):
    rows = [[row[0], row[3], row[5], row[6]] for row in ctl.rows("versions", "goose")]

    assert rows == [
        ["2.0.0-rc1", "2.0rc1", "yes", "-"],
        ["1.2.3", "1.2.3", "-", "-"],
        ["1.0.0", "1.0", "-", "-"],
    ]


def test_an_unknown_name_suggests_similar_ones(ctl):
    done = ctl("versions", "hallo")

    assert done.exit_code == ExitCode.NOT_FOUND
    assert "did you mean hello" in done.stderr


@pytest.mark.parametrize("name", ["", "..", "hello/world"])
def test_a_name_that_no_url_can_have_is_not_found(ctl, name):
    done = ctl("versions", name)

    assert (done.exit_code, done.stdout) == (ExitCode.NOT_FOUND, "")
    assert done.stderr == f"Error: no catalog has {name!r}\n"


# --- search, with a server that has much to find ---

FOUND = [
    {"name": "hello", "version": "2.12.1", "description": "A program that greets " + "you " * 30},
    {"name": "hello-unfree", "version": None, "description": None},
    {"name": "größe", "version": "1.0.0", "description": "数" * 100},
]


@pytest.fixture
def searching(unconfigured):
    """The command, set up for a server that finds a lot; `server` has the requests."""
    with FakeServer(lambda *_: FakeAnswer(FOUND)) as server:
        unconfigured.environ["PKGCTL_URL"] = server.url
        unconfigured.server = server
        yield unconfigured


def test_a_search_in_a_pipe_has_whole_descriptions(searching):
    rows = searching.rows("search", "greet", "you")

    assert rows[0] == ["hello", "2.12.1", FOUND[0]["description"]]
    assert rows[1] == ["hello-unfree", "-", "-"]
    [(_, path, _)] = searching.server.requests
    assert parse_qs(urlsplit(path).query) == {"search": ["greet you"], "limit": ["1000"]}
    assert searching.json("search", "greet") == FOUND


def test_a_search_has_as_many_results_as_are_wanted(searching):
    assert [row[0] for row in searching.rows("search", "hello", "-n", 2)] == [
        "hello",
        FOUND[1]["name"],
    ]

    [(_, path, _)] = searching.server.requests
    assert parse_qs(urlsplit(path).query)["limit"] == ["2"]


@pytest.mark.parametrize(
    ("columns", "first", "last"),
    [
        (60, "A program that greets you you you you…", "数" * 18 + "…"),
        (49, "A program that greets you…", "数" * 13 + "…"),
        (10, "A…", "数" * 2 + "…"),
        (400, FOUND[0]["description"].strip(), "数" * 100),
    ],
)
def test_a_terminal_shows_descriptions_cut_at_a_word(searching, columns, first, last):
    searching.environ["COLUMNS"] = str(columns)
    terminal = searching.terminal("search", "hello")

    assert terminal.close() == 0
    header, hello, unfree, other = terminal.shown.splitlines()
    assert header.split() == ["NAME", "NEWEST", "DESCRIPTION"] or "\x1b[1m" in header
    assert hello.rstrip().endswith(f"  {first}")
    assert unfree.split()[1:] == ["-", "-"]
    assert other.rstrip().endswith(f"  {last}")
    assert columns < 49 or len(hello.rstrip()) <= columns


# --- catalogs ---

CATALOG = {
    "name": "nixpkgs-24.05",
    "source": "https://example.org/nixpkgs.tar.gz",
    "sha256": "0" * 52,
    "revision": "abc123",
    "dated_at": "2024-05-31T00:00:00.000Z",
    "added_at": "2024-06-01T00:00:00.000Z",
    "nix": None,
    "state": "ok",
    "packages": 80_000,
    "indexed_at": "2024-06-01T01:00:00.000Z",
}


def test_the_catalogs_are_listed_in_order(ctl, service):
    [bundled, own] = ctl.rows("catalogs")

    assert (bundled[0], own[0]) == (str(ROOT / "catalog"), str(service.catalog))
    assert own[-1] == str(service.catalog)


@pytest.mark.parametrize(
    ("about", "called"),
    [
        ({"kind": "index", "catalog": "nixpkgs-24.05"}, "index of nixpkgs-24.05"),
        ({"kind": "verify", "catalog": "nixpkgs-24.05"}, "verification of nixpkgs-24.05"),
        ({"kind": "apply", "profile": "web"}, "profile web"),
        ({"kind": "publish", "profile": "web"}, "cache of web"),
    ],
)
def test_a_task_without_a_package_is_listed_with_what_it_is_about(unconfigured, about, called):
    task = task_document(package_id=None, created_at="2024-06-01T00:00:00.000Z", **about)
    with FakeServer(lambda *_: FakeAnswer([task])) as server:
        [row] = unconfigured.rows("tasks", "--url", server.url)

    assert row[1:3] == [called, "running"]


def test_a_pin_is_listed_with_all_that_is_known_of_it(unconfigured):
    with FakeServer(lambda *_: FakeAnswer([CATALOG])) as server:
        [row] = unconfigured.rows("catalogs", "--url", server.url)

        assert row == [
            *("nixpkgs-24.05", "ok", "-", "80000", "2024-06-01T01:00:00Z", "-", "abc123"),
            *("2024-05-31T00:00:00Z", "-", "https://example.org/nixpkgs.tar.gz"),
        ]
        assert unconfigured.json("catalogs", "--url", server.url) == [CATALOG]


@pytest.mark.parametrize(
    ("more", "shown"),
    [
        ({"index": "current"}, "current"),
        (
            {"index": "in_progress", "index_progress": {"done": 1, "expected": 3}},
            "in progress, 33 %",
        ),
        ({"index": "in_progress", "index_progress": {"done": 0, "expected": 0}}, "in progress"),
        ({"index": "failed", "index_error": "no memory"}, "failed: no memory"),
        ({"index": "failed", "index_error": None}, "failed"),
    ],
)
def test_it_is_told_how_the_index_of_a_catalog_stands(unconfigured, more, shown):
    with FakeServer(lambda *_: FakeAnswer([CATALOG | more])) as server:
        [row] = unconfigured.rows("catalogs", "--url", server.url)

    assert row[2] == shown


@pytest.mark.parametrize(
    ("more", "shown"),
    [
        ({"verification": "current"}, "current"),
        ({"verification": "in_progress", "verified": 20000}, "in progress, 25 %"),
        ({"verification": "in_progress", "verified": 0, "packages": 0}, "in progress"),
    ],
)
def test_it_is_told_how_far_a_catalog_is_verified(unconfigured, more, shown):
    with FakeServer(lambda *_: FakeAnswer([CATALOG | more])) as server:
        [row] = unconfigured.rows("catalogs", "--url", server.url)

    assert row[5] == shown
