"""Manifests that are pasted: the same rules as pkgctl's, and which versions they mean."""

import pytest
from flask import Flask
from support import SQLITE

import services
from dashboard import manifests
from errors import Busy, InvalidInput

WRONG = {
    "=": "This isn't TOML",
    "a = " + "[" * 5000: "nested too deeply",
    "a" + ".a" * 20000 + " = 1": "nested too deeply",
    "a = " + "9" * 5000: "a number that is too long",
    "": "There is no table [packages]",
    "packages = 1": "There is no table [packages]",
    "odd = 1\n[packages]": "odd: no such key",
    'profile = "A b"\n[packages]': "profile is 'A b', not the name",
    "profile = 1\n[packages]": "profile is 1, not the name",
    "[packages]\nhello = 1": "hello has no version or range in quotes",
    '[packages]\nhello = " "': "hello has no version or range in quotes",
    '[packages]\nhello = "\\u0000"': "hello: Must hold no control characters",
    f'[packages]\nhello = "{"1" * 300}"': "hello: Length must be between",
    '[packages]\n"<b>" = "1"': "<b>: Must begin with a letter",
    '[packages]\npython3Packages.requests = "1"': 'quoted, "python3Packages.requests"',
    "[packages]\n[packages.hello]": 'quoted, "hello.requests"',
    "[packages]\n" + "".join(f'n{n} = "1"\n' for n in range(1001)): "holds 1000 packages at most",
}


@pytest.fixture
def limits():
    """The setting that manifests are read by."""
    app = Flask("limits")
    app.config["NAME_LENGTH"] = 50
    with app.app_context():
        yield


@pytest.mark.parametrize(("text", "told"), WRONG.items(), ids=range(len(WRONG)))
def test_a_manifest_that_is_wrong_is_refused_with_the_reason(limits, text, told):
    with pytest.raises(InvalidInput) as caught:
        manifests.read(text)

    assert told in str(caught.value)


def test_what_is_written_reads_back(limits):
    packages = [{"name": "a.b", "version": "1.0.0+x"}, {"name": "a-b", "version": "2.0.0"}]

    text = manifests.text(packages)

    assert text == '[packages]\na-b = "2.0.0"\n"a.b" = "1.0.0+x"\n'
    assert manifests.read(text).packages == {"a.b": "1.0.0+x", "a-b": "2.0.0"}


CATALOG = """
let make = version: { type = "derivation"; name = "tool-${version}"; inherit version; };
in { tool = make "1.0"; tool_2 = make "2.0"; tool_3 = make "3.0-rc1"; early = make "1.0-beta1"; }
"""


@pytest.fixture
def choose(settings, tmp_path, make_app):
    """Return a function that chooses a version for one line, and returns it or what is wrong."""
    (tmp_path / "tools.nix").write_text(CATALOG)
    settings["CATALOGS"] += f" {tmp_path / 'tools.nix'}"
    app = make_app()

    def choose(name, wanted):
        with app.app_context():
            try:
                return manifests.choose(manifests.Manifest({name: wanted}))[name]
            except InvalidInput as error:
                return str(error).removeprefix(f"manifest: {name}: ")

    return choose


@SQLITE
def test_each_line_means_what_an_installation_would_take(choose):
    assert choose("tool", "latest") == "2.0.0"
    assert choose("tool", "<2") == "1.0.0"
    assert choose("tool", "3.0-rc1") == "3.0.0-rc1"
    assert choose("tool", "^3.0.0-rc1") == "of ^3.0.0-rc1 there are only pre-releases: 3.0.0-rc1"
    assert choose("tool", "9.9.9") == "no catalog has 9.9.9"
    assert choose("tool", "odd!").startswith("Neither a version that a catalog has nor a range.")
    assert choose("unfree-by-rule", "latest").endswith("may be had: 1.0.0 (unfree)")
    assert choose("toool", "latest") == "no catalog has toool; did you mean tool?"


@SQLITE
def test_what_is_downloaded_needs_no_catalog(app, downloaded):
    downloaded("app", "1.0.0")
    app.config.update(CATALOGS=())

    with app.app_context():
        assert manifests.choose(manifests.Manifest({"app": "1.0.0"})) == {"app": "1.0.0"}


@SQLITE
def test_choosing_ends_when_it_takes_too_long(app, monkeypatch):
    monkeypatch.setattr(manifests, "CHOOSING_SECONDS", -1)

    with app.app_context(), pytest.raises(Busy):
        manifests.choose(manifests.Manifest({"hello": "latest"}))


@SQLITE
def test_the_versions_of_few_manifests_are_chosen_at_once(app):
    wanted = manifests.Manifest({})

    with app.app_context():
        slots = services.get(manifests.ChoosingSlots)
        for _ in range(manifests.CHOOSING_AT_ONCE):
            slots.acquire()
        with pytest.raises(Busy):
            manifests.choose(wanted)
        slots.release()
        assert [manifests.choose(wanted) for _ in range(3)] == [{}, {}, {}]


@SQLITE
def test_a_catalog_that_fails_is_named(settings, tmp_path, make_app):
    (tmp_path / "broken.nix").write_text("throw ''no''")
    app = make_app(CATALOGS=tmp_path / "broken.nix")

    with app.app_context(), pytest.raises(InvalidInput) as caught:
        manifests.choose(manifests.Manifest({"hello": "latest"}))

    assert "no catalog that answers has latest" in str(caught.value)
    assert "broken.nix: " in str(caught.value)
