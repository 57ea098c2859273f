"""Tables on terminals of any width: what is cut, what is left out, short ids and ages."""

from datetime import UTC, datetime

import pytest
from harness import FakeAnswer, FakeServer, task_document
from rich.cells import cell_len

from pkgctl.tables import Column, age, fit, short_ids, text_column, time_column, words_column

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
COLUMNS = {
    "ID": Column(lambda one: one["id"]),
    "NAME": text_column(lambda one: one["name"]),
    "NOTE": words_column(lambda one: one["note"]),
    "MADE": time_column(lambda one: one["made"], rank=1),
    "FROM": text_column(lambda one: one.get("from"), rank=2),
}
ROW = {
    "id": 123456,
    "name": "a-long-name-without-any-space",
    "note": "several words of which some fit",
    "made": "2020-01-01T00:00:00.000Z",
    "from": "/srv/catalogs/ours/default.nix",
}


def line(row, width):
    """Return the one line of a table, without the space at its end."""
    return "  ".join(cells[0] for cells in fit([row], COLUMNS, width).values())


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_a_row_fits_the_terminal(width):
    assert cell_len(line(ROW, width)) <= width


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (200, ["ID", "NAME", "NOTE", "MADE", "FROM"]),
        (70, ["ID", "NAME", "NOTE", "MADE", "FROM"]),
        (60, ["ID", "NAME", "NOTE", "MADE"]),
        (40, ["ID", "NAME", "NOTE"]),
        (10, ["ID", "NAME", "NOTE"]),
    ],
)
def test_a_narrow_terminal_shows_the_columns_that_matter_most(width, shown):
    assert list(fit([ROW], COLUMNS, width)) == shown


def test_a_column_with_nothing_in_it_is_left_out_only_if_it_has_a_rank():
    assert list(fit([{**ROW, "from": None, "note": ""}], COLUMNS, 200)) == list(COLUMNS)[:4]


@pytest.mark.parametrize(
    ("row", "ending"),
    [
        ({"name": "n" * 90}, "n…"),
        ({"note": "word " * 30}, "word…"),
        ({"note": "x" * 90}, "x…"),
        ({"name": "名" * 90}, "名…"),
    ],
)
def test_what_is_cut_ends_with_an_ellipsis(row, ending):
    cut = next(name for name in COLUMNS if name.lower() in row)

    [cell] = fit([ROW | row], COLUMNS, 100)[cut]

    assert cell.endswith(ending)


@pytest.mark.parametrize(
    "path", ["/srv/" + "x" * 90 + "/ours", "/名" * 60 + "/ours", "/" + "名" * 60]
)
def test_of_a_path_the_end_is_kept(path):
    [cell] = fit([ROW | {"from": path}], COLUMNS, 120)["FROM"]

    assert cell.startswith("…")
    assert path.endswith(cell[1:])


@pytest.mark.parametrize(
    ("ids", "short"),
    [
        ([], []),
        (["0193abcd-0000-7000"], ["0193abcd"]),
        (["0193abcd-0000-7000"] * 2, ["0193abcd"] * 2),
        (["0193abcd-0000-7000", "0193abce-0000-7000"], ["0193abcd", "0193abce"]),
        (["0193abcd-01ff-7000", "0193abcd-0200-7000"], ["0193abcd-01", "0193abcd-02"]),
    ],
)
def test_ids_are_as_short_as_they_can_be(ids, short):
    assert short_ids(ids) == short


@pytest.mark.parametrize(
    ("time", "words"),
    [
        ("2026-11-27T12:00:00.400Z", "now"),
        ("2026-11-27T11:59:58.000Z", "2 s ago"),
        ("2026-11-27T11:57:00.000Z", "3 min ago"),
        ("2026-11-27T07:00:00.000Z", "5 h ago"),
        ("2026-11-20T12:00:00.000Z", "7 days ago"),
        ("2027-02-25T11:59:00.000Z", "in 90 days"),
        ("2026-05-27T12:00:00.000Z", "6 months ago"),
        ("2020-11-27T12:00:00.000Z", "6 years ago"),
        ("2026-11-27T13:30:00.000+01:00", "in 30 min"),
    ],
)
def test_a_time_is_told_as_an_age(time, words):
    assert age(time, NOW) == words


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_a_table_of_tasks_has_names_short_ids_and_ages(unconfigured, columns):
    task = task_document(created_at="2020-01-01T00:00:00.000Z")
    package = {"id": 1, "name": "hello", "version": "2.12.1"}
    unconfigured.environ["COLUMNS"] = str(columns)
    with FakeServer(lambda _, path: FakeAnswer([task] if "/tasks" in path else package)) as server:
        terminal = unconfigured.terminal("tasks", "--url", server.url)

        assert terminal.close() == 0
    row = terminal.shown.splitlines()[-1]
    assert row.startswith(f"{task['id'][:8]}  hello 2.12.1  ")
    assert " years ago  -" in row


def test_names_of_many_packages_are_asked_for_at_once(unconfigured):
    tasks = [
        task_document(package_id=n, created_at="2020-01-01T00:00:00.000Z") for n in range(1, 13)
    ]
    packages = [{"id": n, "name": f"p{n}", "version": "1.0.0"} for n in range(1, 12)]
    with FakeServer(lambda _, path: FakeAnswer(tasks if "/tasks" in path else packages)) as server:
        rows = unconfigured.rows("tasks", "--url", server.url)

        assert len(server.requests) == 2
    assert [row[1] for row in rows] == [*(f"p{n} 1.0.0" for n in range(1, 12)), "package 12"]


def test_a_package_that_was_removed_meanwhile_is_named_by_its_id(unconfigured):
    task = task_document(created_at="2020-01-01T00:00:00.000Z")
    gone = FakeAnswer({}, 404)
    with FakeServer(lambda _, path: FakeAnswer([task]) if "/tasks" in path else gone) as server:
        [row] = unconfigured.rows("tasks", "--url", server.url)

    assert row[1] == "package 1"


@pytest.mark.parametrize(("text", "is_short"), [("web e", True), ("web server", False)])
def test_a_search_for_a_short_word_that_finds_nothing_says_where_it_looked(
    unconfigured, text, is_short
):
    with FakeServer(lambda *_: FakeAnswer([])) as server:
        terminal = unconfigured.terminal("search", *text.split(), "--url", server.url)

        assert terminal.close() == 0
    assert ("are found where a name begins" in terminal.shown) == is_short


def test_an_empty_table_says_so_on_a_terminal_alone(unconfigured, fake_server):
    terminal = unconfigured.terminal("list", "--url", fake_server.url)

    assert (terminal.close(), terminal.shown) == (0, "There are none.\r\n")
    assert unconfigured("list", "--url", fake_server.url).stdout == ""
