"""Refusals: packages that a catalog has and does not provide, and catalogs for a newer Nix."""

import pytest
from support import CATALOGS, at

import nix

REASONS = {
    "unfree": "unfree",
    "broken": "broken",
    "insecure": "insecure",
    "foreign": "unsupported_platform",
    "foreign-old": "unsupported_platform",
}
ALL = nix.Allowed(unfree=True, broken=True, insecure=("insecure-1.0",))


@pytest.fixture(params=["new", "old"])
def refusing(request, tmp_path):
    """A catalog that refuses packages in the way of today's nixpkgs, and in that of 2016."""
    path = tmp_path / "refusals.nix"
    old = "true" if request.param == "old" else "false"
    path.write_text(
        f"{{ config }}: import {CATALOGS}/refusals.nix {{ inherit config; old = {old}; }}"
    )
    return str(path)


@pytest.fixture
def resolve(store, tmp_path):
    """Return a function that resolves in one catalog."""

    def resolve(catalog, name, version="1.0.0", **options):
        return nix.resolve(store, at(catalog), name, version, tmp=tmp_path / "tmp", **options)

    return resolve


@pytest.mark.parametrize(("name", "reason"), REASONS.items())
def test_a_refused_package_is_offered_with_the_reason(store, refusing, name, reason):
    (offer,) = nix.offers(store, at(refusing), name).versions

    assert (offer.version, offer.spelled, offer.available) == ("1.0.0", "1.0", False)
    assert offer.reason == reason


@pytest.mark.parametrize(("name", "reason"), REASONS.items())
def test_the_error_of_a_refused_package_has_the_reason_in_a_sentence(
    resolve, refusing, name, reason
):
    with pytest.raises(nix.Refused) as caught:
        resolve(refusing, name)

    error = caught.value
    assert (error.code, error.reason) == ("refused", reason)
    assert (error.catalog, error.attr, error.spelled) == (refusing, name, "1.0")
    assert str(error) == f"{name} 1.0 {nix.REFUSALS[reason][0]}"
    listed_as = ", as insecure-1.0" if reason == "insecure" else ""
    assert error.hint == nix.REFUSALS[reason][1] + listed_as


@pytest.mark.parametrize("others", ["{ }", "1"], ids=["none fails", "one fails"])
def test_a_later_catalog_provides_what_the_first_one_refuses(
    store, refusing, catalog, tmp_path, others
):
    provides = catalog("{ broken = package ''broken'' ''1.0'' { }; }", "provides")
    catalogs = at(catalog(others, "others"), refusing, provides)

    found = nix.resolve(store, catalogs, "broken", "1.0.0", tmp=tmp_path / "tmp")

    offers = nix.offers(store, catalogs, "broken").versions
    assert found.catalog == provides
    assert [(offer.catalog, offer.available) for offer in offers] == [
        (refusing, False),
        (provides, True),
    ]


@pytest.mark.parametrize("others", ["{ }", "1"], ids=["none fails", "one fails"])
def test_where_all_catalogs_refuse_the_first_one_tells_the_reason(
    store, refusing, catalog, tmp_path, others
):
    unfree = "{ type = ''derivation''; version = ''1''; meta = { available = false; unfree = true;"
    last = catalog(f"{{ broken = {unfree} }}; }}; }}", "last")
    catalogs = at(catalog(others, "others"), refusing, last)

    with pytest.raises(nix.Refused) as caught:
        nix.resolve(store, catalogs, "broken", "1.0.0", tmp=tmp_path / "tmp")

    assert (caught.value.catalog, caught.value.reason) == (refusing, "broken")


@pytest.mark.parametrize("name", ["unfree", "broken", "insecure"])
def test_what_is_allowed_is_not_refused(store, resolve, refusing, name):
    assert resolve(refusing, name, allowed=ALL).attr == name
    assert nix.offers(store, at(refusing), name, allowed=ALL).versions[0].available


def test_what_is_allowed_does_not_hide_another_reason(store, tmp_path):
    both = tmp_path / "both.nix"
    meta = "available = false; unfree = true; broken = true; insecure = true;"
    both.write_text(
        f"{{ app = {{ type = ''derivation''; version = ''1''; meta = {{ {meta} }}; }}; }}"
    )

    def reason(**allowed):
        found = nix.offers(store, at(str(both)), "app", allowed=nix.Allowed(**allowed))
        return found.versions[0].reason

    assert reason() == "unfree"
    assert reason(unfree=True) == "broken"
    assert reason(unfree=True, broken=True) == "insecure"


def test_a_refused_package_that_is_needed_is_named(resolve, refusing):
    with pytest.raises(nix.Refused, match=r"unfree-1\.0 has an unfree license") as caught:
        resolve(refusing, "needy")

    assert caught.value.reason == "unfree"


def test_a_removed_package_is_refused_with_the_catalogs_words(store, resolve, refusing):
    with pytest.raises(nix.Refused, match="gone was removed, since") as caught:
        resolve(refusing, "gone")
    (failure,) = nix.offers(store, at(refusing), "gone").failures

    assert (caught.value.reason, failure.reason) == ("removed", "removed")


def test_a_package_for_another_interpreter_is_refused_with_the_catalogs_words(
    store, resolve, catalog
):
    path = catalog("{ app = throw ''pyxml-0.8.4 not supported for interpreter python3.6m''; }")

    with pytest.raises(nix.Refused, match=r"pyxml-0\.8\.4 not supported for interp") as caught:
        resolve(path, "app")
    (failure,) = nix.offers(store, at(path), "app").failures

    assert (caught.value.reason, failure.reason) == ("unsupported_platform",) * 2
    assert "interpreter" in caught.value.hint


@pytest.mark.parametrize(
    "said", ["is marked as broken, refusing", r"because it has problems:\n- broken: It is."]
)
def test_an_attribute_that_throws_a_refusal_of_nixpkgs_has_its_reason(store, catalog, said):
    path = catalog(f"{{ app = throw \"Package 'app' in /x {said}\"; }}")

    (failure,) = nix.offers(store, at(path), "app").failures

    assert failure.reason == "broken"


def test_a_package_of_a_catalog_with_rules_is_found(resolve, refusing):
    assert resolve(refusing, "fine").attr == "fine"


def test_a_name_in_meta_gives_the_version_where_the_derivation_gives_none(store, catalog):
    refused = (
        "{ type = ''derivation''; name = throw ''no''; meta = { available = false; unfree = true;"
    )
    path = catalog(f"{{ app = {refused} name = ''app-1.5''; }}; }}; }}")

    (offer,) = nix.offers(store, at(path), "app").versions

    assert (offer.spelled, offer.reason) == ("1.5", "unfree")


# --- Names that are no packages ---


KINDS = {
    "{ a = 1; }": "app is a set of packages, which are named app.NAME",
    "x: x": "app is no package, but a function; did you mean apq?",
    "{ __functor = self: x: x; }": "app is no package, but a function; did you mean apq?",
    "''text''": "app is no package, but a string; did you mean apq?",
}


@pytest.mark.parametrize(("value", "message"), KINDS.items())
def test_the_kind_of_what_is_no_package_is_told(store, resolve, catalog, value, message):
    path = catalog(f"{{ app = {value}; apq = 1; }}")

    with pytest.raises(nix.NameUnknown) as caught:
        resolve(path, "app")

    found = nix.offers(store, at(path), "app")
    assert str(caught.value) == message
    assert str(nix.NameUnknown("app", found.near, found.kind)) == message


def test_a_package_without_a_version_is_told_to_be_one(resolve, catalog):
    path = catalog(
        "{ app = derivation { name = ''app''; system = ''builtin''; builder = ''x''; }; }"
    )

    with pytest.raises(nix.VersionUnavailable, match=r"to be had: 0.0.0 \(app has no version in"):
        resolve(path, "app")

    assert resolve(path, "app", "0.0.0").spelled == ""


MIXED = """{ config ? { } }:
let
  old = import %s/refusals.nix { inherit config; };
  free = derivation { name = "unfree-1.0"; system = "builtin"; builder = "builtin:none"; };
in { unfree = %s; unfree_1 = %s; broken = abort "cannot go on"; }
"""


@pytest.fixture
def mixed(tmp_path):
    """Return a function that writes a catalog with these values of two attributes."""

    def mixed(name, direct, sibling):
        path = tmp_path / f"{name}.nix"
        path.write_text(MIXED % (CATALOGS, direct, sibling))
        return str(path)

    return mixed


def test_a_later_attribute_that_may_be_had_is_taken_before_one_that_is_refused(
    store, resolve, mixed
):
    catalog = mixed("one", "old.unfree", "free")

    (offer,) = nix.offers(store, at(catalog), "unfree").versions

    assert (offer.attr, offer.available) == ("unfree_1", True)
    assert resolve(catalog, "unfree").attr == "unfree_1"


@pytest.mark.parametrize("is_broken", [False, True])
def test_a_later_catalog_is_asked_for_what_one_before_it_refuses(store, mixed, tmp_path, is_broken):
    refusing = mixed("one", "old.unfree", "7")
    broken = [mixed("broken", "abort ''no''", "7")] if is_broken else []
    having = mixed("two", "free", "7")
    tmp = tmp_path / "tmp"

    found = nix.resolve(store, at(refusing, *broken, having), "unfree", "1.0.0", tmp=tmp)
    with pytest.raises(nix.Refused) as caught:
        nix.resolve(store, at(refusing, *broken), "unfree", "1.0.0", tmp=tmp)

    assert (found.catalog, found.attr) == (having, "unfree")
    assert caught.value.catalog == refusing
