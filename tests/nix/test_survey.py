"""The survey of a whole catalog, and the rule of siblings' names."""

import json
import random
import time

import pytest
from support import at

import nix
import nix.survey
from nix import Survey

LETTERS = [*"0179_.-xRab", "stable", "Latest", "LTS", "git", "Old", "unstable", "LATEST"]


def catalog_at(path):
    """Return the catalog at a path."""
    return at(path)[0]


def test_facts_are_in_order_and_tell_sets_from_packages(store, catalog):
    path = catalog(
        "{ b = package ''b'' ''1.0'' { }; a = 7; s.recurseForDerivations = true; t.x = 1;"
        " gone = throw ''x''; }"
    )
    survey = Survey(store, catalog_at(path))

    found = survey.facts({"": survey.names()}, nix.Found())

    assert found.failures == {}
    assert [fact.attr for fact in found.known] == ["a", "b", "gone", "s", "t"]
    assert [fact.attr for fact in found.known if fact.is_package] == ["b"]
    assert [fact.attr for fact in found.known if fact.is_set] == ["s"]
    assert [fact.attr for fact in found.known if fact.throws] == ["gone"]


def test_a_set_that_is_none_has_no_names(store, catalog):
    path = catalog("{ a = 7; s.t.u = 8; }")
    survey = Survey(store, catalog_at(path))

    assert [survey.names(within) for within in ("a", "s.t", "s.none.x")] == [[], ["u"], []]
    assert survey.facts({"s": ["gone"]}, nix.Found()).known[0].throws


def test_only_the_attribute_at_fault_fails(store, catalog):
    names = [f"a{number}" for number in range(9)]
    text = " ".join(f"{name} = package ''{name}'' ''1'' {{ }};" for name in names)
    path = catalog(f"{{ bad = abort ''stop''; {text} }}")
    survey = Survey(store, catalog_at(path))

    found = survey.facts({"": survey.names()}, nix.Found())

    assert [fact.attr for fact in found.known] == names
    assert list(found.failures) == ["bad"]
    assert "stop" in str(found.failures["bad"])


def test_more_names_are_evaluated_than_fit_in_an_argument(store, catalog):
    name = f"a{'b' * 120}"
    each = f"n: {{ name = ''{name}'' + toString (1000 + n); value = n; }}"
    path = catalog(f"builtins.listToAttrs (builtins.genList ({each}) 2000)")
    survey = Survey(store, catalog_at(path))

    found = survey.facts({"": survey.names()}, nix.Found())

    assert [fact.attr for fact in found.known] == [f"{name}{n}" for n in range(1000, 3000)]
    assert found.failures == {}


def test_a_catalog_of_which_nothing_can_be_evaluated_is_given_up(store, catalog, monkeypatch):
    monkeypatch.setattr(nix.survey, "HOPELESS", 3)
    path = catalog("{" + " ".join(f"a{n} = abort ''{n}'';" for n in range(9)) + "}")
    survey = Survey(store, catalog_at(path))

    with pytest.raises(nix.EvaluationFailed, match="2"):
        survey.facts({"": survey.names()}, nix.Found())


def test_an_evaluation_ends_at_its_bound_of_memory(store, catalog):
    big = "builtins.stringLength (builtins.toJSON (builtins.genList (n: toString n) 3000000))"
    path = catalog(f"{{ big = package (toString ({big})) ''1'' {{ }}; small = 7; }}")
    survey = Survey(store, catalog_at(path), heap=64 * 1024 * 1024)

    found = survey.facts({"": survey.names()}, nix.Found())

    assert [fact.attr for fact in found.known] == ["small"]
    assert list(found.failures) == ["big"]


MANY = "(builtins.genList (n: n) 30000)"
COUNT = f"builtins.foldl' (a: _: builtins.foldl' (b: _: b + 1) a {MANY}) 0 {MANY}"
ENDLESS = f"package (toString ({COUNT})) ''1'' {{ }}"


def test_an_attribute_without_an_end_fails_alone_and_leaves_the_others_less_time(
    store, catalog, monkeypatch
):
    for name in ("CPU_SECONDS", "LEAST_CPU_SECONDS"):
        monkeypatch.setattr(nix.survey, name, 0.3)
    survey = Survey(store, catalog_at(catalog(f"{{ a = 7; slow = {ENDLESS}; z = 7; }}")))

    found = survey.facts({"": survey.names()}, nix.Found())

    assert [fact.attr for fact in found.known] == ["a", "z"]
    assert str(found.failures["slow"]) == "it took more than 0.3 s of CPU"
    assert (survey.slow, survey._query().seconds) == (1, 300)


def test_a_catalog_with_many_attributes_without_an_end_is_given_up(store, catalog, monkeypatch):
    monkeypatch.setattr(nix.survey, "CPU_SECONDS", 0.3)
    monkeypatch.setattr(nix.survey, "LEAST_CPU_SECONDS", 0.3)
    monkeypatch.setattr(nix.survey, "SLOW", 1)
    survey = Survey(store, catalog_at(catalog(f"{{ slow = {ENDLESS}; z = 7; }}")))

    with pytest.raises(nix.TimedOut):
        survey.facts({"": ["slow", "z"]}, nix.Found())


def test_a_set_of_which_nothing_can_be_evaluated_is_given_up_alone(store, catalog, monkeypatch):
    monkeypatch.setattr(nix.survey, "HOPELESS", 2)
    bad = " ".join(f"a{n} = abort ''{n}'';" for n in range(4))
    survey = Survey(store, catalog_at(catalog(f"{{ s = {{ {bad} }}; z = 7; }}")))

    found = survey.facts({"s": ["a0", "a1", "a2", "a3"], "": ["z"]}, nix.Found())

    assert list(found.failures) == ["s.a0", "s.a1", "s"]
    assert [fact.path for fact in found.known] == ["z"]


@pytest.mark.parametrize("told", ["{}", "@other"])
def test_a_catalog_that_writes_what_is_ours_is_not_believed(store, catalog, told):
    fact = dict.fromkeys(("attr", "pname", "spelled", "version"), "other")
    fact |= dict.fromkeys(("isPackage", "isSet", "throws"), False)
    text = told.replace("@other", json.dumps(fact))
    path = catalog(f"{{ a = builtins.trace ''pkgd:{text}'' 7; z = 7; }}")

    found = Survey(store, catalog_at(path)).facts({"": ["a", "z"]}, nix.Found())

    assert ([fact.attr for fact in found.known], list(found.failures)) == (["z"], ["a"])


def test_an_evaluation_that_tells_nothing_is_no_success(store, catalog, replace_program):
    mute = replace_program(store, "nix-instantiate", "echo null")

    found = Survey(mute, catalog_at(catalog("{ }"))).facts({"": ["a"]}, nix.Found())

    assert str(found.failures["a"]) == "Nix has told nothing of it"


def test_siblings_are_the_same_in_nix_and_in_python(store, catalog):
    chance = random.Random(5)
    suffixes = {"".join(chance.choices(LETTERS, k=chance.randint(1, 5))) for _ in range(600)}
    attrs = sorted("ab" + suffix for suffix in suffixes)
    text = " ".join(f'"{one}" = package "ab" "{n}" {{ }};' for n, one in enumerate(attrs))
    path = catalog(f"{{ {text} }}")

    found = {offer.attr for offer in nix.offers(store, at(path), "ab").versions}

    assert found == {attr for attr in attrs if nix.is_sibling("ab", attr)}
    assert 20 < len(found) < len(attrs) - 20
    assert all(("ab" in nix.bases(attr)) == (attr in found) for attr in attrs)


def test_a_long_number_is_no_sibling_at_once():
    began = time.monotonic()

    assert not nix.is_sibling("a", "a" + "1" * 5000 + "!")

    assert time.monotonic() - began < 1


def test_a_program_that_can_not_be_started_is_no_fault_of_an_attribute(
    store, catalog, replace_program
):
    broken = replace_program(store, "nix-instantiate", "echo 'error: unable to fork' >&2; exit 1")
    survey = Survey(broken, catalog_at(catalog("{ a = 7; }")), heap=2**30)

    with pytest.raises(nix.NixUnavailable, match="unable to fork"):
        survey.facts({"": ["a"]}, nix.Found())


def killed(replace_program, store, tmp_path, times):
    """Return a store whose evaluations are killed as often as this, as by a host without memory."""
    (tmp_path / "left").write_text("x" * times)
    script = """
left=$(cat %s)
case $left in x*) printf %%s "${left#x}" > %s; kill -KILL $$;; esac
exec $real "$@"
"""
    return replace_program(store, "nix-instantiate", script % ((tmp_path / "left",) * 2))


@pytest.mark.parametrize(("times", "at_fault"), [(2, []), (3, ["a"]), (5, ["a"])])
def test_an_attribute_is_at_fault_only_if_its_evaluation_is_killed_each_time(
    store, catalog, replace_program, tmp_path, times, at_fault
):
    survey = Survey(
        killed(replace_program, store, tmp_path, times), catalog_at(catalog("{ a = 7; b = 8; }"))
    )

    found = survey.facts({"": ["a", "b"]}, nix.Found())

    assert list(found.failures) == at_fault
    assert [fact.attr for fact in found.known] == [each for each in "ab" if each not in at_fault]


def test_the_names_of_sets_are_asked_for_again_where_that_is_killed(
    store, catalog, replace_program, tmp_path
):
    survey = Survey(killed(replace_program, store, tmp_path, 2), catalog_at(catalog("{ a = 7; }")))

    assert survey.names() == ["a"]

    (tmp_path / "left").write_text("xxx")
    with pytest.raises(nix.NixKilled):
        survey.names()
