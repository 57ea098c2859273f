"""Offers: every version that the catalogs have of a name."""

import pytest
from writer import writer

import nix
from nix import Offer, Offers


@pytest.fixture
def catalog(tmp_path):
    """Return a function that writes a catalog and returns its path."""
    return writer(tmp_path)


@pytest.fixture
def offers(store):
    """Return a function that asks the given catalogs what they offer."""

    def offers(name, *catalogs):
        return nix.offers(store, catalogs, name)

    return offers


def versions(found):
    """Return the versions of offers, in order."""
    return [offer.version for offer in found.versions]


def test_the_offers_are_told_newest_first(offers, catalog):
    texts = ["1.9", "1.10.0", "1.10.0-rc1", "odd", "2.0.0.0", "1.0-01.2"]
    text = " ".join(f"foo_{n} = package ''foo'' ''{v}'' {{ }};" for n, v in enumerate(texts))

    found = offers("foo", catalog(f"{{ {text} }}"))

    assert versions(found)[:3] == ["1.10.0", "1.10.0-rc1", "1.9.0"]
    assert versions(found)[3:] == ["2.0.0.0", "1.0-01.2", "odd"]
    assert (found.near, found.failures) == ((), ())


def test_an_offer_is_told_once_for_each_catalog(offers, catalog):
    one = catalog("rec { foo = package ''foo'' ''1.0'' { }; foo_1 = foo; }", "one")
    two = catalog("{ foo = package ''foo'' ''1.0.0'' { }; }", "two")

    found = offers("foo", one, two)

    assert found == Offers((Offer("1.0.0", one, "foo"), Offer("1.0.0", two, "foo")))


def test_the_offers_do_not_evaluate_derivations(offers, catalog):
    unfree = "package ''foo'' ''1.0.0'' { } // { drvPath = throw ''unfree''; }"
    assert versions(offers("foo", catalog(f"{{ foo = {unfree}; }}"))) == ["1.0.0"]


def test_a_version_that_is_not_written_is_read_from_the_name(offers, catalog):
    path = catalog("{ foo = removeAttrs (package ''foo'' ''1.5'' { }) [ ''version'' ''pname'' ]; }")

    assert versions(offers("foo", path)) == ["1.5.0"]


def test_a_package_that_is_broken_in_every_way_offers_nothing(offers, catalog):
    path = catalog("{ foo = { type = ''derivation''; version = throw ''no''; }; }")

    assert offers("foo", path).versions == ()


def test_the_offers_for_an_unknown_name_are_names_near_it(offers, catalog):
    found = offers("set.helo", catalog("{ set.hello = 1; set.help = 1; }"))

    assert found == Offers(near=("set.hello", "set.help"))


def test_the_offers_tell_which_catalogs_fail(offers, catalog):
    bad = catalog("1", "bad")
    good = catalog("{ foo = package ''foo'' ''1.0.0'' { }; }")

    found = offers("foo", bad, good)

    assert versions(found) == ["1.0.0"]
    assert found.failures == ((bad, f"catalog {bad} is not a set of packages"),)


def test_the_offers_tell_why_a_known_name_has_none(offers, catalog):
    removed = catalog("{ foo = throw ''gone''; }", "removed")

    assert offers("foo", removed, catalog("{ }")) == Offers(failures=((removed, "gone"),))


def test_what_a_tick_raises_ends_the_evaluation(store, catalog):
    def tick(log, progress):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        nix.offers(store, [catalog("{ }")], "foo", tick=tick)
