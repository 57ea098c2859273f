"""The errors that end a command, and its exit codes."""

from enum import IntEnum


class ExitCode(IntEnum):
    """The exit codes other than 0, which means success."""

    REFUSED = 1
    USAGE = 2
    FAILED = 3
    CANCELLED = 4
    TIMED_OUT = 5
    NOT_FOUND = 6
    NOT_ALLOWED = 7
    UNREACHABLE = 8
    UNTRUSTED = 9
    MACHINE_FAILED = 10
    INTERRUPTED = 130


class CommandError(Exception):
    """End the command with an exit code and one line: the reason, and a hint on what to do.

    `status` is the HTTP status of the answer that caused the error, if any.
    """

    def __init__(
        self, message: str, exit_code: ExitCode, hint: str = "", status: int | None = None
    ) -> None:
        self.reason = one_line(message)
        self.hint = hint
        super().__init__(printable(f"{self.reason} ({hint})" if hint else self.reason))
        self.exit_code = exit_code
        self.status = status


class ServerUnreachable(CommandError):
    """The server doesn't answer, or answers that it is unavailable."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, ExitCode.UNREACHABLE, hint)


def printable(text: str) -> str:
    """Return `text` with `?` for every control or format character, line breaks included."""
    return "".join(char if char.isprintable() else "?" for char in text)


def one_line(message: str) -> str:
    """Return a message's first line, which says what failed, and its last, which often says why."""
    lines = [line for line in message.splitlines() if line.strip()]
    ends = [lines[0].rstrip(";: "), *lines[1:][-1:]] if lines else []
    return printable(" ... ".join(end.strip() for end in ends))
