"""What a sync remembers, in a folder beside the profile, and the lock on that folder."""

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_origin, get_type_hints

from pkgctl import files
from pkgctl.config import PRIVATE
from pkgctl.errors import CommandError, ExitCode
from pkgctl.output import warn

PRIVATE_FOLDER = 0o700


class Checked:
    """A part of the state, whose values may come from a damaged file. Raises TypeError."""

    def __post_init__(self) -> None:
        """Check the type of every value."""
        for name, kind in get_type_hints(type(self)).items():
            if not isinstance(getattr(self, name), dict if get_origin(kind) is dict else kind):
                raise TypeError(name)


@dataclass(frozen=True)
class Offer(Checked):
    """A store path that a profile offers, with the number of its generation on the server."""

    store_path: str
    generation: int | None = None


@dataclass(frozen=True)
class Trial(Checked):
    """An offer whose check has not passed yet; `before` is the number of what was active before.

    `cut_short` is how often the check was begun and did not end.
    """

    offer: Offer
    before: int | None
    cut_short: int = 0


@dataclass(frozen=True)
class Refusal(Checked):
    """A store path that isn't to be tried again, and why."""

    store_path: str
    error: str


@dataclass
class SyncState(Checked):
    """What a sync remembers.

    `source` is URL, profile and machine of the last answer, and `etag` the ETag of that. `numbers`
    are the server's generation numbers, by store path, of generations that passed their check.
    `error` is why the last attempt to take an offer failed.
    """

    source: str = ""
    etag: str | None = None
    offered: Offer | None = None
    numbers: dict[str, int | None] = field(default_factory=dict)
    trying: Trial | None = None
    refused: Refusal | None = None
    error: str | None = None

    def __post_init__(self) -> None:
        """Check the type of every value."""
        super().__post_init__()
        for number in self.numbers.values():
            if not isinstance(number, int | None):
                raise TypeError(number)


PARTS = {"offered": Offer, "refused": Refusal}


class StateFolder:
    """The folder beside a profile: state, lock, trusted keys, and the files that Nix needs."""

    def __init__(self, profile: Path) -> None:
        self.path = profile.with_name(f"{profile.name}.sync")
        self.root = self.path / "next"  # keeps what was fetched until the profile does
        self.home = self.path / "home"
        self.netrc = self.path / "netrc"
        self._state = self.path / "state.json"
        self._keys = self.path / "public_keys"

    def load(self) -> SyncState:
        """Read the state; warn of a damaged one, and begin anew. Raises CommandError."""
        with faults_told(self._state):
            data = self._state.read_bytes() if self._state.exists() else None
        if data is None:
            return SyncState()
        try:
            return _state_of(json.loads(data))
        except (ValueError, TypeError, LookupError, RecursionError):
            warn(f"{self._state} is damaged: what it remembered is learnt anew")
            return SyncState()

    def save(self, state: SyncState) -> None:
        """Replace the state in one step. Raises CommandError."""
        _write(self._state, json.dumps(asdict(state), indent=2))

    def trusted(self) -> list[str] | None:
        """Return the public keys that are trusted; None where none has been seen yet.

        They are in a file of their own, so that a damaged state makes no other key trusted.
        Raises CommandError.
        """
        with faults_told(self._keys):
            return self._keys.read_text(errors="replace").split() if self._keys.exists() else None

    def trust(self, keys: Sequence[str]) -> None:
        """Replace the public keys that are trusted. Raises CommandError."""
        _write(self._keys, "".join(f"{key}\n" for key in keys))

    @contextmanager
    def password(self, host: str, login: str, token: str) -> Iterator[Path]:
        """Keep login and token in a netrc file for one host, as long as the `with` block takes.

        It is here, and not in a temporary folder, because Nix's daemon has to read it.
        """
        _write(self.netrc, f"machine {host} login {login} password {token}\n")
        try:
            yield self.netrc
        finally:
            self.netrc.unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[int | None]:
        """Lock the folder, which is made if need be; yield the lock's descriptor, None if taken."""
        with faults_told(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.mkdir(PRIVATE_FOLDER, exist_ok=True)
            self.home.mkdir(PRIVATE_FOLDER, exist_ok=True)
            descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, PRIVATE)
        is_ours = False
        try:
            with suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                is_ours = True
            yield descriptor if is_ours else None
        finally:
            os.close(descriptor)


def _state_of(content: Any) -> SyncState:
    """Return the state of a JSON document, which may be anything. Raises TypeError."""
    if not isinstance(content, dict):
        raise TypeError(content)
    if trial := content.get("trying"):
        content["trying"] = Trial(**trial | {"offer": _part(Offer, trial["offer"])})
    for name, kind in PARTS.items():
        content[name] = _part(kind, content.get(name))
    return SyncState(**content)


def _part(kind: type, value: Any) -> Any:
    return None if value is None else kind(**value)


def _write(path: Path, text: str) -> None:
    with faults_told(path):
        files.replace(path, text, PRIVATE)


@contextmanager
def faults_told(path: Path) -> Iterator[None]:
    """Turn the faults of a file, such as a full disk, into a CommandError."""
    try:
        yield
    except OSError as error:
        hint = "--to names another place" if isinstance(error, PermissionError) else ""
        message = f"{path} can't be used: {error.strerror}"
        raise CommandError(message, ExitCode.MACHINE_FAILED, hint) from None
