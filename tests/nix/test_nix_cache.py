"""Publishing in a binary cache, by real Nix and real clients with stores of their own."""

import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from support import remove_store

import nix
from nix.cache import FORGET, NIX
from nix.store import call, text


@pytest.fixture
def key_file(own, tmp_path):
    """The file of a key, which signs as `cache-1`."""
    nix.make_key(own, "cache-1", tmp_path / "a key")
    return tmp_path / "a key"


@pytest.fixture
def cache(key_file, tmp_path):
    """A cache that is a folder, and is not made yet."""
    return nix.Cache(f"file://{tmp_path}/cache/of-pkgd", key_file)


@pytest.fixture
def publish(own, cache):
    """Return a function that publishes paths, and returns what was copied."""

    def publish(*paths, **options):
        return nix.publish(own, cache, paths, **{"seconds": 60} | options)

    return publish


@pytest.fixture
def fetch(own, cache, tmp_path):
    """Return a function with which a client, whose store is empty, fetches a path of the cache."""
    folders = []

    def fetch(path, key=None):
        folders.append(tmp_path / f"client{len(folders)}")
        keys = key or nix.public_key(cache.key_file)
        # The cache is of paths of the server's store: this one takes their place elsewhere.
        to = f"local?root={folders[-1]}&store={own.directory}"
        trusting = ("--option", "trusted-public-keys", keys)
        return call(own, [*NIX, "copy", "--from", cache.uri, "--to", to, *trusting, *FORGET, path])

    yield fetch
    for folder in folders:
        if folder.exists():
            remove_store(folder)


def only(folder, pattern):
    """Return the one file of a folder with such a name."""
    (file,) = folder.glob(pattern)
    return file


def test_a_client_fetches_what_was_published(own, package, publish, fetch):
    path = package("tool", "bin/tool").paths[0]
    size = int(text(call(own, ["nix-store", "--query", "--size", path])))
    assert publish(path) == nix.Copied(1, size)
    assert fetch(path).code == 0


def test_what_the_cache_has_is_not_published_again(package, publish, cache):
    path = package("tool", "bin/tool").paths[0]
    assert not cache.has(path)
    publish(path)
    assert publish(path) == nix.Copied(0, 0)
    assert cache.has(path)


def test_everybody_may_read_the_folder_which_is_made_with_those_above(package, publish, cache):
    old = os.umask(0o077)
    try:
        publish(package("tool", "bin/tool").paths[0])
    finally:
        os.umask(old)
    assert cache.folder.stat().st_mode & 0o777 == 0o755
    assert only(cache.folder, "*.narinfo").stat().st_mode & 0o777 == 0o644
    assert only(cache.folder, "nar/*").name.endswith(".nar.zst")
    assert cache.folder.parent.stat().st_mode & 0o777 == 0o711


def test_the_log_tells_of_each_path_and_not_of_the_key(package, publish):
    heard, shown = [], []
    paths = [package(name, "bin/it", content=name).paths[0] for name in ("one", "two")]
    publish(*paths, tick=lambda log, progress: (heard.append(log), shown.append(progress)))
    log = b"".join(heard).decode()
    assert all(path in log for path in paths)
    assert "secret" not in log
    assert shown[-1] == nix.Progress(2, 2, "publishing")


def test_a_client_refuses_what_another_key_has_signed(own, package, publish, fetch, tmp_path):
    path = package("tool", "bin/tool", content="unsigned").paths[0]
    publish(path)
    wrong = nix.make_key(own, "cache-1", tmp_path / "other")
    # An input-addressed path is asked for: one that is named by its content needs no signature.
    narinfo = only(tmp_path / "cache" / "of-pkgd", "*.narinfo")
    narinfo.write_text("\n".join(narinfo.read_text().splitlines()[:-1]) + "\n")  # the line CA
    refused = fetch(path, wrong)
    assert refused.code
    assert b"signature" in refused.stderr
    assert fetch(path).code == 0


def test_a_client_refuses_a_nar_that_is_damaged(package, publish, fetch, cache):
    path = package("tool", "bin/tool", content="damaged").paths[0]
    publish(path)
    nar = only(cache.folder, "nar/*")
    nar.write_bytes(nar.read_bytes()[:-9] + b"different")
    assert fetch(path).code


def test_two_publish_the_same_at_once(package, publish, fetch):
    packages = [package(f"tool{n}", "bin/tool", content=f"{n}" * 50_000) for n in range(8)]
    paths = [each.paths[0] for each in packages]
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda each: publish(*each), [paths, paths[::-1]]))
    assert {fetch(path).code for path in paths} == {0}


def test_kill_in_the_middle_leaves_nothing_half_there(package, publish, fetch, cache):
    others = psutil.Process().children(recursive=True)

    def kill(_log, _progress):
        for child in set(psutil.Process().children(recursive=True)).difference(others):
            child.kill()

    def is_killed(path):
        try:
            publish(path, tick=kill)
        except nix.NixKilled:
            return True
        return False  # it had ended before

    tools = (package("tool", f"bin/{n}", content="killed" * 3_000_000).paths[0] for n in range(9))
    path = next(path for path in tools if is_killed(path))
    assert not cache.has(path)
    publish(path)
    assert fetch(path).code == 0


def narinfo(cache, path):
    """Return the file that describes a store path."""
    return cache.folder / f"{os.path.basename(path)[:32]}.narinfo"


def nar(cache, path):
    """Return the file of a store path's content."""
    return cache.folder / re.search(r"^URL: (.*)$", narinfo(cache, path).read_text(), re.M)[1]


@pytest.fixture
def needing(own):
    """A path that needs another one."""
    expression = 'builtins.toFile "needing" "${builtins.toFile "needed" "it"}"'
    argv = ["nix-instantiate", "--eval", "--read-write-mode", "--expr", expression]
    return text(call(own, argv)).strip().strip('"')


@pytest.mark.parametrize("file", [narinfo, nar])
def test_what_a_folder_loses_meanwhile_is_copied_again(
    own, cache, publish, needing, fetch, replace_program, file
):
    publish(needing)
    lost = file(cache, Path(needing).read_text())
    losing = f'"$real" "$@" || exit 1; mkdir {cache.folder}/once && rm {lost}; exit 0'
    losing = replace_program(own, "nix", losing)

    assert nix.publish(losing, cache, [needing], seconds=60).paths == 1
    assert fetch(needing).code == 0


def test_who_is_overtaken_by_another_that_publishes_goes_on(
    own, cache, publish, needing, fetch, replace_program, tmp_path
):
    said = "error: coroutine has finished"
    overtaken = f'mkdir {tmp_path}/once && {{ echo "{said}" >&2; exit 1; }}; exec "$real" "$@"'
    nix.publish(replace_program(own, "nix", overtaken), cache, [needing], seconds=60)
    assert fetch(needing).code == 0


def test_a_folder_that_loses_everything_is_away(own, cache, publish, needing, replace_program):
    publish(needing)
    losing = replace_program(own, "nix", f'"$real" "$@"; rm {cache.folder}/*.narinfo')
    with pytest.raises(nix.CacheAway, match=r"has lost \w{32}\.narinfo"):
        nix.publish(losing, cache, [needing], seconds=60)


def test_a_bucket_needs_no_folder(own, key_file, replace_program):
    told = replace_program(own, "nix", "exit 0")
    bucket = nix.Cache("s3://bucket", key_file)
    assert nix.publish(told, bucket, ["/store/path"], seconds=60) == nix.Copied(0, 0)


# --- What goes wrong ---


def test_a_path_that_the_store_does_not_have_fails(publish, missing_path):
    with pytest.raises(nix.PublishFailed, match=r"is required|is not valid"):
        publish(missing_path)


def test_a_folder_that_can_not_be_made_fails(package, publish, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(nix.PublishFailed, match=r"folder can't be used: .*File exists"):
        publish(package("tool", "bin/tool").paths[0])


def test_a_time_limit_ends_it_for_now(own, cache, package, replace_program):
    slow = replace_program(own, "nix", "exec sleep 60")
    with pytest.raises(nix.CacheAway, match="did not end"):
        nix.publish(slow, cache, package("tool", "bin/tool").paths, seconds=0.1)


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("writing to file: No space left on device", nix.CacheAway),
        ("coroutine has finished", nix.CacheAway),
        ("creating directory '{folder}/nar': Permission denied", nix.PublishFailed),
        ("opening file '{folder}/nar/x.tmp': Input/output error", nix.CacheAway),
        ("AWS error uploading 's3://b': Unable to connect to endpoint", nix.CacheAway),
        ("AWS error uploading 's3://b': AccessDenied", nix.PublishFailed),
        ("unable to download 'http://b/x': HTTP error 503", nix.CacheAway),
        ("unable to download 'http://b/x': HTTP error 403", nix.PublishFailed),
        ("cannot connect to socket at '/socket': No such file", nix.NixUnavailable),
        ("don't know how to open Nix store 's3://b?secret-key=/k'", nix.PublishFailed),
    ],
)
def test_what_passes_is_told_from_what_does_not(own, cache, replace_program, said, kind):
    said = said.format(folder=cache.folder)
    failing = replace_program(own, "nix", f'echo "error: {said}" >&2; exit 1')
    with pytest.raises(nix.NixError) as caught:
        nix.publish(failing, cache, ["/store/path"], seconds=60)
    assert type(caught.value) is kind
    assert "/k" not in str(caught.value)


def test_a_full_disk_under_the_folder_passes(package, publish, cache, monkeypatch):
    def full(*_args, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(cache.folder), "mkdir", full)
    with pytest.raises(nix.CacheAway, match="No space left"):
        publish("/store/path")


# --- The key ---


def test_a_key_is_private_and_fits_its_public_one(own, key_file, tmp_path):
    assert key_file.stat().st_mode & 0o777 == 0o600
    assert key_file.read_text().startswith("cache-1:")
    assert nix.public_key(key_file).startswith("cache-1:")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a key"]


def test_a_key_replaces_no_other_file(own, key_file):
    before = key_file.read_text()
    with pytest.raises(FileExistsError):
        nix.make_key(own, "cache-1", key_file)
    assert key_file.read_text() == before


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        (b"cache-1:AAAA", 0o600, "holds no key"),
        (b"\xff", 0o600, "holds no key"),
        (b"", 0o644, "others may read"),
        (None, 0, "can't be read: .*No such file"),
    ],
)
def test_a_key_that_can_not_be_used_is_told(publish, key_file, content, mode, said):
    key_file.unlink()
    if content is not None:
        key_file.write_bytes(content)
        key_file.chmod(mode)
    with pytest.raises(nix.CacheKeyUnusable, match=said):
        publish("/store/path")


# --- The URI ---


@pytest.mark.parametrize(
    ("uri", "fault"),
    [
        ("file:///srv/cache", None),
        ("s3://bucket", None),
        ("s3://bucket?region=eu-1&endpoint=s3.example", None),
        ("file://relative", "is neither"),
        ("file:///srv/../etc", "is neither"),
        ("file:///srv/a b", "is neither"),
        ("file:///srv/cache?compression=xz", "is neither"),
        ("s3://user:secret@bucket", "is neither"),
        ("s3://bucket?secret-key=/k", "secret-key"),
        ("s3://bucket?region", "bad query"),
        ("https://cache.example", "can't be written to"),
        ("/srv/cache", "is neither"),
    ],
)
def test_a_uri_names_what_can_be_published_in(uri, fault):
    if fault is None:
        assert nix.check_cache_uri(uri) == uri
    else:
        with pytest.raises(ValueError, match=fault):
            nix.check_cache_uri(uri)


def test_machines_get_the_uri_without_what_is_for_this_host(key_file):
    cache = nix.Cache("s3://bucket?region=eu-1&profile=robot", key_file)
    assert cache.public_uri == "s3://bucket?region=eu-1"
    assert cache.target.startswith("s3://bucket?region=eu-1&profile=robot&secret-key=")
    assert (cache.folder, cache.has("/store/any")) == (None, True)
    assert nix.Cache("s3://bucket", key_file).public_uri == "s3://bucket"


def test_a_ping_tells_whether_a_cache_is_there(own, cache, key_file, replace_program):
    nix.ping(own, cache)
    bucket = nix.Cache("s3://bucket", key_file)
    away = replace_program(own, "nix", 'echo "error: Unable to connect: $5" >&2; exit 1')
    with pytest.raises(nix.NixError, match="Unable to connect: --store"):
        nix.ping(away, bucket)


def test_only_publishing_gets_the_secrets_of_the_bucket(own, cache, replace_program, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of the bucket")
    assert "AWS_SECRET_ACCESS_KEY" not in nix.private_store(own.directory.parent).environ
    told = replace_program(own, "nix", 'echo "error: $AWS_SECRET_ACCESS_KEY" >&2; exit 1')
    with pytest.raises(nix.PublishFailed, match="of the bucket"):
        nix.publish(told, cache, ["/store/path"], seconds=60)


# --- Sweeping ---


@pytest.fixture
def two(package, publish):
    """Two paths that were published."""
    paths = [package(name, "it", content=name).paths[0] for name in ("kept", "gone")]
    publish(*paths)
    return paths


def test_a_sweep_leaves_what_is_kept_and_nothing_else(own, two, cache, fetch):
    kept, gone = two
    (cache.folder / "nar" / "left.nar.zst").write_text("by a killed nix")
    (cache.folder / "x.narinfo.tmp.1").write_text("by a killed nix")
    before = sum(file.stat().st_size for file in cache.folder.rglob("*") if file.is_file())
    swept = nix.sweep_cache(cache.folder, nix.closure(own, [kept]), dry_run=False)
    after = sum(file.stat().st_size for file in cache.folder.rglob("*") if file.is_file())
    assert swept == nix.Swept(1, before - after)
    assert [file.name[:32] for file in cache.folder.glob("*.narinfo*")] == [Path(kept).name[:32]]
    assert len(list(cache.folder.glob("nar/*"))) == 1
    assert (fetch(kept).code, fetch(gone).code) == (0, 1)


def test_a_dry_sweep_tells_the_same_and_removes_nothing(two, cache):
    foreseen = nix.sweep_cache(cache.folder, two[:1], dry_run=True)
    assert foreseen.freed_bytes > 0
    assert len(list(cache.folder.glob("nar/*"))) == 2
    assert nix.sweep_cache(cache.folder, two[:1], dry_run=False) == foreseen


def test_a_damaged_narinfo_stops_a_sweep(two, cache):
    for narinfo in cache.folder.glob("*.narinfo"):
        narinfo.write_text("")
    with pytest.raises(nix.NixError, match="is damaged"):
        nix.sweep_cache(cache.folder, two, dry_run=False)
    assert len(list(cache.folder.glob("nar/*"))) == 2


def test_a_sweep_of_a_folder_that_is_not_there_finds_nothing(tmp_path):
    assert nix.sweep_cache(tmp_path / "none", [], dry_run=False) == nix.Swept(0, 0)
