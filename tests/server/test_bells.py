"""The bells by which processes that share DATA_DIR wake each other's workers."""

import os

import pytest

from bells import FOLDER, Bell, ring_others


@pytest.fixture
def hung_up(tmp_path):
    """Return a function that hangs up a bell, which is taken down after the test."""
    bells = []

    def hang_up():
        bells.append(Bell(tmp_path))
        return bells[-1]

    yield hang_up
    for bell in bells:
        bell.take_down()


def test_all_others_are_rung(tmp_path, hung_up):
    own, *others = hung_up(), hung_up(), hung_up()

    ring_others(tmp_path, own)

    assert [bell.wait(0) for bell in (own, *others)] == [False, True, True]


def test_who_has_no_bell_rings_all(tmp_path, hung_up):
    bell = hung_up()

    ring_others(tmp_path, None)

    assert bell.wait(0)


def test_a_bell_that_was_rung_often_rings_once(hung_up):
    bell = hung_up()
    for _ in range(100):
        bell.ring()

    assert [bell.wait(0), bell.wait(0)] == [True, False]


def test_to_ring_never_blocks(hung_up):
    bell = hung_up()
    for _ in range(100_000):
        bell.ring()

    assert bell.wait(0)


def test_the_bell_of_a_process_that_was_killed_is_removed(tmp_path, hung_up):
    own = hung_up()
    os.mkfifo(tmp_path / FOLDER / "dead")

    ring_others(tmp_path, own)

    assert list((tmp_path / FOLDER).iterdir()) == [own.path]


def test_to_ring_a_bell_that_was_just_taken_down_does_nothing(tmp_path, hung_up):
    bell = hung_up()
    bell.path.unlink()

    bell.ring()

    assert not bell.wait(0)


def test_bells_that_are_not_there_are_not_rung(tmp_path):
    ring_others(tmp_path, None)

    assert list(tmp_path.iterdir()) == []
