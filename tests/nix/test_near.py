"""Similar names: what is suggested for a name that no catalog has."""

import pytest

from nix.near import near_names

NAMES = [
    *(
        "nginx",
        "guix",
        "curl",
        "crun",
        "cruft",
        "vim",
        "vmime",
        "nodejs",
        "node2nix",
        "code",
        "mode",
    ),
    *("nose", "postgresql", "postgrey", "python2", "python3", "jython", "hello", "halo", "Helo"),
    *("lib", "libx11", "x", "y"),
]


@pytest.mark.parametrize(
    ("wanted", "meant"),
    [
        ("ngnix", "nginx"),
        ("crul", "curl"),
        ("vmi", "vim"),
        ("postgres", "postgresql"),
        ("node", "nodejs"),
        ("helo", "Helo"),
    ],
)
def test_the_name_that_was_meant_comes_first(wanted, meant):
    assert near_names(wanted, NAMES)[0] == meant


def test_all_that_begins_with_a_name_is_near():
    assert near_names("python", NAMES)[:2] == ("python2", "python3")


def test_a_name_is_not_near_itself():
    assert near_names("lib", NAMES) == ("libx11",)


def test_a_name_like_no_other_has_no_near_ones():
    assert near_names("qqq", NAMES) == near_names("q", NAMES) == ()


def test_names_that_are_too_long_are_not_compared():
    """The catalog of somebody who means harm could keep a process busy for minutes by one."""
    long = "a" * 3_000

    assert near_names(long, [*NAMES, f"{long}b"]) == ()
    assert near_names("helo", [f"helo{'o' * 200}", "hello"]) == ("hello",)
