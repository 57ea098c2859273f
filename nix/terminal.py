"""Plain text: what Nix, its builders and its catalogs write, without what controls a terminal.

It is made plain where it is read, a line at a time, so that no log, error or list holds a part of
an escape sequence, wherever it is cut later.
"""

import re

# The forms of ECMA-48, each with its introducer in 7 and in 8 bits; \udc9b is the byte 9b of a text
# that is not UTF-8. One that the line cuts goes on to the line's end.
ESCAPE = re.compile(
    r"(?:\x1b\[|[\x9b\udc9b])[0-?]*[ -/]*[@-~]?"
    r"|(?:\x1b[]PX^_]|[\x90\x98\x9d-\x9f\udc90\udc98\udc9d-\udc9f])[^\x07\x1b\x9c\udc9c\n]*"
    r"(?:\x07|\x1b\\|[\x9c\udc9c])?"
    r"|\x1b[ -/]*[0-~]?"
)
# C0 but for tab and newline, DEL, C1, what turns the direction of writing, halves of UTF-16 pairs.
CONTROL = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def plain(text: str) -> str:
    """Return `text` without escape sequences and control characters; tabs and newlines stay."""
    return text if text.isprintable() else CONTROL.sub("", ESCAPE.sub("", text))


def decode(data: bytes) -> str:
    """Return what a program wrote as plain text, with U+FFFD for what is not UTF-8."""
    try:
        return plain(data.decode())
    except UnicodeDecodeError:
        stripped = ESCAPE.sub("", data.decode("utf-8", "surrogateescape"))
        return plain(stripped.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))
