"""What the demonstration prints, its numbered steps, and what they expect."""

import os
import sys

BOLD, CYAN, RED, PLAIN = "\033[1m", "\033[36m", "\033[31m", "\033[0m"
steps = 0


class Unexpected(Exception):
    """A step did not go as expected; the message says what was expected and what came."""


def step(title: str) -> None:
    """Count a step, and print its title."""
    global steps
    steps += 1
    tell(f"\n{steps}. {title}", BOLD)


def expect(what: str, came: object, wanted: object) -> None:
    """Raise Unexpected unless what came is what was wanted."""
    if came != wanted:
        raise Unexpected(f"{what}: expected {wanted!r}, but {came!r} came")


def tell(text: str, colour: str = "") -> None:
    """Print a text, in colour if on a terminal; exit with 1 when the output was closed."""
    text = text.rstrip("\n")
    try:
        print(f"{colour}{text}{PLAIN}" if colour and sys.stdout.isatty() else text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
