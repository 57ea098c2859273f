"""What becomes of a message to a webhook. Sending it is in posting.py."""

from dataclasses import dataclass


class NotDelivered(Exception):
    """No whole answer came; the message says why in a line. The status may have come."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class Stopped(Exception):
    """The service stops: whether the receiver got the message is unknown."""


@dataclass(frozen=True)
class Answer:
    """What a receiver answered: the beginning of its body, as plain text."""

    status: int
    text: str
    retry_after: str | None
