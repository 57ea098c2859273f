"""Tarballs: fetched by Nix, with what they tell of themselves, and nothing left of a failure."""

import base64
import os
import subprocess
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support import remove_store
from tarballs import DATE, REVISION, catalog, tarball

import nix

TEXT = catalog(app="1.0.0")
NOT_IT = "0" * 52


@pytest.fixture
def own(tmp_path):
    """A store for this test alone."""
    yield nix.private_store(tmp_path / "own")
    remove_store(tmp_path / "own")


@pytest.fixture
def fetch(own, tmp_path):
    """Return a function that fetches a tarball into that store."""

    def fetch(url, **options):
        with nix.fetched(own, url, "pin", tmp=tmp_path / "tmp", **options) as fetched:
            return fetched

    return fetch


def in_store(store):
    """Return the names of what is in a store, without their hashes."""
    return [path.name[33:] for path in store.directory.glob("*") if not path.name.startswith(".")]


def test_a_file_is_unpacked_into_the_store_with_its_revision_and_date(fetch, own, tmp_path):
    url = tarball(tmp_path / "a.tar.gz", default_nix=TEXT, revision=REVISION)

    got = fetch(url)

    assert (Path(got.store_path) / "default.nix").read_text() == TEXT
    assert (got.revision, got.dated_at) == (REVISION, DATE)
    assert in_store(own) == ["pin"]
    ask = ["nix-hash", "--type", "sha256", "--base32", got.store_path]
    assert got.sha256 == subprocess.check_output(ask, text=True).strip()


def test_a_url_of_http_is_fetched_and_the_progress_is_told(fetch, web, tmp_path):
    tarball(tmp_path / "a.tar.xz", mode="w:xz", default_nix=TEXT)
    web.content = (tmp_path / "a.tar.xz").read_bytes()
    told = []

    got = fetch(f"{web.url}/200/a.tar.xz", report=lambda *counts: told.append(counts))

    assert (Path(got.store_path) / "default.nix").read_text() == TEXT
    assert told[-1] == (len(web.content), len(web.content))


def test_the_revision_may_be_in_a_file_of_the_tree(fetch, tmp_path):
    url = tarball(tmp_path / "a.tar", mode="w", **{"default_nix": TEXT, "_git-revision": REVISION})

    assert fetch(url).revision == REVISION


@pytest.mark.parametrize("revision", [None, "no revision", "f" * 39])
def test_a_tarball_that_tells_nothing_has_no_revision_and_no_date(fetch, tmp_path, revision):
    beginning = datetime(1980, 1, 1, tzinfo=UTC)
    url = tarball(tmp_path / "a.tar.gz", default_nix=TEXT, revision=revision, date=beginning)

    got = fetch(url)

    assert (got.revision, got.dated_at) == (None, None)


def test_a_time_past_all_calendars_is_no_date(fetch, tmp_path):
    url = tarball(tmp_path / "a.tar", mode="w", default_nix=TEXT)
    data = bytearray((tmp_path / "a.tar").read_bytes())
    data[136:148] = b"\x80\x00\x00\x00\x7f" + b"\xff" * 7
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    (tmp_path / "a.tar").write_bytes(data)

    assert fetch(url).dated_at is None


def test_an_archive_that_only_nix_can_read_tells_nothing(fetch, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("catalog/default.nix", TEXT)

    got = fetch((tmp_path / "a.zip").as_uri())

    assert (Path(got.store_path) / "default.nix").read_text() == TEXT
    assert (got.revision, got.dated_at) == (None, None)


def test_an_empty_tarball_is_refused(fetch, tmp_path):
    with pytest.raises(nix.NotATarball, match=r"is an empty tarball$"):
        fetch(tarball(tmp_path / "a.tar"))


def test_the_hash_may_be_given(fetch, own, tmp_path):
    url = tarball(tmp_path / "a.tar.gz", default_nix=TEXT)
    sha256 = fetch(url).sha256

    assert fetch(url, sha256=sha256).sha256 == sha256


def test_another_hash_is_told_with_both_and_leaves_nothing(fetch, own, tmp_path):
    url = tarball(tmp_path / "a.tar.gz", default_nix=TEXT)

    with pytest.raises(nix.HashMismatch) as told:
        fetch(url, sha256=NOT_IT)

    assert f"{url} has the hash " in str(told.value)
    assert f", and not {NOT_IT}" in str(told.value)
    assert in_store(own) == []


def test_what_was_in_the_store_before_stays_there(fetch, own, tmp_path):
    url = tarball(tmp_path / "a.tar.gz", default_nix=TEXT)
    fetch(url)
    path = next(own.directory.glob("*-pin"))
    nix.run(["sleep", "0.3"], environ=os.environ, seconds=10)

    with pytest.raises(nix.HashMismatch):
        fetch(url, sha256=NOT_IT)

    assert path.exists()


def test_a_failure_in_the_block_deletes_what_was_fetched(own, tmp_path):
    url = tarball(tmp_path / "a.tar.gz", default_nix=TEXT)

    found = []

    def interrupted():
        with nix.fetched(own, url, "pin", tmp=tmp_path / "tmp"):
            found.extend(in_store(own))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()

    assert (found, in_store(own)) == (["pin"], [])


def test_what_can_not_be_deleted_after_a_failure_is_logged(own, tmp_path, caplog):
    url = tarball(tmp_path / "a.tar.gz", default_nix=TEXT)

    def failing():
        with nix.fetched(own, url, "pin", tmp=tmp_path / "tmp") as fetched:
            nix.add_root(own, fetched.store_path, tmp_path / "root")
            raise KeyError

    with pytest.raises(KeyError):
        failing()

    assert in_store(own) == ["pin"]
    assert "-pin is left to the next collection of garbage: " in caplog.text


@pytest.mark.parametrize(
    ("mode", "part"), [("w:gz", 0.5), ("w:xz", 0.5), ("w", 0.3), ("w:gz", 0.01)]
)
def test_a_truncated_tarball_is_told_and_leaves_nothing(fetch, own, tmp_path, mode, part):
    noise = base64.b64encode(os.urandom(30_000)).decode()
    url = tarball(tmp_path / "a.tar", mode=mode, default_nix=TEXT, noise=noise)
    whole = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(whole[: int(len(whole) * part)])

    with pytest.raises(nix.NotATarball, match="is no tarball, or a damaged one: ") as told:
        fetch(url)

    assert str(told.value).count("\n") == 0
    assert in_store(own) == []


def test_a_transfer_that_breaks_off_is_told_and_leaves_nothing(fetch, own, web):
    web.content, web.sent_bytes = bytes(1000), 500

    with pytest.raises(nix.FetchFailed, match="the connection broke off"):
        fetch(f"{web.url}/200/a.tar")

    assert in_store(own) == []


@pytest.mark.parametrize(
    ("url", "cause"),
    [
        ("{web}/404/a.tar", "the server has nothing there"),
        ("http://127.0.0.1:1/a.tar", "the connection was refused"),
        ("http://nowhere.invalid/a.tar", "the host's name can't be resolved"),
        ("file:///nowhere/a.tar", "there is no such file"),
    ],
)
def test_what_can_not_be_fetched_is_told_with_the_cause(fetch, own, web, url, cause):
    with pytest.raises(nix.FetchFailed, match=cause):
        fetch(url.format(web=web.url))

    assert in_store(own) == []


def test_a_fetch_ends_in_time(own, tmp_path, monkeypatch):
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "nix-prefetch-url").write_text("#!/bin/sh\necho '@nix {'>&2\nexec sleep 60\n")
    (programs / "nix-prefetch-url").chmod(0o755)
    slow = nix.Store({**own.environ, "PATH": f"{programs}:{os.environ['PATH']}"})

    with (
        pytest.raises(nix.TimedOut),
        nix.fetched(slow, "file:///a", "pin", tmp=tmp_path / "tmp", seconds=0.2),
    ):
        pass


def test_a_tarball_that_leaves_too_little_room_on_the_disk_is_given_up(fetch, own, tmp_path):
    with pytest.raises(nix.DiskFull, match=r"a\.tar\.gz is too large: .* bytes free"):
        fetch(tarball(tmp_path / "a.tar.gz", default_nix=TEXT), free_bytes=2**60)

    assert in_store(own) == []


@pytest.mark.parametrize(
    "said", ["No space left on device", "failed to extract archive (Write failed)"]
)
def test_a_fault_of_the_store_is_no_fault_of_the_tarball(own, tmp_path, said):
    programs = tmp_path / "programs"
    programs.mkdir()
    begin = f"mkdir $NIX_STORE_DIR/{32 * '0'}-pin"  # as Nix leaves it on a full disk
    full = f'case "$*" in *--unpack*) {begin}; echo "error: {said}" >&2; exit 1;; esac'
    real = subprocess.check_output(["which", "nix-prefetch-url"], text=True).strip()
    (programs / "nix-prefetch-url").write_text(f'#!/bin/sh\n{full}\nexec {real} "$@"\n')
    (programs / "nix-prefetch-url").chmod(0o755)
    ill = nix.Store({**own.environ, "PATH": f"{programs}:{os.environ['PATH']}"})
    url = tarball(tmp_path / "a.tar.gz", default_nix=TEXT)

    with pytest.raises(nix.DiskFull), nix.fetched(ill, url, "pin", tmp=tmp_path / "tmp"):
        pass

    assert in_store(own) == []


# --- URLs and hashes ---


@pytest.mark.parametrize(
    "url", ["https://example.org/a.tar.gz", "http://[::1]:80/a?b=c", "file:///a%20b.tar"]
)
def test_a_url_of_a_tarball_is_one(url):
    assert nix.check_url(url) is None


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("ftp://example.org/a.tar", "begins with none of https:, http:, file:"),
        ("/srv/a.tar", "begins with none of"),
        ("--help", "begins with none of"),
        ("https:///a.tar", "names no server"),
        ("file://host/a.tar", "file:///PATH"),
        ("file:a.tar", "file:///PATH"),
        ("https://user:secret@example.org/a.tar", "holds a login"),
        ("https://example.org/a b", "holds characters"),
        ("https://example.org/é", "holds characters"),
        ("https://[/a", "Invalid IPv6 URL"),
    ],
)
def test_what_is_no_url_of_a_tarball_is_told_why(url, why):
    with pytest.raises(ValueError, match=why):
        nix.check_url(url)


DIGITS_32 = "0cn87r16aqcfv09g9n4nh7wklqiigrrgriqwqgiaib8ac2r7g146"


def to_base16(digits):
    ask = ["nix-hash", "--to-base16", "--type", "sha256", digits]
    return subprocess.check_output(ask, text=True).strip()


def test_a_hash_is_read_in_each_of_nixs_forms():
    base16 = to_base16(DIGITS_32)
    sri = f"sha256-{base64.b64encode(bytes.fromhex(base16)).decode()}"

    forms = [DIGITS_32, f"sha256:{DIGITS_32}", base16, base16.upper(), sri]

    assert {nix.base32(form) for form in forms} == {DIGITS_32}


@pytest.mark.parametrize(
    "text", ["", "x", "2" + "0" * 51, "e" * 52, "0" * 63, "sha256-AAAA", "sha512-" + "A" * 43 + "="]
)
def test_what_is_no_hash_is_refused(text):
    with pytest.raises(ValueError, match="no SHA-256"):
        nix.base32(text)
