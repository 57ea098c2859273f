"""The events that nix-build writes with `--log-format internal-json`.

The numbers of levels, activities and results are those of src/libutil/logging.hh in NixOS/nix.
"""

import json
import re
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from nix.errors import (
    BuildFailed,
    DiskFull,
    HashMismatch,
    NixError,
    NixUnavailable,
    TimedOut,
    is_about_full_disk,
)
from nix.faults import host_fault
from nix.process import LINE_BYTES
from nix.terminal import decode, plain

PREFIX = b"@nix "
ERROR, NOTICE, INFO = 0, 2, 3
COPY_PATH, FILE_TRANSFER, COPY_PATHS, BUILDS, BUILD, SUBSTITUTE = 100, 101, 103, 104, 105, 108
LOG_LINE, PROGRESS, HOOK_LOG_LINE = 101, 105, 107
LOG_LINES = {LOG_LINE, HOOK_LOG_LINE}
TRANSFERS = {COPY_PATH, FILE_TRANSFER, SUBSTITUTE}

BUILDER_FAILED = 100  # the exit code of nix-build

QUOTED_LINES = 10
QUOTED_CHARACTERS = 300
REASON_CHARACTERS = 4000
KEPT_LINES = 1000
MOST_COUNTED = 10**9

TIMEOUT = re.compile(r"timed out after (\d+) seconds( of silence)?")
BUILDER = re.compile(r"^builder for '", re.MULTILINE)
MISMATCH = re.compile(r"hash mismatch in ")
STORE_PATH_NAME = re.compile(r"[0-9a-z]{32}-(.+?)(?:\.drv)?$")


@dataclass(frozen=True)
class Progress:
    """How far a download is: builds and copies done, those expected, and the current phase."""

    done: int
    expected: int
    phase: str


# Faster than json.loads, which counts in a log of a hundred thousand lines.
read_json = json.JSONDecoder().raw_decode

Tick = Callable[[bytes, Progress], None]
Event = dict[str, Any]


def ignore(_log: bytes, _progress: Progress) -> None:
    """Do nothing: the tick of callers that need neither log nor progress."""


def _count(number: Any) -> int:
    """Return a number of an event as a count that the sum of several still fits a database."""
    return min(max(int(number), 0), MOST_COUNTED)


def name_of(store_path: str) -> str:
    """Return the name in a store path, without the hash and the ending `.drv`."""
    match = STORE_PATH_NAME.search(store_path)
    return match[1] if match else store_path


class BuildLogReader:
    """Reads the stderr of one nix-build: the log, the progress, and the reason for a failure."""

    def __init__(self) -> None:
        self.progress = Progress(0, 0, "fetching")
        self.has_built = False
        self._activities: dict[int, tuple[int, str]] = {}
        self._counters: dict[int, int] = {}
        self._counts: dict[int, tuple[int, int]] = {}
        self._speaker = ""
        self._errors: deque[str] = deque(maxlen=QUOTED_LINES)
        self._last: deque[tuple[str, str]] = deque(maxlen=KEPT_LINES)

    def read(self, lines: Iterable[bytes]) -> bytes:
        """Return what `lines` add to the build's log, as nix-build itself would show it."""
        return b"".join(map(self._read_line, lines))

    def failure(self, code: int) -> NixError:
        """Return the error that nix-build ended with, given its exit `code`."""
        reason = "\n".join(self._errors)[:REASON_CHARACTERS]
        quoted = self.quote(reason or f"nix-build ended with exit code {code}")
        if is_about_full_disk(quoted):
            return DiskFull(quoted)

        # When a builder failed, the text may be the builder's own. Other errors are told apart by
        # their text, since a daemon returns exit code 1 for all of them.
        if code == BUILDER_FAILED:
            return BuildFailed(quoted)
        if timeout := TIMEOUT.search(reason):
            excess = "wrote nothing for" if timeout[2] else "ran longer than"
            return TimedOut(self.quote(f"it {excess} {timeout[1]} s"))
        if not BUILDER.search(reason) and any(map(host_fault, self._errors)):
            return NixUnavailable(next(filter(host_fault, self._errors)))
        return HashMismatch(reason) if MISMATCH.search(reason) else BuildFailed(quoted)

    def quote(self, reason: str) -> str:
        """Return `reason` with the last log lines of the builds it names, or else of any build."""
        last = [line for speaker, line in self._last if speaker and speaker in reason]
        last = (last or [line for _, line in self._last])[-QUOTED_LINES:]
        return "\n".join([reason, *(f"> {line}" for line in last)])

    def _read_line(self, line: bytes) -> bytes:
        if not line.startswith(PREFIX):
            return self._log_line("", decode(line))
        if len(line) >= LINE_BYTES:
            return self._log(f"[a line of more than {LINE_BYTES} bytes is left out]")

        # Builders can inject @nix events: trust no field.
        try:
            event, _ = read_json(line.removeprefix(PREFIX).decode("utf-8", "replace"))
            return self._read_event(event)
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError):
            return b""

    def _read_event(self, event: Event) -> bytes:
        match event["action"]:
            case "result":
                return self._result(event)
            case "start":
                return self._start(event)
            case "stop":
                self._stop(event)
            case "msg":
                return self._message(event)
        return b""

    def _start(self, event: Event) -> bytes:
        kind, text = event["type"], plain(event["text"])
        subject = plain(str(event["fields"][0])) if kind == BUILD else ""
        self._activities[event["id"]] = kind, subject
        self.has_built |= kind == BUILD
        # A remote builder relays counters of its own: the first of a kind counts the whole.
        if kind in (BUILDS, COPY_PATHS):
            self._counters.setdefault(kind, event["id"])
        self._update_phase()

        if not text or event["level"] > INFO:
            return b""
        self._speaker = subject
        return self._log(text)

    def _stop(self, event: Event) -> None:
        self._activities.pop(event["id"], None)
        self._update_phase()

    def _update_phase(self) -> None:
        running = {kind for kind, _ in self._activities.values()}
        if BUILD in running:
            self.progress = replace(self.progress, phase="building")
        elif running & TRANSFERS:
            self.progress = replace(self.progress, phase="fetching")

    def _message(self, event: Event) -> bytes:
        text = plain(event["msg"])
        if event["level"] == ERROR:
            self._errors.append(text.removeprefix("error:").strip())
        return self._log(text) if event["level"] <= NOTICE else b""

    def _result(self, event: Event) -> bytes:
        kind, activity = event["type"], event["id"]
        if kind in LOG_LINES:
            _, speaker = self._activities.get(activity, (BUILD, ""))
            return self._log_line(speaker, plain(event["fields"][0]))

        if kind == PROGRESS and activity in self._counters.values():
            done, expected, *_ = event["fields"]
            self._counts[activity] = _count(done), _count(expected)
            self._update_counts()
        return b""

    def _update_counts(self) -> None:
        done, expected = map(sum, zip(*self._counts.values(), strict=True))
        self.progress = replace(self.progress, done=done, expected=expected)

    def _log_line(self, speaker: str, text: str) -> bytes:
        """Log a builder's line, after the builder's name if another one wrote the line before."""
        self._last.append((speaker, text[:QUOTED_CHARACTERS]))
        header = self._log(f"{name_of(speaker)}>") if speaker not in ("", self._speaker) else b""
        self._speaker = speaker
        return header + self._log(text)

    def _log(self, text: str) -> bytes:
        return text.encode("utf-8", "replace") + b"\n"
