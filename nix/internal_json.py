"""The events that nix-build writes with `--log-format internal-json`.

The numbers of levels, activities and results are those of src/libutil/logging.hh in NixOS/nix.
"""

import json
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any

from nix.errors import (
    BuildFailed,
    DiskFull,
    FetchFailed,
    HashMismatch,
    NixError,
    NixUnavailable,
    TimedOut,
    is_about_full_disk,
)
from nix.faults import host_fault
from nix.fetching import builder_fetch_fault, fetch_fault, fetched_url
from nix.process import LINE_BYTES
from nix.terminal import decode, plain

PREFIX = b"@nix "
ERROR, NOTICE, INFO = 0, 2, 3
COPY_PATH, FILE_TRANSFER, COPY_PATHS, BUILDS, BUILD, SUBSTITUTE = 100, 101, 103, 104, 105, 108
LOG_LINE, PROGRESS, HOOK_LOG_LINE = 101, 105, 107
LOG_LINES = {LOG_LINE, HOOK_LOG_LINE}
TRANSFERS = {COPY_PATH, FILE_TRANSFER, SUBSTITUTE}

QUOTED_LINES = 10
QUOTED_CHARACTERS = 300
REASON_CHARACTERS = 4000
CUT_BYTES = 4 * QUOTED_CHARACTERS
KEPT_LINES = 1000
MOST_COUNTED = 10**9

# A builder's line is written as START, the line in JSON, and what END fits.
START = b'@nix {"action":"result","fields":["'
END = re.compile(rb'"\],"id":(\d+),"type":101\}$')
PLAIN = bytes(range(ord(" "), ord("~") + 1)).translate(None, b'"\\') + b"\n"

BUILDER_FAILED = 100  # the exit code of nix-build

# The last pattern is that of newer versions of Nix.
BUILDER = re.compile(
    r"^builder for '([^'\n]+)' failed|^Cannot build '([^'\n]+)'\.\s+Reason: builder failed"
)
# What fails because a dependency failed: it tells nothing but the way from there to the package.
DEPENDENT = re.compile(
    r"^\d+ dependenc(?:y|ies) of derivation '|^Cannot build '.*\s+Reason: \d+ dep"
)
WARNING = re.compile(r"^warning:")  # a daemon passes them on as errors
# A daemon does as its own nix.conf says, where it does not trust the client.
LOG_LINES_OF_NIX = re.compile(r";?\s+[Ll]ast \d+ log lines:.*", re.DOTALL)
OPTION_IGNORED = re.compile(r"^warning: ignoring the client-specified setting '[a-z-]+'")

TIMEOUT = re.compile(r"timed out after (\d+) seconds( of silence)?")
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


class LastLines:
    """The last lines of a log, with who wrote them: KEPT_LINES of them at least, each cut.

    They are kept as they come, many at once: hardly any are ever looked at.
    """

    def __init__(self) -> None:
        self._blocks: deque[tuple[str, bytes, int]] = deque()
        self._count = 0

    def __iter__(self) -> Iterator[tuple[str, str]]:
        for speaker, text, _ in self._blocks:
            for line in text.split(b"\n"):
                yield speaker, line.decode("utf-8", "replace")[:QUOTED_CHARACTERS]

    def add(self, speaker: str, text: bytes) -> None:
        """Add lines, and forget the first ones as soon as there are enough others."""
        count = text.count(b"\n") + 1
        if len(text) > count * CUT_BYTES:
            text = b"\n".join(line[:CUT_BYTES] for line in text.split(b"\n"))
        self._blocks.append((speaker, text, count))
        self._count += count
        while self._count - self._blocks[0][2] >= KEPT_LINES:
            self._count -= self._blocks.popleft()[2]


class BuildLogReader:
    """Reads the stderr of one nix-build: the log, the progress, and the reason for a failure."""

    def __init__(self, drv_path: str) -> None:
        """Prepare for the log of a build of `drv_path`."""
        self.drv_path = drv_path
        self.progress = Progress(0, 0, "fetching")
        self._activities: dict[int, tuple[int, str]] = {}
        self._counters: dict[int, int] = {}
        self._counts: dict[int, tuple[int, int]] = {}
        self._speaker = ""
        self._failed: dict[str, str] = {}  # the derivations whose builders failed, with the error
        self._urls: dict[str, str | None] = {}
        self._errors: deque[str] = deque(maxlen=QUOTED_LINES)
        self._last = LastLines()

    def read(self, lines: Sequence[bytes]) -> bytes:
        """Return what `lines` add to the build's log, as nix-build itself would show it."""
        joined = b"\n".join(lines)
        end = END.search(lines[-1]) if lines else None
        if end and joined.startswith(START):
            between = b"%b\n%b" % (end[0], START)
            text = joined[len(START) : -len(end[0])].replace(between, b"\n")
            # A quote is left of any other event and of a line of another activity.
            if not text.translate(None, PLAIN):
                return self._plain_lines(int(end[1]), text)
        return b"".join(map(self._read_line, lines))

    def failure(self, code: int) -> NixError:
        """Return the error that nix-build ended with, given its exit `code`."""
        reason = "\n".join(self._errors)[:REASON_CHARACTERS]
        quoted = self.quote(reason or f"nix-build ended with exit code {code}")
        if is_about_full_disk(quoted):
            return DiskFull(quoted)
        if self._failed:
            return self._builder_failure(*next(iter(self._failed.items())))

        # When a builder failed, the text may be the builder's own. Other errors are told apart by
        # their text, since a daemon returns exit code 1 for all of them.
        if code == BUILDER_FAILED:
            return BuildFailed(quoted)
        if timeout := TIMEOUT.search(reason):
            excess = "wrote nothing for" if timeout[2] else "ran longer than"
            return TimedOut(self.quote(f"it {excess} {timeout[1]} s"))
        if any(map(host_fault, self._errors)):
            return NixUnavailable(next(filter(host_fault, self._errors)))
        if MISMATCH.search(reason):
            return HashMismatch(reason)
        fault = fetch_fault(reason)
        return FetchFailed(fault, quoted) if fault else BuildFailed(quoted)

    def _builder_failure(self, failed: str, message: str) -> NixError:
        """Return the error for the first derivation whose builder failed, with Nix's message."""
        quoted, package = self.quote(message), name_of(self.drv_path)
        is_dependency = failed != self.drv_path
        url = self._url(failed)
        if url is not None:
            lines = [line for speaker, line in self._last if speaker == failed]
            if fault := builder_fetch_fault(lines, url or name_of(failed)):
                needs = f"{package} needs {name_of(failed)}\n" if is_dependency else ""
                return FetchFailed(fault, needs + quoted)

        needs = f"{package} needs {name_of(failed)}, whose build failed: " if is_dependency else ""
        return BuildFailed(needs + quoted)

    def _url(self, drv_path: str) -> str | None:
        """Return what a derivation fetches; None if it does not fetch, or is in another store."""
        if drv_path not in self._urls:
            # Builders can inject the path of any file, which may never end.
            is_ours = PurePath(drv_path).parent == PurePath(self.drv_path).parent
            is_derivation = is_ours and drv_path.endswith(".drv")
            self._urls[drv_path] = fetched_url(drv_path) if is_derivation else None
        return self._urls[drv_path]

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
        builds = [subject for kind, subject in self._activities.values() if kind == BUILD]
        if any(self._url(subject) is None for subject in builds):
            self.progress = replace(self.progress, phase="building")
        elif builds or running & TRANSFERS:
            self.progress = replace(self.progress, phase="fetching")

    def _message(self, event: Event) -> bytes:
        text = plain(event["msg"])
        if OPTION_IGNORED.match(text):
            return b""
        if event["level"] == ERROR:
            self._take_error(text.removeprefix("error:").strip())
        return self._log(text) if event["level"] <= NOTICE else b""

    def _take_error(self, text: str) -> None:
        text = LOG_LINES_OF_NIX.sub("", text)
        if builder := BUILDER.match(text):
            self._failed.setdefault(builder[1] or builder[2], text)
        is_known = bool(self._errors) and DEPENDENT.match(text)
        if not is_known and not WARNING.match(text):
            self._errors.append(text)

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

    def _plain_lines(self, activity: int, text: bytes) -> bytes:
        """Log lines of one builder as `_log_line` does each, but in a tenth of the time."""
        _, speaker = self._activities.get(activity, (BUILD, ""))
        header = self._header(speaker)
        self._last.add(speaker, text)
        return header + text + b"\n"

    def _log_line(self, speaker: str, text: str) -> bytes:
        """Log a builder's line, after that which names it."""
        line = self._log(text)
        self._last.add(speaker, line[:-1])
        return self._header(speaker) + line

    def _header(self, speaker: str) -> bytes:
        """Return the line that names a builder, if another one wrote the line before."""
        header = self._log(f"{name_of(speaker)}>") if speaker not in ("", self._speaker) else b""
        self._speaker = speaker
        return header

    def _log(self, text: str) -> bytes:
        return text.encode("utf-8", "replace") + b"\n"
