"""Ranges: which of a catalog's versions are meant by an exact version, a spelling, or a range."""

from urllib.parse import quote

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from semver import Version
from spellings import PRERELEASES, RELEASES
from support import SQLITE

import nix

DETERMINISTIC = settings(derandomize=True, deadline=None, database=None)
NUMBERS = st.integers(0, 30)
SPELLED = st.sampled_from([*RELEASES, *PRERELEASES]) | st.builds(
    "{}.{}.{}{}".format,
    NUMBERS,
    NUMBERS,
    NUMBERS,
    st.sampled_from(["", "-29", "-rc1", "+4", "-1+b", "~beta2", ".7", "k"]),
)
PIECES = st.sampled_from([*"~^<>=!,*.+- \t09vx", "1.2", "1.2.3", "-rc1", "+4", "==", "é", "\n"])


def offer(spelled):
    """Return an offer of a version that a catalog spells so."""
    return nix.Offer(nix.semantic(spelled), spelled, "catalog", "attr")


def selected(wanted, *spelled):
    """Return which of the versions that a catalog spells so are meant."""
    return [one.spelled for one in nix.matching(map(offer, spelled), wanted)]


VERSIONS = ("3.0.0-rc1", "2.10.5", "2.10", "2.0.0", "1.9.9", "1.2.3.4", "1.2.3", "1.2.0", "0.3.1")


@pytest.mark.parametrize(
    ("wanted", "spelled"),
    [
        ("2.0.0", ["2.0.0"]),
        ("2.10", ["2.10"]),  # what a catalog spells so
        ("2.10.0", ["2.10"]),
        ("2", ["2.10.5", "2.10", "2.0.0"]),
        ("1.2.3", ["1.2.3"]),
        ("1.2.3+4", ["1.2.3.4"]),
        ("1.2.3.4", ["1.2.3.4"]),
        ("==1.2.3", ["1.2.3.4", "1.2.3"]),
        ("==1.2.3+4", ["1.2.3.4"]),
        ("==1.2", ["1.2.3.4", "1.2.3", "1.2.0"]),
        ("^1.2.1", ["1.9.9", "1.2.3.4", "1.2.3"]),
        ("~1.2", ["1.2.3.4", "1.2.3", "1.2.0"]),
        ("~1.2.1", ["1.2.3.4", "1.2.3"]),
        (" >= 1.2.3 , < 2 ", ["1.9.9", "1.2.3.4", "1.2.3"]),
        ("<=1.2.3", ["1.2.3.4", "1.2.3", "1.2.0", "0.3.1"]),
        (">1.2.3,<2", ["1.9.9"]),
        (">1.2.3+3,<2", ["1.9.9"]),  # build metadata has no order
        (">2.10.4,!=2.10.5", ["3.0.0-rc1"]),
        (">=3", []),
        (">=3.0.0-alpha", ["3.0.0-rc1"]),
        ("^0.3", ["0.3.1"]),
        ("^2.0.0-rc1", ["2.10.5", "2.10", "2.0.0"]),
        ("~2.0.0-rc1+4", ["2.0.0"]),
        ("^0.3.1-rc1", ["0.3.1"]),
        ("^0.0.1-rc1", []),
        ("9.9.9", []),
        ("*", list(VERSIONS)),
    ],
)
def test_a_range_means_these_versions(wanted, spelled):
    assert selected(wanted, *VERSIONS) == spelled


@pytest.mark.parametrize(
    ("wanted", "spelled"),
    [
        ("^7.1.1", ["7.1.1-29", "7.1.1-28"]),
        ("<=7.1.1", ["7.1.1-29", "7.1.1-28", "7.1.0"]),
        ("<7.1.1", ["7.1.0"]),
        ("7.1.1-28", ["7.1.1-28"]),
        ("==7.1.1-28", ["7.1.1-28"]),
        ("!=7.1.1-29,>=7.1.1", ["7.1.1-28"]),
        (">7.1.1-28", []),
        (">=7.1.1-28", ["7.1.1-29", "7.1.1-28"]),
    ],
)
def test_a_hyphen_that_makes_no_prerelease_is_compared_as_build_metadata(wanted, spelled):
    assert selected(wanted, "7.1.1-29", "7.1.1-28", "7.1.0") == spelled


@pytest.mark.parametrize("wanted", ["9.6p1", "1.0~rc1", "unstable-2024-01-15", "1.0-1,2"])
def test_what_a_catalog_spells_so_is_exact_though_it_is_no_range(wanted):
    assert selected(wanted, "9.7.0", wanted, "9.6.0") == [wanted]


UNREADABLE = [
    "",
    "new",
    "^",
    ">>1",
    "1.2,",
    "9.6p1",
    ">=01.2",
    "^1.x",
    "1 - 2",
    "1.0 k",
    "^1.2-rc1",
]


@pytest.mark.parametrize("wanted", UNREADABLE)
def test_what_is_no_range_is_refused_with_what_can_be_written(wanted):
    with pytest.raises(ValueError, match=r"\^1\.2, ~1\.2, >=1,<2"):
        selected(wanted, "1.0.0")


@DETERMINISTIC
@given(SPELLED, SPELLED)
@example("1.2.3.4", "1.2.3")
@example("7.1.1-29", "7.1.1")
def test_comparisons_part_all_versions_in_two(spelled, bound):
    version = nix.semantic(bound)
    below, above = (selected(f"{operator}{version}", spelled) for operator in ("<", ">="))
    up_to, beyond = (selected(f"{operator}{version}", spelled) for operator in ("<=", ">"))

    # A pre-release of the bound itself is not below it, as SimpleSpec has it.
    parsed = Version.parse(nix.semantic(spelled))
    is_own = nix.is_prerelease(spelled) and parsed.to_tuple()[:3] == Version.parse(version)[:3]
    assume(not is_own or nix.is_prerelease(bound))
    assert sorted([*below, *above]) == sorted([*up_to, *beyond]) == [spelled]


@DETERMINISTIC
@given(st.lists(SPELLED, max_size=8, unique=True), SPELLED)
def test_a_range_leaves_the_order_and_adds_nothing(spelled, bound):
    for operator in ("", "^", "~", ">", "<=", "=="):
        found = selected(f"{operator}{nix.semantic(bound)}", *spelled)
        assert found == [one for one in spelled if one in found]


@DETERMINISTIC
@given(SPELLED)
def test_every_version_is_in_the_ranges_that_name_it(spelled):
    version = nix.semantic(spelled)

    for wanted in (
        spelled,
        version,
        *(f"{each}{version}" for each in ("==", ">=", "<=", "^", "~")),
    ):
        assert selected(wanted, spelled) == [spelled]
    assert selected(f">{version}", spelled) == selected(f"!={version}", spelled) == []


@DETERMINISTIC
@given(st.lists(PIECES, max_size=8).map("".join) | st.text(max_size=20))
def test_any_text_is_a_range_or_refused(wanted):
    try:
        found, told = selected(wanted, *VERSIONS), ""
    except ValueError as error:
        found, told = [], str(error)
    assert set(found) <= set(VERSIONS)
    assert not told or "Write an exact version" in told


# --- The route ---


def shown(client, name, wanted):
    """Return which versions the route shows of those that are wanted."""
    answer = client.get(f"/api/v1/catalog/{name}?version={quote(wanted)}")
    assert answer.status_code == 200, answer.json
    return [offer["version"] for offer in answer.json["versions"]]


@pytest.mark.parametrize(
    ("wanted", "versions"),
    [
        ("^2.11", ["2.12.1"]),
        (">=2,<2.11", ["2.10.0"]),
        ("2.10.0", ["2.10.0"]),
        (">9", []),
        ("*", ["2.12.1", "2.10.0"]),
    ],
)
def test_the_catalog_shows_the_versions_in_a_range(client, wanted, versions):
    assert shown(client, "hello", wanted) == versions


@SQLITE
@pytest.mark.parametrize("wanted", UNREADABLE)
def test_a_range_that_can_not_be_read_is_a_422(client, wanted):
    answer = client.get(f"/api/v1/catalog/hello?version={quote(wanted)}")

    assert answer.status_code == 422
    assert list(answer.json["errors"]) == ["version"]


@SQLITE
@pytest.mark.parametrize("wanted", ["1" * 201, "1.0\x1b", "1.0\n"])
def test_a_range_is_short_and_plain_text(client, wanted):
    assert client.get(f"/api/v1/catalog/hello?version={quote(wanted)}").status_code == 422


@SQLITE
def test_an_unknown_name_is_a_404_in_any_range(client):
    assert client.get("/api/v1/catalog/helo?version=^1").status_code == 404


CATALOG = """
let app = version: {
  type = "derivation"; name = "app-${version}"; pname = "app"; inherit version;
};
in builtins.mapAttrs (_: app) { @VERSIONS@ }
"""


@pytest.fixture
def offering(make_app, client, tmp_path):
    """Return a function that has the client ask for versions that a catalog spells so."""

    def offering(*spelled):
        attributes = " ".join(f'app_{n} = "{one}";' for n, one in enumerate(spelled))
        (tmp_path / "catalog.nix").write_text(CATALOG.replace("@VERSIONS@", attributes))
        client.application = make_app(CATALOGS=tmp_path / "catalog.nix")
        return client

    return offering


@SQLITE
def test_a_prerelease_is_told_by_its_words(offering):
    answer = offering("2.0~rc1", "1.1-2", "1.0").get("/api/v1/catalog/app")

    assert [(one["version"], one["prerelease"]) for one in answer.json["versions"]] == [
        ("2.0.0-rc1", True),
        ("1.1.0+2", False),
        ("1.0.0", False),
    ]


@SQLITE
def test_a_range_in_a_url_finds_spellings_and_build_metadata(offering):
    client = offering("9.6p1", "9.5", "7.1.1-29")

    assert shown(client, "app", "9.6p1") == shown(client, "app", "9.6.0+p1") == ["9.6.0+p1"]
    assert shown(client, "app", "^7.1.1") == ["7.1.1-29"]
