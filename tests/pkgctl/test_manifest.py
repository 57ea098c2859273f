"""Manifests and locks that can't be used, told before a server is asked."""

import json

import pytest

from pkgctl.errors import CommandError, ExitCode
from pkgctl.lockfile import Lock
from pkgctl.manifest import Manifest, manifest_text

LOCKED = {"wanted": "^2", "version": "2.12.1", "store_path": "/nix/store/abc-hello-2.12.1"}
FORMS = {"format": 1, "packages": {"hello": LOCKED}}


@pytest.fixture
def file(tmp_path):
    """The path of a manifest that is right."""
    path = tmp_path / "pkgs.toml"
    path.write_text('[packages]\nhello = "^2"\n')
    return path


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            '[packages]\nhello "1"',
            "it isn't TOML: Expected '=' after a key in a key/value pair (at li",
        ),
        (
            '[packages]\nhello = "1"\nhello = "2"',
            "it isn't TOML: Cannot overwrite a value (at ",
        ),
        ("a = " + "[" * 5000, "it is nested too deeply"),
        ("a = " + "9" * 5000, "it has a number that is too long"),
        ("", "it has no table [packages] (under that come the names, such as hello"),
        ('packages = "hello"', "it has no table [packages]"),
        (
            'hello = "1"\n[packages]',
            "hello: no such key (at the top there are profile and [packages]",
        ),
        ('profile = "A"\n[packages]', "profile is 'A' (a name, such as profile = \"staging\")"),
        ("profile = 1\n[packages]", "profile is 1 (a name"),
        (
            "[packages]\nhello = 2",
            "packages.hello is 2, not a version or range in quotes (such as",
        ),
        ("[packages]\nhello = 2024-01-01", 'packages.hello is "2024-01-01", not a version'),
        ('[packages]\nhello = " "', 'packages.hello is " ", not a version or range in quotes'),
        ('[packages]\n"a/b" = "1"', "packages: 'a/b' is no name of a package"),
        (
            '[packages]\npython3Packages.requests = "1"',
            "packages.python3Packages is a table "
            '(a name with a dot is quoted: "python3Packages.requests" = "latest")',
        ),
        ("[packages.hello]", "packages.hello is a table"),
        (b"[packages]\n\xff", "line 2 is no text in UTF-8"),
    ],
)
def test_what_is_wrong_with_a_manifest_is_told_in_a_line(unconfigured, file, text, told):
    file.write_bytes(text if isinstance(text, bytes) else text.encode())

    done = unconfigured("apply", file)

    assert (done.exit_code, done.stdout) == (ExitCode.USAGE, "")
    assert done.stderr.startswith(f"Error: {file}: {told}")
    assert done.stderr.count("\n") == 1


def test_a_manifest_that_can_not_be_read_is_told(unconfigured, tmp_path):
    none, folder = (unconfigured("apply", path) for path in (tmp_path / "none", tmp_path))

    assert none.stderr.startswith(f"Error: {tmp_path}/none: there is no such file (a manifest has")
    assert folder.stderr == f"Error: {tmp_path}: it can't be read: Is a directory\n"
    assert "the standard input: it isn't TOML" in unconfigured("apply", "-", input="x").stderr


def test_a_manifest_may_have_a_mark_of_byte_order_and_line_ends_of_windows(file):
    file.write_bytes(b'\xef\xbb\xbfprofile = "team"\r\n[packages]\r\nhello = "1"\r\n')

    assert Manifest.load(str(file)) == Manifest(str(file), {"hello": "1"}, "team")


def test_what_is_written_as_a_manifest_is_read_as_it_was(file):
    packages = {"python3Packages.requests": "1.0.0", "gtk+": "2.0.0", "hello": "1.0.0+k"}
    file.write_text(manifest_text(packages, "team"))

    assert Manifest.load(str(file)) == Manifest(str(file), packages, "team")
    assert manifest_text(packages, None).splitlines() == [
        *("[packages]", '"gtk+" = "2.0.0"', 'hello = "1.0.0+k"'),
        '"python3Packages.requests" = "1.0.0"',
    ]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "it is no JSON (remove it; pkgctl apply "),
        (
            '{"format": 1, "packages": {"hello": {"catalog": "nixpkgs"}}}',
            "packages.hello: catalog is no object",
        ),
        ("[]", "it has no packages"),
        ({"packages": {}}, "its format is None, and not 1"),
        ({**FORMS, "packages": {"hello": "2"}}, "packages.hello: missing 3 required positional"),
        (
            {**FORMS, "packages": {"hello": {**LOCKED, "version": 2}}},
            "packages.hello: version is no",
        ),
        (
            {**FORMS, "packages": {"hello": {**LOCKED, "more": "2"}}},
            "packages.hello: got an unexpec",
        ),
        ({**FORMS, "packages": {"hello": {**LOCKED, "catalog": {}}}}, "packages.hello: missing 4"),
        ({**FORMS, "packages": {"hello": {**LOCKED, "catalog": 1}}}, "packages.hello: "),
    ],
)
def test_what_is_wrong_with_a_lock_is_told_in_a_line(unconfigured, file, content, told):
    lock = file.with_name("pkgs.toml.lock")
    lock.write_text(content if isinstance(content, str) else json.dumps(content))

    done = unconfigured("apply", file, "--locked")

    assert (done.exit_code, done.stderr.count("\n")) == (ExitCode.USAGE, 1)
    assert done.stderr.startswith(f"Error: {lock}: {told}")


def test_a_lock_that_can_not_be_read_is_told(unconfigured, file):
    file.with_name("pkgs.toml.lock").mkdir()

    assert "pkgs.toml.lock: it can't be read: Is a directory" in unconfigured("apply", file).stderr


def test_a_lock_is_written_once_for_the_same_content(file):
    path = file.with_name("pkgs.toml.lock")
    path.write_text(json.dumps(FORMS))
    lock = Lock.load(str(file))

    assert lock.save()
    assert not Lock.load(str(file)).save()
    assert Lock.load(str(file)).packages == lock.packages


def test_a_lock_that_can_not_be_written_is_an_error_and_leaves_nothing(tmp_path):
    lock = tmp_path / "pkgs.toml.lock"
    lock.mkdir()

    for path, reason in ((lock / "none" / "lock", "No such file"), (lock, "Is a directory")):
        with pytest.raises(CommandError, match=f"can't be written: {reason}"):
            Lock(path).save()

    assert list(tmp_path.rglob("*")) == [lock]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["pkgs.toml", "hello"], "hello can be named only with --upgrade"),
        (["pkgs.toml", "--locked", "--upgrade"], "--locked takes what the lock has"),
        (["-", "--locked"], "the standard input has no lock"),
        (["pkgs.toml", "-p", "A/b"], "'A/b' is no name of a profile, such as staging"),
    ],
)
def test_options_that_do_not_go_together_are_wrong_usage(unconfigured, words, told):
    done = unconfigured("apply", *words)

    assert (done.exit_code, told in done.stderr) == (ExitCode.USAGE, True)


@pytest.mark.parametrize(
    ("lock", "told"),
    [
        (None, "Error: there is no {lock} (pkgctl apply {file} writes it)"),
        ({}, "Error: {lock}: it has no hello (pkgctl apply {file} makes it fit)"),
        ({"hello": LOCKED, "more": LOCKED}, "Error: {lock}: it has more, the manifest has not ("),
        (
            {"hello": {**LOCKED, "wanted": "^1"}},
            "Error: {lock}: hello is locked for '^1', and wanted as '^2' (",
        ),
    ],
)
def test_a_lock_that_does_not_fit_the_manifest_is_refused(unconfigured, file, lock, told):
    path = file.with_name("pkgs.toml.lock")
    if lock is not None:
        path.write_text(json.dumps({"format": 1, "packages": lock}))

    done = unconfigured("apply", "--locked", file)

    assert done.exit_code == ExitCode.REFUSED
    assert done.stderr.startswith(told.format(lock=path, file=file))
