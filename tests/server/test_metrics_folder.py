"""The folders of metrics: those of dead servers go, and nothing else in /dev/shm is in the way."""

import os
import shutil
import uuid

import pytest

import metrics_folder


@pytest.fixture
def foreign():
    """A path in /dev/shm that has the form of a server's folder."""
    path = metrics_folder.MEMORY / f"{metrics_folder.PREFIX}{uuid.uuid4()}"
    yield path
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def make_file(path):
    """Make a file where a server's folder would be."""
    path.touch()


def make_folder_without_lock(path):
    """Make a folder of which nobody can tell whether its server lives."""
    path.mkdir()


def make_lock_a_folder(path):
    """Make a folder with a folder in the place of its lock."""
    (path / metrics_folder.LOCK).mkdir(parents=True)


def make_lock_a_pipe(path):
    """Make a folder with a pipe, which nobody writes to, in the place of its lock."""
    path.mkdir()
    os.mkfifo(path / metrics_folder.LOCK)


def make_link_to_nothing(path):
    """Make a link to nothing."""
    path.symlink_to("nowhere")


@pytest.mark.parametrize("make", [make_file, make_folder_without_lock, make_link_to_nothing])
def test_what_is_no_folder_of_a_server_is_passed_over(foreign, make):
    make(foreign)

    metrics_folder.remove_dead()

    assert os.path.lexists(foreign)


@pytest.mark.parametrize("make", [make_lock_a_folder, make_lock_a_pipe])
def test_something_else_in_the_place_of_a_lock_holds_up_no_start(foreign, make):
    make(foreign)

    metrics_folder.remove_dead()

    assert not foreign.exists()


def test_the_folder_of_another_user_is_left_alone(foreign):
    foreign.mkdir()
    (foreign / metrics_folder.LOCK).touch()
    if os.geteuid():
        pytest.skip("only root can give a folder away")
    os.chown(foreign, 65_534, 65_534)

    metrics_folder.remove_dead()

    assert foreign.exists()
