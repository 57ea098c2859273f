"""Which of the processes that share DATA_DIR does the upkeep."""

import os
import time

import pytest

from upkeep_turn import FILE, STALE_SECONDS, UpkeepTurn


@pytest.fixture
def turns(tmp_path):
    """The turn as two processes see it; the first one has it."""
    first, second = UpkeepTurn(tmp_path), UpkeepTurn(tmp_path)
    assert not first.is_of_another()
    yield first, second
    second.release()


def test_one_process_has_the_turn_until_it_ends(turns):
    first, second = turns

    assert [each.is_of_another() for each in (first, second, first)] == [False, True, False]

    first.release()
    assert not second.is_of_another()


@pytest.mark.parametrize("seconds", [-STALE_SECONDS, 3600])
def test_the_others_do_the_upkeep_while_no_round_is_done_or_the_clock_was_set_back(
    tmp_path, turns, seconds
):
    first, second = turns
    marked_at = time.time() + seconds
    os.utime(tmp_path / FILE, (marked_at, marked_at))

    assert not second.is_of_another()
    second.mark()  # which it has not the right to

    assert not second.is_of_another()
    first.mark()
    assert second.is_of_another()
    first.release()
