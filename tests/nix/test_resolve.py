"""Resolving: from a name and a version to a derivation, over catalogs good and bad."""

import json
import shutil
from pathlib import Path

import pytest
from writer import writer

import nix
from nix import EvaluationFailed, NameUnknown, VersionUnavailable


@pytest.fixture
def catalog(tmp_path):
    """Return a function that writes a catalog and returns its path."""
    return writer(tmp_path)


@pytest.fixture
def resolve(store, tmp_path):
    """Return a function that resolves in the given catalogs; its `log` is what the log got."""

    def resolve(name, version, *catalogs, **options):
        def tick(log, progress):
            resolve.log += log.decode()
            assert progress == nix.Progress(0, 0, "resolving")

        resolve.log = ""
        tmp = tmp_path / "tmp"
        return nix.resolve(store, catalogs, name, version, tmp=tmp, tick=tick, **options)

    return resolve


def test_a_resolution_says_all_that_is_needed_to_build(resolve, catalog, store):
    path = catalog("{ foo = package ''foo'' ''1.2.0'' { }; }")

    found = resolve("foo", "1.2.0", path)

    assert (found.catalog, found.attr, found.pname) == (path, "foo", "foo")
    assert (found.version, found.outputs) == ("1.2.0", ("out",))
    assert nix.valid_paths(store, [found.drv_path]) == {found.drv_path}


@pytest.mark.parametrize(
    ("written", "asked"),
    [
        ("2.10", "2.10.0"),
        ("2", "2.0.0"),
        ("v1.2.3", "1.2.3"),
        ("9.6p1", "9.6.0-p1"),
        ("1.0-rc.1", "1.0.0-rc.1"),
        ("1.0-2023", "1.0.0-2023"),
        ("2024.01.15", "2024.1.15"),
        ("17.0.1+12", "17.0.1+12"),
    ],
)
def test_a_catalogs_version_answers_to_its_semantic_version(resolve, catalog, written, asked):
    path = catalog(f"{{ foo = package ''foo'' ''{written}'' {{ }}; }}")

    assert resolve("foo", asked, path).version == written


@pytest.mark.parametrize("asked", ["2.10.1", "2.10.0-rc1", "2.10.0+1", "0.0.0"])
def test_another_version_does_not_answer(resolve, catalog, asked):
    path = catalog("{ foo = package ''foo'' ''2.10'' { }; }")

    with pytest.raises(VersionUnavailable):
        resolve("foo", asked, path)


SIBLINGS = """{
  node = package "node" "18.0.0" { };
  node_20 = package "node" "20.1.0" { };
  node21 = package "node" "21.0.0" { };
  nodeLatest = package "node" "22.0.0" { };
  node_9_1 = package "other" "23.0.0" { };
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
        ("node_20", "20.1.0", "node_20"),
        ("jdk", "11.0.0", "jdk11"),
        ("py.requests", "2.31.0", "py.requests"),
        ("py.requests", "1.9.0", "py.requests_1"),
        ("dot.ted", "1.0.0", "dot.ted"),
    ],
)
def test_a_name_is_found_with_its_siblings_and_in_sets(resolve, catalog, name, version, attr):
    assert resolve(name, version, catalog(SIBLINGS)).attr == attr


@pytest.mark.parametrize("version", ["23.0.0", "24.0.0"])
def test_what_only_looks_like_a_sibling_is_none(resolve, catalog, version):
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
def test_the_outputs_to_install_are_told_main_first(resolve, catalog, attributes, outputs):
    text = f"let a = {attributes}; in {{ foo = package ''foo'' ''1.0.0''"
    path = catalog(f"{text} (removeAttrs a [ ''meta'' ]) // {{ meta = a.meta or {{ }}; }}; }}")

    assert resolve("foo", "1.0.0", path).outputs == outputs


def test_one_output_can_be_asked_for(resolve, catalog):
    two = "package ''foo'' ''1.0.0'' { outputs = [ ''out'' ''dev'' ]; }"
    path = catalog(f"{{ foo = {two}; foo_dev = ({two}).dev // {{ outputSpecified = true; }}; }}")

    assert resolve("foo_dev", "1.0.0", path).outputs == ("dev",)


def test_the_first_catalog_with_the_version_serves(resolve, catalog):
    old = catalog("{ foo = package ''foo'' ''1.0.0'' { }; }", "old")
    new = catalog(
        "{ foo = package ''foo'' ''2.0.0'' { }; foo_1 = package ''foo'' ''1.0.0'' { }; }", "new"
    )

    assert resolve("foo", "2.0.0", old, new).catalog == new
    assert resolve("foo", "1.0.0", old, new).catalog == old


def test_a_catalog_can_be_a_function_of_its_settings(resolve, catalog):
    path = catalog("{ system, config ? { x = 1; } }: { foo = package ''foo'' ''1.0.0'' config; }")

    assert resolve("foo", "1.0.0", path).attr == "foo"


def test_a_catalog_can_be_found_by_nix_path(resolve, store, catalog, tmp_path):
    path = catalog("{ foo = package ''foo'' ''1.0.0'' { }; }")
    named = nix.Store({**store.environ, "NIX_PATH": f"pins={path}:nixpkgs={path}"})

    found = nix.resolve(named, ["<pins>"], "foo", "1.0.0", tmp=tmp_path / "tmp")

    assert found.catalog == "<pins>"
    assert nix.default_catalogs(named) == ("<nixpkgs>",)


def test_without_nixpkgs_the_bundled_catalog_is_the_default(store):
    (path,) = nix.default_catalogs(store)

    assert (Path(path) / "default.nix").is_file()


def test_an_unknown_version_is_told_with_those_there_are(resolve, catalog):
    text = " ".join(f"foo_{n} = package ''foo'' ''{n}.0'' {{ }};" for n in range(1, 13))

    with pytest.raises(VersionUnavailable) as caught:
        resolve("foo", "99.0.0", catalog(f"{{ {text} }}"))

    there = ", ".join(f"{n}.0.0" for n in range(12, 2, -1))
    assert str(caught.value) == f"no catalog has foo 99.0.0; to be had: {there} and 2 more"
    assert caught.value.code == "version_unavailable"


def test_an_unknown_name_is_told_with_those_near_it(resolve, catalog):
    path = catalog("{ hello = 1; Helo = 1; jello = 1; world = 1; }")

    with pytest.raises(NameUnknown) as caught:
        resolve("hallo", "1.0.0", path)

    assert str(caught.value) == "no catalog has hallo; did you mean hello, Helo, jello?"
    assert caught.value.code == "name_unknown"


def test_a_name_with_nothing_near_is_just_unknown(resolve, catalog):
    with pytest.raises(NameUnknown, match=r"^no catalog has hallo$"):
        resolve("hallo", "1.0.0", catalog("{ }"))


@pytest.mark.parametrize("value", ["{ set = { }; }", '{ set = "text"; }', "{ set.foo = 1; }"])
def test_what_is_no_package_is_unknown(resolve, catalog, value):
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
def test_a_faulty_catalog_is_told_with_nixs_own_reason(resolve, catalog, text, reason):
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


def test_a_catalog_that_takes_for_ever_does_not_hide_the_others(resolve, catalog):
    slow = "loop = f: builtins.foldl' (_: f) 0 (builtins.genList (x: x) 9999);"
    endless = catalog(f"let {slow} in {{ foo = loop (_: loop (_: loop (x: x))); }}")
    good = catalog("{ foo = package ''foo'' ''1.0.0'' { }; }", "good")

    assert resolve("foo", "1.0.0", endless, good, seconds=0.5).catalog == good
    assert "left out" in resolve.log


def test_a_failure_that_does_not_come_again_is_no_catalogs_fault(store, catalog, tmp_path):
    real = shutil.which("nix-instantiate")
    script = f'[ -e {tmp_path}/failed ] && exec {real} "$@"; touch {tmp_path}/failed; exit 1'
    (tmp_path / "nix-instantiate").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "nix-instantiate").chmod(0o755)
    path = f"{tmp_path}:{store.environ['PATH']}"

    with pytest.raises(NameUnknown):
        nix.resolve(
            nix.Store({**store.environ, "PATH": path}),
            [catalog("{ }")],
            "foo",
            "1.0.0",
            tmp=tmp_path / "tmp",
        )


def test_a_faulty_catalog_is_told_when_no_other_serves(resolve, catalog):
    bad, other = catalog("1", "bad"), catalog("{ foo = package ''foo'' ''2.0.0'' { }; }")

    with pytest.raises(EvaluationFailed, match=f"catalog {bad}: "):
        resolve("foo", "1.0.0", other, bad)


REFUSED = "unfree says its licence"
UNFREE = f"(package ''foo'' ''1.0.0'' {{ }} // {{ drvPath = throw ''{REFUSED}''; }})"


def test_a_package_that_is_refused_is_told_with_the_catalogs_reason(resolve, catalog):
    first = catalog(f"{{ foo = {UNFREE}; }}", "first")
    second = catalog("{ foo = package ''foo'' ''1.0.0'' { }; }", "second")

    with pytest.raises(EvaluationFailed, match=f"catalog {first}: {REFUSED}$"):
        resolve("foo", "1.0.0", first, second)


def test_a_removed_attribute_is_told_with_the_catalogs_reason(resolve, catalog):
    path = catalog("{ foo = throw ''foo was removed in 2019''; }")

    with pytest.raises(EvaluationFailed, match=f"catalog {path}: foo was removed in 2019$"):
        resolve("foo", "1.0.0", path, catalog("{ }", "empty"))


def test_a_removed_attribute_does_not_hide_the_other_catalogs(resolve, catalog):
    removed = catalog("{ foo = throw ''gone''; }", "removed")
    other = catalog("{ foo = package ''foo'' ''1.0.0'' { }; }")

    assert resolve("foo", "1.0.0", removed, other).catalog == other
    with pytest.raises(VersionUnavailable):
        resolve("foo", "2.0.0", removed, other)


def test_no_text_is_read_as_nix(resolve, catalog):
    path = catalog("{ foo = package ''foo'' ''1.0.0'' { }; }")

    for text in ('"; abort "x', "''${abort 1}", "\\", json.dumps(["x\n"])):
        with pytest.raises(NameUnknown):
            resolve(text, "1.0.0", path)
        with pytest.raises(VersionUnavailable):
            resolve("foo", text, path)


def test_nothing_is_evaluated_that_is_not_asked_for(resolve, catalog):
    traps = " ".join(f"bar_{n} = abort ''not asked for'';" for n in range(1000))
    path = catalog(
        f"{{ foo = package ''foo'' ''1.0.0'' {{ }}; foo_2 = abort ''nor this''; {traps} }}"
    )

    assert resolve("foo", "1.0.0", path, "/not/looked/at").attr == "foo"


def test_a_bad_catalog_is_seen_only_when_it_is_needed(resolve, catalog):
    good = catalog("{ foo = package ''foo'' ''1.0.0'' { }; }")

    resolve("foo", "1.0.0", good, catalog("1", "bad"))

    assert resolve.log == ""
