"""The journal of a build: what nix-build says of itself, read from its internal-json lines.

NixOS/nix, src/libutil/logging.hh has the numbers of levels, activities and results.
"""

import json
import re
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from nix.process import LINE_BYTES, NixError, TimedOut

PREFIX = b"@nix "
ERROR, NOTICE, INFO = 0, 2, 3
COPY_PATH, FILE_TRANSFER, COPY_PATHS, BUILDS, BUILD, SUBSTITUTE = 100, 101, 103, 104, 105, 108
LOG_LINE, PROGRESS, HOOK_LOG_LINE = 101, 105, 107
LOG_LINES = {LOG_LINE, HOOK_LOG_LINE}
TRANSFERS = {COPY_PATH, FILE_TRANSFER, SUBSTITUTE}

BUILDER_FAILED = 100

QUOTED_LINES = 10
QUOTED_CHARACTERS = 300
KEPT_LINES = 1000
MESSAGE_CHARACTERS = 4000

ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\^_])")
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
FULL_DISK = re.compile(r"No space left on device|database or disk is full|Disk quota exceeded")
TIMED_OUT = re.compile(r"timed out after (\d+) seconds( of silence)?")
HASH_MISMATCH = re.compile(r"hash mismatch in ")
STORE_NAME = re.compile(r"[0-9a-z]{32}-(.+?)(?:\.drv)?$")


class BuildFailed(NixError):
    """A builder failed, or Nix could not build at all."""

    code = "build_failed"
    hint = "read the end of the build's log; the recipe is at fault, or it doesn't fit this machine"


class HashMismatch(NixError):
    """What was fetched is not what the catalog promises."""

    code = "hash_mismatch"
    hint = "the source has changed since the catalog was written: update the catalog"


class DiskFull(NixError):
    """The disk of the store or of the build has no space left."""

    code = "disk_full"
    hint = "free some space (flask gc), then try again"


@dataclass(frozen=True)
class Progress:
    """How far a download is: builds and copies done and expected, and what goes on now."""

    done: int
    expected: int
    phase: str


# less ceremony than json.loads: a long log has a hundred thousand lines
read_json = json.JSONDecoder().raw_decode

Tick = Callable[[bytes, Progress], None]
Event = dict[str, Any]


def ignore(_log: bytes, _progress: Progress) -> None:
    """Take no notice: a tick for those who only want the end."""


def plain(text: str) -> str:
    """Return `text` as a terminal would show it, without colours and control characters."""
    return text if text.isprintable() else CONTROL.sub("", ESCAPE.sub("", text))


def decode(data: bytes) -> str:
    """Return what a program wrote as plain text, with U+FFFD for what is no UTF-8."""
    return plain(data.decode("utf-8", "replace"))


def failure(text: str, otherwise: type[NixError]) -> NixError:
    """Return the error that Nix's message `text` speaks of, by default `otherwise`."""
    text = text.strip()[-MESSAGE_CHARACTERS:]
    return (DiskFull if FULL_DISK.search(text) else otherwise)(text)


def name_of(store_path: str) -> str:
    """Return the name in a store path, without its hash and the ending of a derivation."""
    match = STORE_NAME.search(store_path)
    return match[1] if match else store_path


class Journal:
    """Reads what one nix-build writes to stderr, and keeps what matters of it."""

    def __init__(self) -> None:
        self.progress = Progress(0, 0, "fetching")
        self.has_built = False
        self._activities: dict[int, tuple[int, str]] = {}
        self._counted: dict[int, int] = {}
        self._counts: dict[int, tuple[int, int]] = {}
        self._speaker = ""
        self._errors: deque[str] = deque(maxlen=QUOTED_LINES)
        self._last: deque[tuple[str, str]] = deque(maxlen=KEPT_LINES)

    def read(self, lines: Iterable[bytes]) -> bytes:
        """Return what `lines` add to the build's log, which reads as nix-build's own output."""
        return b"".join(self._read_line(line) for line in lines)

    def failure(self, code: int) -> NixError:
        """Return the error that nix-build ended with, by its exit `code` and by what it said."""
        reason = "\n".join(self._errors)[:MESSAGE_CHARACTERS]
        quoted = self.quote(reason or f"nix-build ended with exit code {code}")
        if FULL_DISK.search(quoted):
            return DiskFull(quoted)

        # Through a daemon every failure is 1; a builder that failed may have said anything.
        limit = TIMED_OUT.search(reason)
        if limit and code != BUILDER_FAILED:
            what = "wrote nothing for" if limit[2] else "ran longer than"
            return TimedOut(self.quote(f"it {what} {limit[1]} s"))
        if HASH_MISMATCH.search(reason) and code != BUILDER_FAILED:
            return HashMismatch(reason)
        return BuildFailed(quoted)

    def quote(self, reason: str) -> str:
        """Return `reason` with the last log lines of what it speaks of, or of anything."""
        last = [line for speaker, line in self._last if speaker and speaker in reason]
        last = (last or [line for _, line in self._last])[-QUOTED_LINES:]
        return "\n".join([reason, *(f"> {line}" for line in last)])

    def _read_line(self, line: bytes) -> bytes:
        if not line.startswith(PREFIX):
            return self._tell("", decode(line))
        if len(line) >= LINE_BYTES:
            return self._say(f"[a line of more than {LINE_BYTES} bytes is left out]")

        # A builder has Nix pass on events of its own making: no field in them is sure.
        try:
            event, _ = read_json(line.removeprefix(PREFIX).decode("utf-8", "replace"))
            return READERS[event["action"]](self, event)
        except (ValueError, LookupError, TypeError, AttributeError):
            return b""

    def _start(self, event: Event) -> bytes:
        kind, text = event["type"], plain(event["text"])
        subject = str(event["fields"][0]) if kind == BUILD else ""
        self._activities[event["id"]] = kind, subject
        self.has_built |= kind == BUILD
        # A remote builder relays counts of its own: the first ones are those of the whole.
        if kind in (BUILDS, COPY_PATHS):
            self._counted.setdefault(kind, event["id"])
        self._turn_to_phase()

        if not text or event["level"] > INFO:
            return b""
        self._speaker = subject
        return self._say(text)

    def _stop(self, event: Event) -> bytes:
        self._activities.pop(event["id"], None)
        self._turn_to_phase()
        return b""

    def _turn_to_phase(self) -> None:
        running = {kind for kind, _ in self._activities.values()}
        if BUILD in running:
            self.progress = replace(self.progress, phase="building")
        elif running & TRANSFERS:
            self.progress = replace(self.progress, phase="fetching")

    def _message(self, event: Event) -> bytes:
        text = plain(event["msg"])
        if event["level"] == ERROR:
            self._errors.append(text.removeprefix("error:").strip())
        return self._say(text) if event["level"] <= NOTICE else b""

    def _result(self, event: Event) -> bytes:
        if event["type"] in LOG_LINES:
            _, speaker = self._activities.get(event["id"], (BUILD, ""))
            return self._tell(speaker, plain(event["fields"][0]))
        if event["type"] == PROGRESS and event["id"] in self._counted.values():
            done, expected, *_ = event["fields"]
            self._counts[event["id"]] = int(done), int(expected)
            counts = self._counts.values()
            self.progress = replace(
                self.progress,
                done=sum(done for done, _ in counts),
                expected=sum(expected for _, expected in counts),
            )
        return b""

    def _tell(self, speaker: str, text: str) -> bytes:
        """Say a line that `speaker` wrote, after its name where another one spoke before."""
        self._last.append((speaker, text[:QUOTED_CHARACTERS]))
        header = self._say(f"{name_of(speaker)}>") if speaker not in ("", self._speaker) else b""
        self._speaker = speaker
        return header + self._say(text)

    def _say(self, text: str) -> bytes:
        return text.encode("utf-8", "replace") + b"\n"


READERS: dict[str, Callable[[Journal, Event], bytes]] = {
    "start": Journal._start,
    "stop": Journal._stop,
    "msg": Journal._message,
    "result": Journal._result,
}
