"""Plain text: what Nix, its builders and its catalogs write can't control a terminal."""

import json
import unicodedata

import pytest

from nix import DiskFull, NameUnknown
from nix.answers import read_answer
from nix.internal_json import BuildLogReader
from nix.terminal import decode, plain

BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
ALL_CONTROLS = "".join(map(chr, (*range(9), *range(11, 32), *range(127, 160)))) + BIDI


@pytest.mark.parametrize(
    "sequence",
    [
        "\x1b[31m",
        "\x1b[38;2;1;2;3m",
        "\x1b[?25l",
        "\x1b[1 q",
        "\x9b31m",
        "\x1b]0;title\x07",
        "\x1b]0;title\x1b\\",
        "\x1b]0;title\x9c",
        "\x9d0;title\x07",
        "\x1bPq#0;2;0;0;0\x1b\\",
        "\x90q\x9c",
        "\x1b_command\x1b\\",
        "\x1b^message\x9c",
        "\x1bXstring\x9c",
        "\x1b(B",
        "\x1b7",
        "\x1bc",
        "\x1b=",
    ],
)
def test_an_escape_sequence_is_removed_whole(sequence):
    assert plain(f"a{sequence}b\tc\n") == "ab\tc\n"


@pytest.mark.parametrize(
    "cut", ["\x1b", "\x1b[", "\x1b[3", "\x9b3", "\x1b]0;title", "\x9d0", "\x1b("]
)
def test_an_escape_sequence_that_a_line_cuts_is_removed_up_to_the_lines_end(cut):
    assert plain(f"a{cut}\nb") == "a\nb"


def test_other_controls_of_a_terminal_and_of_the_direction_of_writing_are_removed():
    assert plain(f"a{ALL_CONTROLS}\ud800") == "a"
    assert plain(f"{ALL_CONTROLS[::-1]}") == ""


@pytest.mark.parametrize("text", ["naïve 例え", "\u200d 👩\u200d🔧", "\tline\n", "[31m"])
def test_all_other_text_stays(text):
    assert plain(text) == text


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"a\x9b31mb", "ab"),
        (b"a\xc2\x9b31mb", "ab"),
        (b"a\x9d0;t\x07b", "ab"),
        (b"caf\xe9 \x1b[1mb", "caf\ufffd b"),
        (b"\x85b", "\ufffdb"),
        ("é\u203a".encode(), "é\u203a"),
    ],
)
def test_escape_sequences_of_eight_bits_are_removed_from_bytes(data, text):
    assert decode(data) == text


def is_plain(text):
    """Tell whether a text holds no control or format characters."""
    return not any(unicodedata.category(char) in ("Cc", "Cf") for char in text if char != "\n")


def test_the_name_that_an_event_gives_a_build_is_plain_in_the_log():
    reader, name = BuildLogReader(""), f"/nix/store/{'0' * 32}-a\x1b[2J\u202e"
    begun = {"action": "start", "id": 1, "type": 105, "text": "", "fields": [name], "level": 3}
    said = {"action": "result", "id": 1, "type": 101, "fields": ["hello"]}

    lines = [b"@nix " + json.dumps(event).encode() for event in (begun, said)]

    assert reader.read(lines) == b"a>\nhello\n"


def test_an_error_of_nix_is_plain():
    assert is_plain(str(DiskFull(f"no\x9b31m space{BIDI}")))
    assert is_plain(str(NameUnknown("helo", ["hel\x1b[1mlo"])))


def test_the_names_in_a_catalog_are_plain():
    names = json.dumps(["hello", "h\x1b[31mello\u202e"]).encode()

    assert read_answer("names", names) == ["hello", "hello"]
