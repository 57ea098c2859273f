"""Resolving: from a name and a version to a derivation, with valid and faulty catalogs."""

import json

import pytest
from spellings import PRERELEASES, RELEASES
from support import at

import nix
from nix import EvaluationFailed, NameUnknown, NixKilled, Refused, VersionUnavailable


@pytest.fixture
def resolve(store, tmp_path):
    """Return a function that resolves in the given catalogs, with the log in its `log`."""

    def resolve(name, version, *catalogs, **options):
        def tick(log, progress):
            resolve.log += log.decode()
            assert progress == nix.Progress(0, 0, "resolving")

        resolve.log = ""
        tmp = tmp_path / "tmp"
        return nix.resolve(store, at(*catalogs), name, version, tmp=tmp, tick=tick, **options)

    return resolve


def test_a_resolution_has_what_a_build_needs(resolve, catalog, store):
    path = catalog("{ foo = package ''foo'' ''1.2.0'' { }; }")

    found = resolve("foo", "1.2.0", path)

    assert (found.catalog, found.attr, found.pname) == (path, "foo", "foo")
    assert (found.spelled, found.outputs) == ("1.2.0", ("out",))
    assert nix.valid_paths(store, [found.drv_path]) == {found.drv_path}


@pytest.mark.parametrize(
    ("written", "asked"),
    [
        ("2.10", "2.10.0"),
        ("9.6p1", "9.6.0+p1"),
        ("1.0rc1", "1.0.0-rc1"),
        ("17.0.1+12", "17.0.1+12"),
    ],
)
def test_a_version_of_a_catalog_is_found_by_its_semantic_version(resolve, catalog, written, asked):
    path = catalog(f"{{ foo = package ''foo'' ''{written}'' {{ }}; }}")

    assert resolve("foo", asked, path).spelled == written


def test_every_kind_of_spelling_is_offered_and_found(store, resolve, catalog):
    spelled = list(RELEASES | PRERELEASES)
    text = " ".join(
        f"foo_{n} = package ''foo'' ''{s}'' {{ name = ''foo''; }};" for n, s in enumerate(spelled)
    )
    path = catalog(f"{{ {text} }}")

    offers = nix.offers(store, at(path), "foo").versions

    assert {offer.spelled: offer.version for offer in offers} == RELEASES | PRERELEASES
    for offer in offers:
        if offer.available:
            assert resolve("foo", offer.version, path).attr == offer.attr


@pytest.mark.parametrize("asked", ["2.10.1", "2.10.0-rc1", "2.10.0+1", "0.0.0"])
def test_a_different_version_is_not_found(resolve, catalog, asked):
    path = catalog("{ foo = package ''foo'' ''2.10'' { }; }")

    with pytest.raises(VersionUnavailable):
        resolve("foo", asked, path)


SIBLINGS = """{
  node = package "node" "18.0.0" { };
  node_20 = package "node" "20.1.0" { };
  node21 = package "node" "21.0.0" { };
  nodeLatest = package "node" "22.0.0" { };
  node_9_1 = package "other" "23.0.0" { };
  node-6_x = package "node" "6.1.0" { };
  nodeR19 = package "node" "19.0.0" { };
  node_testing = package "node" "25.0.0" { };
  nodemon = package "node" "24.0.0" { };
  jdk = package "openjdk" "17.0.0" { };
  jdk11 = package "openjdk" "11.0.0" { };
  py.requests = package "requests" "2.31.0" { };
  py.requests_1 = package "requests" "1.9.0" { };
  "dot.ted" = package "dotted" "1.0.0" { };
}"""


@pytest.mark.parametrize(
    ("name", "version", "attr"),
    [
        ("node", "18.0.0", "node"),
        ("node", "20.1.0", "node_20"),
        ("node", "21.0.0", "node21"),
        ("node", "22.0.0", "nodeLatest"),
        ("node", "6.1.0", "node-6_x"),
        ("node", "19.0.0", "nodeR19"),
        ("node", "25.0.0", "node_testing"),
        ("node_20", "20.1.0", "node_20"),
        ("jdk", "11.0.0", "jdk11"),
        ("py.requests", "2.31.0", "py.requests"),
        ("py.requests", "1.9.0", "py.requests_1"),
        ("dot.ted", "1.0.0", "dot.ted"),
    ],
)
def test_a_name_is_found_among_its_siblings_and_in_nested_sets(
    resolve, catalog, name, version, attr
):
    assert resolve(name, version, catalog(SIBLINGS)).attr == attr


@pytest.mark.parametrize("version", ["23.0.0", "24.0.0"])
def test_an_attribute_of_another_package_is_no_sibling(resolve, catalog, version):
    with pytest.raises(VersionUnavailable):
        resolve("node", version, catalog(SIBLINGS))


@pytest.mark.parametrize(
    ("attributes", "outputs"),
    [
        ('{ outputs = [ "out" "man" ]; }', ("out",)),
        ('{ outputs = [ "bin" "dev" ]; }', ("bin",)),
        ('{ outputs = [ "out" "man" ]; meta.outputsToInstall = [ "man" "out" ]; }', ("out", "man")),
        (
            '{ outputs = [ "out" "bin" "man" ]; meta.outputsToInstall = [ "bin" "man" ]; }',
            ("bin", "man"),
        ),
        ('{ meta.outputsToInstall = [ "gone" ]; }', ("out",)),
        ('{ outputs = [ "out" "man" ]; meta.outputsToInstall = throw "no"; }', ("out",)),
    ],
)
def test_the_outputs_to_install_begin_with_the_main_one(resolve, catalog, attributes, outputs):
    text = f"let a = {attributes}; in {{ foo = package ''foo'' ''1.0.0''"
    path = catalog(f"{text} (removeAttrs a [ ''meta'' ]) // {{ meta = a.meta or {{ }}; }}; }}")

    assert resolve("foo", "1.0.0", path).outputs == outputs


def test_an_attribute_can_be_a_single_output(resolve, catalog):
    two = "package ''foo'' ''1.0.0'' { outputs = [ ''out'' ''dev'' ]; }"
    path = catalog(f"{{ foo = {two}; foo_dev = ({two}).dev // {{ outputSpecified = true; }}; }}")

    assert resolve("foo_dev", "1.0.0", path).outputs == ("dev",)


def test_the_first_catalog_with_the_version_is_used(resolve, catalog):
    old = catalog("{ foo = package ''foo'' ''1.0.0'' { }; }", "old")
    new = catalog(
        "{ foo = package ''foo'' ''2.0.0'' { }; foo_1 = package ''foo'' ''1.0.0'' { }; }", "new"
    )

    assert resolve("foo", "2.0.0", old, new).catalog == new
    assert resolve("foo", "1.0.0", old, new).catalog == old


def test_a_catalog_can_be_a_function_of_its_settings(resolve, catalog):
    path = catalog("{ system, config ? { x = 1; } }: { foo = package ''foo'' ''1.0.0'' config; }")

    assert resolve("foo", "1.0.0", path).attr == "foo"


def test_a_catalog_can_be_a_channel(resolve, store, catalog, tmp_path):
    path = catalog("{ foo = package ''foo'' ''1.0.0'' { }; }")
    with_pins = nix.Store({**store.environ, "NIX_PATH": f"pins={path}"})

    found = nix.resolve(with_pins, at("<pins>"), "foo", "1.0.0", tmp=tmp_path / "tmp")

    assert found.catalog == "<pins>"


def test_the_error_for_an_unknown_version_lists_the_nearest_versions_first(resolve, catalog):
    text = " ".join(f"foo_{n} = package ''foo'' ''{n}.0'' {{ }};" for n in range(1, 13))

    with pytest.raises(VersionUnavailable) as caught:
        resolve("foo", "6.1.0", catalog(f"{{ {text} }}"))

    there = ", ".join(f"{n}.0.0" for n in (6, 7, 5, 8, 4, 9, 3, 10, 2, 11))
    assert str(caught.value) == f"no catalog has foo 6.1.0; to be had: {there} and 2 more"
    assert caught.value.code == "version_unavailable"


def test_the_error_for_an_unknown_name_lists_similar_names(resolve, catalog):
    path = catalog("{ hello = 1; Helo = 1; jello = 1; world = 1; }")

    with pytest.raises(NameUnknown) as caught:
        resolve("hallo", "1.0.0", path)

    assert str(caught.value) == "no catalog has hallo; did you mean hello, Helo, jello?"
    assert caught.value.code == "name_unknown"


def test_the_error_for_a_name_like_no_other_lists_nothing(resolve, catalog):
    with pytest.raises(NameUnknown, match=r"^no catalog has hallo$"):
        resolve("hallo", "1.0.0", catalog("{ }"))


@pytest.mark.parametrize("value", ["{ set = { }; }", '{ set = "text"; }', "{ set.foo = 1; }"])
def test_an_attribute_that_is_no_package_is_unknown(resolve, catalog, value):
    with pytest.raises(NameUnknown):
        resolve("set", "1.0.0", catalog(value))


@pytest.mark.parametrize("name", ["set.foo.bar", "set.none", "none.foo", "throws.foo", "set."])
def test_a_path_that_leads_nowhere_is_unknown(resolve, catalog, name):
    with pytest.raises(NameUnknown):
        resolve(name, "1.0.0", catalog("{ set.foo = 1; throws = throw ''no''; }"))


FAULTY = {
    "syntax": ("{ foo = ", "syntax error"),
    "abort": ("{ foo = abort ''it ends here''; }", "it ends here"),
    "type": ("{ foo = package ''foo'' (1 + { }) { }; }", "set"),
    "not a set": ("1", "is not a set of packages"),
    "endless": ("let f = x: 1 + f x; in { foo = f 1; }", "stack overflow|max-call-depth"),
    "import": ("{ foo = import (package ''foo'' ''1.0.0'' { }); }", "import-from-derivation|IFD"),
}


@pytest.mark.parametrize(("text", "reason"), FAULTY.values(), ids=FAULTY)
def test_the_error_for_a_faulty_catalog_has_nixs_message(resolve, catalog, text, reason):
    path = catalog(text)

    with pytest.raises(EvaluationFailed, match=f"(?s)catalog {path}: .*({reason})") as caught:
        resolve("foo", "1.0.0", path)

    assert caught.value.code == "evaluation_failed"


@pytest.mark.parametrize("text", [text for text, _ in FAULTY.values()], ids=FAULTY)
def test_a_faulty_catalog_does_not_hide_the_others(resolve, catalog, text):
    bad = catalog(text, "bad")
    good = catalog("{ foo = package ''foo'' ''1.0.0'' { }; }", "good")

    assert resolve("foo", "1.0.0", bad, good).catalog == good
    assert resolve.log.startswith(f"pkgd: left out catalog {bad}: ")
    assert resolve.log.endswith("\n")


def test_a_missing_catalog_does_not_hide_the_others(resolve, catalog):
    good = catalog("{ foo = package ''foo'' ''1.0.0'' { }; }")

    assert resolve("foo", "1.0.0", "/nowhere", good).catalog == good


def test_a_catalog_that_never_finishes_does_not_hide_the_others(resolve, catalog):
    slow = "loop = f: builtins.foldl' (_: f) 0 (builtins.genList (x: x) 9999);"
    endless = catalog(f"let {slow} in {{ foo = loop (_: loop (_: loop (x: x))); }}")
    good = catalog("{ foo = package ''foo'' ''1.0.0'' { }; }", "good")

    assert resolve("foo", "1.0.0", endless, good, seconds=0.5).catalog == good
    assert "left out" in resolve.log


def test_a_failure_that_does_not_recur_is_no_fault_of_a_catalog(
    store, catalog, replace_program, tmp_path
):
    script = f'[ -e {tmp_path}/failed ] && exec $real "$@"; touch {tmp_path}/failed; exit 1'
    moody = replace_program(store, "nix-instantiate", script)

    with pytest.raises(NameUnknown):
        nix.resolve(moody, at(catalog("{ }")), "foo", "1.0.0", tmp=tmp_path / "tmp")


def test_a_faulty_catalog_is_an_error_if_no_other_has_the_package(resolve, catalog):
    bad, other = catalog("1", "bad"), catalog("{ foo = package ''foo'' ''2.0.0'' { }; }")

    with pytest.raises(EvaluationFailed, match=f"catalog {bad}: "):
        resolve("foo", "1.0.0", other, bad)


def test_a_failure_without_a_package_behind_it_is_told(store, catalog, replace_program, tmp_path):
    script = 'case "$*" in *"--attr answer"*) echo "error: odd" >&2; exit 1;; esac; exec $real "$@"'
    odd = replace_program(store, "nix-instantiate", script)

    with pytest.raises(EvaluationFailed, match=r"odd$"):
        nix.resolve(odd, at(catalog("{ }")), "foo", "1.0.0", tmp=tmp_path / "tmp")


REFUSED = "unfree says its licence"
UNFREE = f"(package ''foo'' ''1.0.0'' {{ }} // {{ drvPath = throw ''{REFUSED}''; }})"


def test_the_error_for_a_refused_package_has_the_catalogs_reason(resolve, catalog):
    first = catalog(f"{{ foo = {UNFREE}; }}", "first")
    second = catalog("{ foo = package ''foo'' ''1.0.0'' { }; }", "second")

    with pytest.raises(EvaluationFailed, match=f"catalog {first}: {REFUSED}$"):
        resolve("foo", "1.0.0", first, second)


def test_the_error_for_a_removed_attribute_has_the_catalogs_reason(resolve, catalog):
    path = catalog("{ foo = throw ''foo was removed in 2019''; }")

    with pytest.raises(Refused, match=f"catalog {path}: foo was removed in 2019$") as caught:
        resolve("foo", "1.0.0", path, catalog("{ }", "empty"))
    assert caught.value.reason == "removed"


def test_a_removed_attribute_does_not_hide_the_other_catalogs(resolve, catalog):
    removed = catalog("{ foo = throw ''gone''; }", "removed")
    other = catalog("{ foo = package ''foo'' ''1.0.0'' { }; }")

    assert resolve("foo", "1.0.0", removed, other).catalog == other
    with pytest.raises(VersionUnavailable):
        resolve("foo", "2.0.0", removed, other)


UNTRUE = {
    "a number": ("drvPath = 5;", "drvPath is not as it must be: 5"),
    "a list": ("drvPath = [ ];", "drvPath"),
    "an option": ("drvPath = ''--help'';", "drvPath"),
    "no derivation": ("drvPath = ''/etc/passwd'';", "drvPath"),
    "outputs that are numbers": ("outputName = 7;", "outputs"),
    "outputs that are paths": ("outputName = ''../../x'';", "outputs"),
}


@pytest.mark.parametrize(("more", "reason"), UNTRUE.values(), ids=UNTRUE)
def test_what_a_catalog_says_is_checked(resolve, catalog, more, reason):
    bad = catalog(f"{{ foo = package ''foo'' ''1.0.0'' {{ }} // {{ {more} }}; }}", "bad")

    with pytest.raises(EvaluationFailed, match=f"catalog {bad}: .*{reason}"):
        resolve("foo", "1.0.0", bad)


def test_a_version_that_is_not_utf_8_is_a_fault_of_its_catalog(resolve, store, catalog, tmp_path):
    bad = catalog("{ foo = package ''foo'' (builtins.readFile ./bytes) { }; }", "bad")
    (tmp_path / "bytes").write_bytes(b"1.0.\xff")
    good = catalog("{ foo = package ''foo'' ''1.0.0'' { }; }", "good")

    with pytest.raises(EvaluationFailed, match=f"catalog {bad}: "):
        resolve("foo", "2.0.0", bad)
    assert resolve("foo", "1.0.0", bad, good).catalog == good
    found = nix.offers(store, at(bad, good), "foo")
    assert [offer.catalog for offer in found.versions] == [good]
    assert [failure.catalog for failure in found.failures] == [bad]


WRITTEN = {
    "half of it": b'{"found": {"catalog',
    "nothing": b"",
    "another shape": b"[]",
    "no fields": b'{"found": {}}',
    "other bytes": b'"\xff"',
    "depth": b"[" * 100_000,
    "a long number": b"9" * 5000,
    "half a pair": rb'{"offers": {"throws": false, "versions": [{"spelled": "\ud800"}]}}',
}


@pytest.mark.parametrize("written", WRITTEN.values(), ids=WRITTEN)
def test_what_nix_writes_is_checked(store, catalog, replace_program, tmp_path, written):
    (tmp_path / "written").write_bytes(written)
    odd = replace_program(store, "nix-instantiate", f"cat {tmp_path}/written")
    path = catalog("{ }")

    with pytest.raises(EvaluationFailed, match=f"catalog {path}: "):
        nix.resolve(odd, at(path), "foo", "1.0.0", tmp=tmp_path / "tmp")
    assert [failure.catalog for failure in nix.offers(odd, at(path), "foo").failures] == [path]


def test_a_users_text_is_never_read_as_nix(resolve, catalog):
    path = catalog("{ foo = package ''foo'' ''1.0.0'' { }; }")

    for text in ('"; abort "x', "''${abort 1}", "\\", json.dumps(["x\n"])):
        with pytest.raises(NameUnknown):
            resolve(text, "1.0.0", path)
        with pytest.raises(VersionUnavailable):
            resolve("foo", text, path)


def test_only_the_package_asked_for_is_evaluated(resolve, catalog):
    traps = " ".join(f"bar_{n} = abort ''not asked for'';" for n in range(1000))
    path = catalog(
        f"{{ foo = package ''foo'' ''1.0.0'' {{ }}; foo_2 = abort ''nor this''; {traps} }}"
    )

    assert resolve("foo", "1.0.0", path, "/not/looked/at").attr == "foo"


def test_a_catalog_that_is_not_needed_is_not_evaluated(resolve, catalog):
    good = catalog("{ foo = package ''foo'' ''1.0.0'' { }; }")

    resolve("foo", "1.0.0", good, catalog("1", "bad"))

    assert resolve.log == ""


@pytest.mark.parametrize("version", ["1.0.0", "9.9.9"])
def test_a_catalog_that_takes_all_memory_hides_nothing_of_another(
    store, catalog, replace_program, tmp_path, version
):
    hungry, good = catalog("{ }", "hungry"), catalog("{ foo = package ''foo'' ''1.0.0'' { }; }")
    script = 'case "$*" in *hungry*) kill -KILL $$ ;; esac; exec $real "$@"'
    store = replace_program(store, "nix-instantiate", script)
    tmp = tmp_path / "tmp"

    if version == "1.0.0":
        assert nix.resolve(store, at(hungry, good), "foo", version, tmp=tmp).catalog == good
    else:
        with pytest.raises(NixKilled, match="ended by SIGKILL; out of memory is likely"):
            nix.resolve(store, at(hungry, good), "foo", version, tmp=tmp)
