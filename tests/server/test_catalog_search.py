"""Searching the catalogs: what is found, in which order, and page by page."""

import pytest
from support import CATALOGS, SQLITE

from catalogs import offers as catalog_offers
from catalogs.models import CatalogIndex, IndexedName
from models import db, utcnow

NAMES = {
    "git": ("2.40", "A distributed version control system"),
    "gitea": ("1.2", "Git with a cup of tea"),
    "git-lfs": ("3.0", "Large files"),
    "legit": ("1.0", "Helpers"),
    "tig": ("2.5", "Text-mode interface for git"),
    "mercurial": ("6.0", "A version control system"),
    "go": ("1.22", "A language"),
    "Gopher": ("1.0", "An animal"),
    "per%cent": ("1.0", "100% of it_all"),
    "plain": ("1.0", "100 of it all"),
}


@pytest.fixture
def settings(settings):
    """The settings of an application with an index."""
    return settings | {"INDEX_BYTES": 2**30, "CATALOGS": CATALOGS / "tools.nix"}


@pytest.fixture
def fill(app):
    """Return a function that gives the catalog an index with these offers."""

    def fill(offers, *, is_finished=True):
        with app.app_context():
            index = CatalogIndex(
                catalog=str(CATALOGS / "tools.nix"),
                signature=str(db.session.query(CatalogIndex).count()),
                finished_at=utcnow() if is_finished else None,
            )
            db.session.add(index)
            db.session.flush()
            row = {"homepage": None, "license": None, "reason": None, "description": None}
            catalog_offers.add([{**row, "index_id": index.id, **offer} for offer in offers])
            db.session.commit()
            return index.id

    return fill


def offer(name, spelled, description=None, attr=None, **more):
    """Return the row of an offer."""
    fields = {"attr": attr or name, "pname": name, "name": name, "spelled": spelled}
    return {**fields, "version": f"{spelled}.0", "description": description, **more}


@pytest.fixture
def filled(fill):
    """An index with the offers above."""
    fill(offer(name, *rest) for name, rest in NAMES.items())


@pytest.fixture
def find(client):
    """Return a function that returns the names that a search finds."""

    def find(text, **query):
        answer = client.get("/api/v1/catalog", query_string={"search": text, **query})
        assert answer.status_code == 200, answer.json
        return [hit["name"] for hit in answer.json]

    return find


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("git", ["git", "gitea", "git-lfs", "legit", "tig"]),
        ("GIT", ["git", "gitea", "git-lfs", "legit", "tig"]),
        ("version control", ["git", "mercurial"]),
        ("go", ["go", "Gopher"]),
        ("g", ["go", "git", "gitea", "Gopher", "git-lfs"]),
        ("g version", ["git"]),
        ("g gi", ["git", "gitea", "git-lfs"]),
        ("100%", ["per%cent"]),
        ("it_all", ["per%cent"]),
        ('"git" OR name : "x', []),
        ("git* AND", []),
        ("nosuch", []),
        ("(((", []),
        ("''';--", []),
    ],
)
def test_names_come_before_descriptions_and_no_text_is_syntax(filled, find, text, names):
    assert find(text) == names


def test_a_name_has_its_newest_version_that_may_be_had_and_a_description(fill, client):
    fill(
        [
            offer("tool", "1.9", "An old tool"),
            offer("tool", "1.10", "A tool", "tool_1"),
            offer("tool", "2.0-rc1", "A draft", "tool_2"),
            offer("tool", "3.0", "A secret", "tool_3", reason="unfree"),
            offer("tool-draft", "1.0-rc1"),
            offer("tool-refused", "1.0", "Not for you", reason="broken"),
        ]
    )

    hits = client.get("/api/v1/catalog?search=tool").json

    assert hits == [
        {"name": "tool", "version": "1.10.0", "description": "A tool"},
        {"name": "tool-draft", "version": "1.0-rc1.0", "description": None},
        {"name": "tool-refused", "version": None, "description": "Not for you"},
    ]
    (hit,) = client.get("/api/v1/catalog?search=tool_3").json
    assert hit == {"name": "tool_3", "version": None, "description": "A secret"}


def test_pages_follow_each_other(filled, client, find):
    first = client.get("/api/v1/catalog?search=git&limit=2")

    assert first.headers["X-Total-Count"] == "5"
    assert first.headers["Link"] == '</api/v1/catalog?search=git&limit=2&after=gitea>; rel="next"'
    assert find("git", limit=2, after="gitea") == ["git-lfs", "legit"]
    last = client.get("/api/v1/catalog?search=git&limit=2&after=legit")
    assert ([hit["name"] for hit in last.json], "Link" in last.headers) == (["tig"], False)
    assert find("git", after="legitx") == ["tig"]


def test_a_total_is_counted_up_to_a_bound(filled, client, monkeypatch):
    monkeypatch.setattr("catalogs.search.COUNTED", 3)

    answer = client.get("/api/v1/catalog?search=git")

    assert (answer.headers["X-Total-Count"], len(answer.json)) == ("3", 5)


def test_only_the_newest_index_is_searched(filled, fill, find):
    fill([offer("other", "1.0")])

    assert (find("git"), find("oth")) == ([], ["other"])


def test_an_index_that_is_being_made_is_not_searched(filled, fill, find):
    fill([offer("gitless", "1.0"), offer("legit", "2.0")], is_finished=False)

    assert find("git") == ["git", "gitea", "git-lfs", "legit", "tig"]


def test_a_name_goes_with_the_last_offer_of_it_and_a_description_with_its_index(app, fill, find):
    old = fill([offer("kept", "1.0", "An old word"), offer("gone", "1.0", "An old word")])
    fill([offer("kept", "1.1", "Another word"), offer("kept", "1.2", "Another word", "kept_2")])
    assert find("gone") == []

    with app.app_context():
        while catalog_offers.remove_batch(old):
            db.session.commit()
        names = db.session.query(IndexedName.name, IndexedName.descriptions).all()

    assert names == [("kept", "another word")]
    assert (find("old"), find("another"), find("gone")) == ([], ["kept"], [])


ODD = ["%", "''''", "%%%", "___", r"\\\\", '"""', "😀😀😀", "ß" * 128]


@pytest.mark.parametrize("text", ODD)
def test_an_odd_text_finds_what_holds_it_and_nothing_else(fill, client, text):
    fill([offer("plain", "1.0"), offer("odd", "1.0", f"It holds >{text}< here")])

    answer = client.get("/api/v1/catalog", query_string={"search": text, "after": "!😀"})

    found = ["odd"] if len(text) > 2 else []
    assert [hit["name"] for hit in answer.json] == found
    assert answer.headers["X-Total-Count"] == str(len(found))


@pytest.mark.parametrize("counted", [1, 1000])  # where many fit, they are looked for in parts
@pytest.mark.parametrize("text", ["git", "version control", "g", "l", "it", "100"])
def test_pages_of_one_are_the_list(filled, client, find, text, counted, monkeypatch):
    monkeypatch.setattr("catalogs.search.COUNTED", counted)
    names, query = [], {"search": text, "limit": 1}
    while page := client.get("/api/v1/catalog", query_string=query):
        names += [hit["name"] for hit in page.json]
        if "Link" not in page.headers:
            break
        query["after"] = names[-1]

    assert names == find(text)
    assert page.headers["X-Total-Count"] == str(min(counted, len(names)))


@pytest.fixture
def unindexed(settings, tmp_path):
    """A catalog without an index behind the one that has one; request it before any application."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "default.nix").write_text("{ git = 1; gitlab = 1; legit = 1; tig = 1; }")
    settings["CATALOGS"] = f"{settings['CATALOGS']} {tmp_path}/own"


@pytest.mark.parametrize("counted", [1, 1000])
def test_names_of_catalogs_without_an_index_come_in_between(
    unindexed, filled, client, find, counted, monkeypatch
):
    monkeypatch.setattr("catalogs.search.COUNTED", counted)
    assert find("git") == ["git", "gitea", "gitlab", "git-lfs", "legit", "tig"]
    assert find("t") == ["tig"]
    assert find("git", limit=2, after="gitea") == ["gitlab", "git-lfs"]
    assert client.get("/api/v1/catalog?search=git").headers["X-Total-Count"] in ("1", "6")


def test_without_an_index_the_names_are_searched(client, find):
    names = find("app")

    assert names[0] == "app"
    hit = client.get("/api/v1/catalog?search=app").json[0]
    assert (hit["version"], hit["description"]) == (None, None)


@pytest.fixture
def broken(settings, tmp_path):
    """A catalog that fails, before the other one; request it before any application."""
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "default.nix").write_text("{")
    settings["CATALOGS"] = f"{tmp_path}/broken {settings['CATALOGS']}"


@SQLITE
def test_a_catalog_that_fails_has_no_names(broken, find):
    assert find("app")[0] == "app"
    assert find("app")[0] == "app"


@pytest.mark.parametrize("query", ["", "search=", "search=%20", "search=a%00", "search=x&limit=0"])
def test_a_search_for_nothing_is_refused(client, query):
    assert client.get(f"/api/v1/catalog?{query}").status_code == 422
