"""The binary cache: publishing store paths in it, its key, and sweeping one that is a folder.

`nix copy` does the work. It signs what it copies, copies references before the paths that need
them, and renames each file into place: killed at any moment, it leaves no path incomplete.
"""

import base64
import errno
import os
import re
import stat
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from nix.errors import (
    CacheAway,
    CacheKeyUnusable,
    NixError,
    NixUnavailable,
    PublishFailed,
    TimedOut,
    is_about_full_disk,
)
from nix.faults import host_fault
from nix.fetching import fetch_fault
from nix.internal_json import Progress, Tick, ignore
from nix.process import run
from nix.store import (
    AWS_SECRETS,
    DOWNLOAD_OPTIONS,
    Store,
    call,
    call_in_batches,
    error_message,
    make_passable,
    text,
)
from nix.terminal import decode

PHASE = "publishing"
PING_SECONDS = 10
MODE = 0o755
OTHERS = stat.S_IRWXG | stat.S_IRWXO
INFO = "nix-cache-info"
NARINFO = re.compile(r"([0-9a-df-np-sv-z]{32})\.narinfo")
NAR = re.compile(r"[0-9a-df-np-sv-z]{52}\.nar\.zst")
UNFINISHED = re.compile(r"\.narinfo\.tmp")  # left by a nix that was killed
URL_OF_NAR = re.compile(r"^URL: nar/([^/\n]+)$", re.MULTILINE)
REFERENCES = re.compile(r"^References: (.*)$", re.MULTILINE)

NIX = ("nix", "--extra-experimental-features", "nix-command")
# Nix caches what a cache has by its URI, where there may have been another cache.
FORGET = (
    *("--option", "narinfo-cache-positive-ttl", "0"),
    *("--option", "narinfo-cache-negative-ttl", "0"),
)
KEY = re.compile(r"([\w.+-]+):([A-Za-z0-9+/]{86}==)", re.ASCII)
KEY_NAME = re.compile(r"[\w.+-]{1,100}", re.ASCII)
FOLDER = re.compile(r"(/(?!\.{1,2}(/|$))[\w.+-]+)+", re.ASCII)
BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
OWN_PARAMETERS = {"secret-key", "compression"}
OWN_PARAMETER = re.compile(r"[?&](?:secret-key|compression)=[^&'\s]*")
LOCAL_PARAMETERS = {"profile"}  # of the credentials on this host

COUNT = re.compile(r"copying (\d+) paths\.\.\.")
COPYING = re.compile(r"copying path '([^'\n]+)' to ")
PASSING = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT}
PASSES = re.compile(
    "|".join(map(re.escape, map(os.strerror, PASSING)))
    + r"|curlCode: (?!6[07])|[Uu]nable to connect|[Cc]onnection (refused|reset|timed out)"
    + r"|[Rr]esolve host|[Tt]imed out|unreachable|No route to host"
    + r"|coroutine has finished"
    + r"|SlowDown|ServiceUnavailable|InternalError|RequestTimeout|HTTP (error|response code:?) 5"
)

# Nix 2.8 skips the rest of what it copies, too, when another has published a path meanwhile.
OVERTAKEN = re.compile(r"coroutine has finished")
OVERTAKEN_TIMES = 5


@dataclass(frozen=True)
class Cache:
    """A binary cache: its store URI, and the file with the key that signs what is published."""

    uri: str
    key_file: Path

    @property
    def folder(self) -> Path | None:
        """The folder that the cache is; None for a cache of another kind."""
        return Path(self.uri.removeprefix("file://")) if self.uri.startswith("file:") else None

    @property
    def target(self) -> str:
        """The URI by which Nix publishes."""
        separator = "&" if "?" in self.uri else "?"
        return f"{self.uri}{separator}secret-key={quote(str(self.key_file))}&compression=zstd"

    @property
    def public_uri(self) -> str:
        """The URI for machines that read, without what is meant for this host alone."""
        base, _, query = self.uri.partition("?")
        kept = [one for one in parse_qsl(query) if one[0] not in LOCAL_PARAMETERS]
        return f"{base}?{urlencode(kept)}" if kept else base

    def has(self, store_path: str) -> bool:
        """Tell whether the cache has a path; True without a look where it is no folder."""
        folder = self.folder
        return folder is None or os.path.exists(folder / f"{hash_of(store_path)}.narinfo")

    @property
    def place(self) -> Path | None:
        """The folder, or its nearest parent that exists; None for a cache of another kind."""
        place = self.folder
        while place is not None and not os.path.exists(place):  # raises nothing
            place = place.parent
        return place


@dataclass(frozen=True)
class Copied:
    """What was new to the cache: how many store paths, and their bytes before compression."""

    paths: int
    size: int


@dataclass(frozen=True)
class Swept:
    """What a sweep removed or would remove: how many store paths, and their bytes on disk."""

    paths: int
    freed_bytes: int


def check_cache_uri(uri: str) -> str:
    """Return the URI of a cache that can be published in. Raises ValueError."""
    scheme, _, rest = uri.partition("://")
    if scheme == "file" and FOLDER.fullmatch(rest):
        return uri
    if scheme == "s3" and BUCKET.fullmatch(rest.partition("?")[0]):
        names = {name for name, _ in parse_qsl(urlsplit(uri).query, strict_parsing="?" in rest)}
        if own := sorted(names & OWN_PARAMETERS):
            raise ValueError(f"sets {own[0]}, which pkgd sets itself")
        return uri
    if scheme in ("http", "https"):
        raise ValueError("can't be written to: name the folder or the bucket behind it")
    raise ValueError("is neither file:///PATH, of letters, digits and . _ + -, nor s3://BUCKET")


# --- The key ---


def make_key(store: Store, name: str, file: Path) -> str:
    """Make the key that signs, in a new file that nobody else may read; return the public one.

    Raises FileExistsError where the file is there already.
    """
    # Nix makes the file readable to everybody: so in a folder that nobody else may enter.
    with TemporaryDirectory(dir=file.parent) as folder:
        draft = Path(folder, "secret")
        argv = ["nix-store", "--generate-binary-cache-key", name, str(draft), f"{folder}/public"]
        text(call(store, argv))
        draft.chmod(0o600)
        file.hardlink_to(draft)  # unlike a rename, it replaces nothing
    return public_key(file)


def public_key(file: Path) -> str:
    """Return the public key of the secret one in a file. Raises CacheKeyUnusable."""
    try:
        if file.stat().st_mode & OTHERS:
            raise CacheKeyUnusable(f"others may read the key {file}: chmod 600 it")
        key = KEY.fullmatch(file.read_text().strip())
    except OSError as error:
        raise CacheKeyUnusable(f"the key can't be read: {error}") from None
    except UnicodeError:
        key = None
    if key is None:
        how = "flask cache-key makes one"
        raise CacheKeyUnusable(f"{file} holds no key of a cache: {how}")
    # libsodium's form of an Ed25519 key: the secret half, and the public one.
    public = base64.b64encode(base64.b64decode(key[2])[32:]).decode()
    return f"{key[1]}:{public}"


# --- Publishing ---


def publish(
    store: Store, cache: Cache, paths: Sequence[str], *, seconds: float, tick: Tick = ignore
) -> Copied:
    """Copy the closures of store paths to the cache, signed; what it has already is not copied.

    `tick` is called as by `realise`. Raises CacheAway where a later attempt may succeed;
    PublishFailed; NixUnavailable.
    """
    public_key(cache.key_file)
    if cache.folder is not None:
        _make_folder(cache.folder)
    reader = _Reader()
    _copy(store, cache, paths, reader, seconds, tick)
    if cache.folder is not None and _lost(cache.folder, paths):
        _copy(store, cache, paths, reader, seconds, tick)
        if lost := _lost(cache.folder, paths):
            raise CacheAway(f"{cache.folder} has lost {lost[0]}.narinfo, or its nar, meanwhile")
    copied = list(dict.fromkeys(reader.copied))
    sizes = call_in_batches(store, ["nix-store", "--query", "--size"], copied)
    return Copied(len(copied), sum(map(int, sizes)))


def _copy(
    store: Store, cache: Cache, paths: Sequence[str], reader: "_Reader", seconds: float, tick: Tick
) -> None:
    argv = [*NIX, "copy", "--log-format", "raw", "--to", cache.target, *FORGET, *DOWNLOAD_OPTIONS]
    for _ in range(OVERTAKEN_TIMES):
        try:
            done = run(
                [*argv, *paths],
                environ=_with_credentials(store),
                seconds=seconds,
                heard=lambda lines: tick(reader.read(lines), reader.progress),
            )
        except TimedOut as error:
            raise CacheAway(f"publishing did not end: {error}") from None
        if not (done.code and OVERTAKEN.search(error_message(done))):
            break
    if done.code:
        raise _failure(cache, error_message(done))


def ping(store: Store, cache: Cache) -> None:
    """Check that a cache answers, or that its folder can be written or made. Raises NixError."""
    place = cache.place
    if place is not None:
        if not (place.is_dir() and os.access(place, os.W_OK | os.X_OK)):
            raise PublishFailed(f"{place} can't be written, or is no folder")
        return
    credentials = Store(_with_credentials(store))
    text(call(credentials, [*NIX, "store", "ping", "--store", cache.uri], seconds=PING_SECONDS))


class _Reader:
    """Reads what nix copy writes: the log, and how far it is."""

    def __init__(self) -> None:
        self.progress = Progress(0, 0, PHASE)
        self.copied: list[str] = []

    def read(self, lines: Iterable[bytes]) -> bytes:
        """Return what the lines add to the task's log."""
        return b"".join(map(self._line, lines))

    def _line(self, line: bytes) -> bytes:
        said = _without_key(decode(line))
        if count := COUNT.fullmatch(said):
            self.progress = replace(self.progress, expected=int(count[1]))
            if not self.progress.expected:
                return b""
        elif copying := COPYING.match(said):
            self.copied.append(copying[1])
            self.progress = replace(self.progress, done=len(self.copied))
        return said.encode() + b"\n"


def _make_folder(folder: Path) -> None:
    """Make the folder of a cache, which a web server reads as another user."""
    try:
        if not folder.is_dir():
            make_passable(folder.parent)
            folder.mkdir(exist_ok=True)
            folder.chmod(MODE)
    except OSError as error:
        kind = CacheAway if error.errno in PASSING else PublishFailed
        raise kind(f"the cache's folder can't be used: {error}") from None


def _lost(folder: Path, paths: Iterable[str]) -> list[str]:
    """Return the hashes of what a folder lacks of these paths and of all that they need.

    Nix looks at what a cache has before it copies, and doesn't notice what is removed meanwhile.
    """
    left, seen, lost = set(map(hash_of, paths)), set[str](), []
    while left:
        seen.add(name := left.pop())
        info = _narinfo(folder, name)
        if info is None:
            lost.append(name)
        else:
            left |= set(map(hash_of, " ".join(REFERENCES.findall(info)).split())) - seen
    return lost


def _narinfo(folder: Path, name: str) -> str | None:
    """Return a narinfo whose nar is there, else None; Nix would go by one without, so it goes."""
    with suppress(OSError):
        file = folder / f"{name}.narinfo"
        info = file.read_text(errors="replace")
        url = URL_OF_NAR.search(info)
        if url and (folder / "nar" / url[1]).exists():
            return info
        file.unlink()
    return None


def _with_credentials(store: Store) -> dict[str, str]:
    """Return the store's environment with the secrets that only publishing needs."""
    given = {name: os.environ[name] for name in AWS_SECRETS if name in os.environ}
    return {**store.environ, **given}


def _failure(cache: Cache, message: str) -> NixError:
    """Return the error that a message of nix copy stands for."""
    said = _without_key(message)
    is_about_cache = cache.folder is not None and str(cache.folder) in message
    if not is_about_cache and host_fault(message):
        return NixUnavailable(said)
    fault = fetch_fault(message)
    if is_about_full_disk(message) or PASSES.search(message) or (fault and fault.is_transient):
        return CacheAway(said)
    return PublishFailed(said)


def _without_key(said: str) -> str:
    """Remove from a message the parameters that pkgd has added to the URI of the cache."""
    return OWN_PARAMETER.sub("", said)


# --- Sweeping ---


def sweep_cache(folder: Path, kept: Collection[str], *, dry_run: bool) -> Swept:
    """Remove from a cache all store paths but those `kept`, which is a closed set.

    Nobody may publish meanwhile. A path's narinfo goes first: without it, no client asks for the
    rest. Raises NixError, and removes nothing, for a narinfo that can't be parsed.
    """
    hashes = set(map(hash_of, kept))
    needed, gone = set(), []
    for file in _files(folder):
        found = NARINFO.fullmatch(file.name)
        if UNFINISHED.search(file.name) or (found and found[1] not in hashes):
            gone.append(file)
        elif found:
            needed.add(_nar_of(file))
    nars = [file for file in _files(folder / "nar") if file.name not in needed]
    size = sum(file.lstat().st_size for file in (*gone, *nars))
    if not dry_run:
        for file in (*gone, *nars):
            file.unlink(missing_ok=True)
    return Swept(sum(bool(NARINFO.fullmatch(file.name)) for file in gone), size)


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return [Path(one) for one in entries if one.is_file(follow_symlinks=False)]


def _nar_of(narinfo: Path) -> str:
    url = URL_OF_NAR.search(narinfo.read_text(errors="replace"))
    if url is None:
        raise NixError(f"{narinfo} is damaged: remove it, and publish again")
    return url[1]


def hash_of(store_path: str) -> str:
    """Return the hash of a store path, which names its narinfo."""
    return os.path.basename(store_path)[:32]
