"""Tarballs: fetched and unpacked into the store, and what they say about themselves."""

import logging
import lzma
import os
import re
import shutil
import tarfile
import time
import zlib
from base64 import b64decode
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from nix.errors import DiskFull, HashMismatch, NixError, NotATarball, error_from
from nix.garbage import delete
from nix.internal_json import ERROR, FILE_TRANSFER, PREFIX, PROGRESS, read_json
from nix.process import run, scratch
from nix.store import DOWNLOAD_OPTIONS, Store
from nix.terminal import decode, plain

FETCH_SECONDS = 3600
CLOCK_SECONDS = 0.1
SCHEMES = ("https", "http", "file")
HASH_BYTES = 32
DIGITS = "0123456789abcdfghijklmnpqrsvwxyz"  # Nix's own, for numbers to the base of 32
OLDEST = datetime(1980, 1, 2, tzinfo=UTC)  # earlier times stand for "no time" in tarballs
REVISION = re.compile(r"[0-9a-f]{40,64}")
REVISION_BYTES = 64
REVISION_FILE = ".git-revision"  # of nixpkgs' channels
UNREADABLE = (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError, ValueError)
NO_ARCHIVE = re.compile(r"[Ff]ailed to (?:open|extract) archive:? ?\(?([^\n)]*)")

NOT_WRITTEN = "Write failed"  # as libarchive says of a full disk

log = logging.getLogger(__name__)

BytesReport = Callable[[int, int], None]


@dataclass(frozen=True)
class Tarball:
    """An unpacked tarball: store path, hash, and its revision and date where it tells them.

    `sha256` is that of the unpacked tree in Nix's base 32, as builtins.fetchTarball takes it.
    """

    store_path: str
    sha256: str
    revision: str | None
    dated_at: datetime | None


@dataclass
class Transfer:
    """Reads the events of a download: bytes done and expected, and Nix's errors."""

    report: BytesReport
    activity: int | None = None
    error: str = ""

    def read(self, lines: Iterable[bytes]) -> None:
        """Take new lines of stderr."""
        for line in lines:
            with suppress(ValueError, LookupError, TypeError):
                self._read(read_json(line.removeprefix(PREFIX).decode("utf-8", "replace"))[0])

    def _read(self, event: dict[str, object]) -> None:
        match event:
            case {"action": "start", "type": kind, "id": int(activity)} if kind == FILE_TRANSFER:
                self.activity = activity
            case {
                "action": "result",
                "type": kind,
                "id": activity,
                "fields": [int(done), int(expected), *_],
            } if kind == PROGRESS and activity == self.activity:
                self.report(done, expected)
            case {"action": "msg", "level": level, "msg": str(message)} if level == ERROR:
                self.error = plain(message).removeprefix("error:").strip()


def check_url(url: str) -> None:
    """Raise ValueError, with a reason in a few words, for what is no URL of a tarball."""
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES:
        raise ValueError(f"the URL begins with none of {', '.join(f'{s}:' for s in SCHEMES)}")
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("the URL holds characters that a URL can't hold as they are")
    if parts.username is not None or parts.password is not None:
        raise ValueError("the URL holds a login, which every client would see: use netrc")
    if parts.scheme == "file" and (parts.netloc or not parts.path.startswith("/")):
        raise ValueError("the URL of a file is file:///PATH, with the whole path")
    if parts.scheme != "file" and not parts.hostname:
        raise ValueError("the URL names no server")


def base32(sha256: str) -> str:
    """Return a hash, in base 32, hexadecimal digits or the form of SRI, in Nix's base 32.

    Raises ValueError for what is none.
    """
    number = int.from_bytes(_hash_bytes(sha256.removeprefix("sha256:")), "little")
    return "".join(DIGITS[number >> shift & 31] for shift in range(255, -1, -5))


def _hash_bytes(sha256: str) -> bytes:
    if re.fullmatch(r"sha256-[A-Za-z0-9+/]{43}=", sha256):
        return b64decode(sha256.removeprefix("sha256-"), validate=True)
    if re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        return bytes.fromhex(sha256)
    if re.fullmatch(rf"[01][{DIGITS}]{{51}}", sha256):
        number = 0
        for digit in sha256:
            number = number << 5 | DIGITS.index(digit)
        return number.to_bytes(HASH_BYTES, "little")
    raise ValueError("no SHA-256 in base 32 (52 characters), base 16 (64) or SRI (sha256-…)")


@contextmanager
def fetched(
    store: Store,
    url: str,
    name: str,
    *,
    tmp: Path,
    sha256: str = "",
    seconds: float = FETCH_SECONDS,
    free_bytes: int = 0,
    report: BytesReport = lambda _done, _expected: None,
) -> Iterator[Tarball]:
    """Fetch a tarball and unpack it into the store, as `name`, for a `with` block.

    If the block fails, it is deleted.

    `sha256` in Nix's base 32 is the one it must have, and `free_bytes` are left on the disk: a
    small tarball may unpack to more than any disk holds. `report` is called with the bytes done and
    expected. No root keeps what is fetched. Raises FetchFailed, HashMismatch, NotATarball,
    DiskFull, TimedOut.
    """
    with scratch(tmp) as folder, ExitStack() as on_exception:
        deadline = time.monotonic() + seconds
        fetch = Fetch(store.with_tmp(folder), url, name, deadline, free_bytes)
        tarball = fetch.tarball(report)
        on_exception.callback(fetch.discard, tarball.store_path)
        if sha256 not in ("", tarball.sha256):
            raise HashMismatch(f"{url} has the hash {tarball.sha256}, and not {sha256}")
        yield tarball
        on_exception.pop_all()


class Fetch:
    """One fetch, which ends by `deadline`, or where the disk has less than `free_bytes` left."""

    def __init__(self, store: Store, url: str, name: str, deadline: float, free_bytes: int) -> None:
        self.store, self.url, self.name = store, url, name
        self.deadline, self.free_bytes = deadline, free_bytes
        self.began = time.time()

    def tarball(self, report: BytesReport) -> Tarball:
        """Fetch the file, look into it, and unpack it."""
        _, file = self._prefetch(self.url, f"{self.name}.tar", [], report)
        try:
            revision, dated_at = look_into(Path(file), self.url)
            sha256, tree = self._unpack(file)
        finally:
            self.discard(file)
        return Tarball(tree, sha256, revision or _noted_revision(Path(tree)), dated_at)

    def discard(self, path: str) -> None:
        """Delete a store path, unless it was there before this fetch.

        The kernel notes when Nix puts a path in its place; the margin is for its coarser clock.
        """
        try:
            if os.lstat(path).st_ctime > self.began - CLOCK_SECONDS:
                delete(self.store, path)
        except (OSError, NixError) as error:
            log.warning("%s is left to the next collection of garbage: %s", path, error)

    def _unpack(self, file: str) -> tuple[str, str]:
        try:
            return self._prefetch(Path(file).as_uri(), self.name, ["--unpack"], lambda *_: None)
        except NixError as error:
            if type(error) is NixError and (found := NO_ARCHIVE.search(str(error))):
                if NOT_WRITTEN in found[1]:
                    raise DiskFull(f"{self.url} can't be unpacked: the disk is full") from None
                raise NotATarball(
                    f"{self.url} is no tarball, or a damaged one: {found[1]}"
                ) from None
            raise

    def _discard_new(self, name: str) -> None:
        """Delete what this fetch left in the store under a name, be it finished or not."""
        for path in self.store.directory.glob(f"*-{name}"):
            self.discard(str(path))

    def _prefetch(
        self, url: str, name: str, options: list[str], report: BytesReport
    ) -> tuple[str, str]:
        """Have Nix fetch a URL into the store; return hash and store path."""
        transfer = Transfer(report)

        def hear(lines: list[bytes]) -> None:
            transfer.read(lines)
            self._check_room()

        argv = [
            "nix-prefetch-url",
            *("--log-format", "internal-json"),
            *DOWNLOAD_OPTIONS,
            *("--name", name),
            "--print-path",
            *options,
            url,
        ]
        seconds = max(0, self.deadline - time.monotonic())
        with ExitStack() as on_exception:
            on_exception.callback(self._discard_new, name)
            done = run(argv, environ=self.store.environ, seconds=seconds, heard=hear)
            if done.code:
                raise error_from(transfer.error or decode(done.stderr))
            on_exception.pop_all()
        sha256, path = done.stdout.decode().split("\n")[:2]
        return sha256, path

    def _check_room(self) -> None:
        """Raise DiskFull where less is free than is to be left."""
        for folder in (self.store.folder, self.store.environ["TMPDIR"]):
            if shutil.disk_usage(folder).free < self.free_bytes:
                told = f"{folder} would have less than {self.free_bytes} bytes free"
                raise DiskFull(f"{self.url} is too large: {told}")


def look_into(file: Path, url: str) -> tuple[str | None, datetime | None]:
    """Return the revision that `git archive` notes in a tarball, and the time of its first file.

    Raises NotATarball for an empty one, at which Nix 2.26 crashes.
    """
    with suppress(*UNREADABLE), tarfile.open(file) as tarball:
        first = tarball.next()
        if first is None:
            raise NotATarball(f"{url} is an empty tarball")
        return _revision(tarball.pax_headers.get("comment", "")), _time(first.mtime)
    return None, None


def _time(seconds: float) -> datetime | None:
    with suppress(ValueError, OverflowError, OSError):
        time = datetime.fromtimestamp(seconds, UTC)
        return time if time > OLDEST else None
    return None


def _noted_revision(tree: Path) -> str | None:
    """Return the revision that a file of the tree names."""
    with suppress(OSError), (tree / REVISION_FILE).open("rb") as file:
        return _revision(file.read(REVISION_BYTES + 1).decode("ascii", "replace").strip())
    return None


def _revision(text: str) -> str | None:
    return text if REVISION.fullmatch(text) else None
