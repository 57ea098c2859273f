"""The pipes by which processes that share DATA_DIR wake each other's workers."""

import os

import pytest

from wakeups import FOLDER, WakeupPipe, wake_others


@pytest.fixture
def new_pipe(tmp_path):
    """Return a function that makes a pipe, which is removed after the test."""
    made = []

    def make():
        made.append(WakeupPipe(tmp_path))
        return made[-1]

    yield make
    for pipe in made:
        pipe.remove()


def test_all_others_are_woken(tmp_path, new_pipe):
    own, *others = new_pipe(), new_pipe(), new_pipe()

    wake_others(tmp_path, own)

    assert [pipe.wait(0) for pipe in (own, *others)] == [False, True, True]


def test_a_process_without_a_pipe_wakes_all(tmp_path, new_pipe):
    pipe = new_pipe()

    wake_others(tmp_path, None)

    assert pipe.wait(0)


def test_many_wake_ups_count_as_one(new_pipe):
    pipe = new_pipe()
    for _ in range(100):
        pipe.wake()

    assert [pipe.wait(0), pipe.wait(0)] == [True, False]


def test_to_wake_never_blocks(new_pipe):
    pipe = new_pipe()
    for _ in range(100_000):
        pipe.wake()

    assert pipe.wait(0)


def test_the_pipe_of_a_process_that_was_killed_is_removed(tmp_path, new_pipe):
    own = new_pipe()
    os.mkfifo(tmp_path / FOLDER / "dead")

    wake_others(tmp_path, own)

    assert list((tmp_path / FOLDER).iterdir()) == [own.path]


def test_to_wake_by_a_pipe_that_was_just_removed_does_nothing(tmp_path, new_pipe):
    pipe = new_pipe()
    pipe.path.unlink()

    pipe.wake()

    assert not pipe.wait(0)


def test_a_process_that_ends_just_then_costs_no_descriptor_and_no_wake_up_of_others(
    tmp_path, new_pipe, monkeypatch
):
    pipes, write, broken = [new_pipe(), new_pipe()], os.write, []

    def break_first(descriptor, data):
        if not broken:
            broken.append(descriptor)
            raise BrokenPipeError
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", break_first)
    before = len(os.listdir("/proc/self/fd"))

    wake_others(tmp_path, None)

    assert len(os.listdir("/proc/self/fd")) == before
    assert sum(pipe.wait(0) for pipe in pipes) == 1


def test_without_pipes_nobody_is_woken(tmp_path):
    wake_others(tmp_path, None)

    assert list(tmp_path.iterdir()) == []
