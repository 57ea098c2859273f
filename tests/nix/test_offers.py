"""Offers: the versions of a name in all catalogs."""

import pytest
from support import at

import nix
from nix import Offer, Offers


@pytest.fixture
def offers(store):
    """Return a function that returns what the given catalogs offer."""

    def offers(name, *catalogs):
        return nix.offers(store, at(*catalogs), name)

    return offers


def versions(found):
    """Return the versions of offers, in order."""
    return [offer.version for offer in found.versions]


def failures(found):
    """Return the catalogs that failed, with the message of the error."""
    return [(failure.catalog, failure.message) for failure in found.failures]


def test_the_newest_version_comes_first(offers, catalog):
    texts = ["1.9", "1.10.0", "1.10.0-rc1", "odd", "2.0.0.1", "1.0-01.2"]
    text = " ".join(f"foo_{n} = package ''foo'' ''{v}'' {{ }};" for n, v in enumerate(texts))

    found = offers("foo", catalog(f"{{ {text} }}"))

    assert versions(found)[:3] == ["2.0.0+1", "1.10.0", "1.10.0-rc1"]
    assert versions(found)[3:] == ["1.9.0", "1.0.0+01.2", "0.0.0+odd"]
    assert [offer.spelled for offer in found.versions][-1] == "odd"
    assert (found.near, found.failures) == ((), ())


def test_a_version_is_listed_once_for_each_catalog(offers, catalog):
    one = catalog("rec { foo = package ''foo'' ''1.0'' { }; foo_1 = foo; }", "one")
    two = catalog("{ foo = package ''foo'' ''1.0'' { }; }", "two")

    found = offers("foo", one, two)

    both = [Offer("1.0.0", "1.0", name, "foo") for name in (one, two)]
    assert found == Offers(tuple(both))


def test_of_two_spellings_of_a_version_the_first_attribute_is_the_one_to_be_had(offers, catalog):
    path = catalog("{ foo = package ''foo'' ''1.0'' { }; foo_1 = package ''foo'' ''1.0.0'' { }; }")

    found = offers("foo", path).versions

    assert found[0] == Offer("1.0.0", "1.0.0", path, "foo_1", "shadowed")
    assert found[1] == Offer("1.0.0", "1.0", path, "foo")
    assert [offer.available for offer in found] == [False, True]


def test_derivations_are_not_evaluated(offers, catalog):
    unfree = "package ''foo'' ''1.0.0'' { } // { drvPath = throw ''unfree''; }"

    assert versions(offers("foo", catalog(f"{{ foo = {unfree}; }}"))) == ["1.0.0"]


def test_a_missing_version_is_taken_from_the_name(offers, catalog):
    path = catalog("{ foo = removeAttrs (package ''foo'' ''1.5'' { }) [ ''version'' ''pname'' ]; }")

    assert versions(offers("foo", path)) == ["1.5.0"]


def test_a_package_without_any_version_is_offered_as_zero(offers, catalog):
    path = catalog("{ foo = { type = ''derivation''; version = throw ''no''; }; }")

    assert offers("foo", path).versions == (Offer("0.0.0", "", path, "foo"),)


def test_an_unknown_name_has_similar_names(offers, catalog):
    found = offers("set.helo", catalog("{ set.hello = 1; set.help = 1; }"))

    assert found == Offers(near=("set.hello", "set.help"))


def test_a_faulty_catalog_is_reported(offers, catalog):
    bad = catalog("1", "bad")
    good = catalog("{ foo = package ''foo'' ''1.0.0'' { }; }")

    found = offers("foo", bad, good)

    assert versions(found) == ["1.0.0"]
    assert failures(found) == [(bad, f"catalog {bad} is not a set of packages")]


def test_the_reason_why_a_known_name_has_no_version_is_reported(offers, catalog):
    removed = catalog("{ foo = throw ''gone''; }", "removed")

    assert failures(offers("foo", removed, catalog("{ }"))) == [(removed, "gone")]


def test_an_exception_of_a_tick_ends_the_evaluation(store, catalog):
    def tick(log, progress):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        nix.offers(store, at(catalog("{ }")), "foo", tick=tick)
