"""What script/bench makes of its values: noise, changes, and promises."""

import json
import sys

import pytest
from service import ROOT

sys.path.append(str(ROOT / "bench"))  # at the end: it has modules of common names

import comparison
import measurements
import promises


def measured(*values, what="GET package", unit="ms"):
    """Return results with one series."""
    results = measurements.Results()
    for value in values:
        results.series(what, "pkgd", unit).add(value)
    return results


@pytest.mark.parametrize(
    ("values", "wobbles"),
    [
        ((100, 101, 99, 100, 100), False),
        ((100, 100, 100, 100, 300), False),  # one disturbed round
        ((80, 80, 100, 120, 120), True),
        ((100,), False),
    ],
)
def test_a_figure_wobbles_when_the_middle_half_of_its_rounds_is_wide(values, wobbles):
    (series,) = measured(*values).all()

    assert series.wobbles is wobbles
    assert ("wobbles" in series.row[3]) is wobbles


@pytest.mark.parametrize(
    ("before", "after", "unit", "change"),
    [
        ((100, 100, 100), (110, 110, 110), "ms", "+10 %, worse"),
        ((100, 100, 100), (110, 110, 110), "requests/s", "+10 %, better"),
        ((100, 100, 100), (80, 80, 80), "ms", "-20 %, better"),
        ((100,), (102,), "ms", None),
        ((80, 100, 120), (110, 110, 110), "ms", None),
        ((100, 100, 100), (90, 110, 130), "ms", None),
    ],
)
def test_a_change_is_told_when_it_is_larger_than_the_noise_of_both_runs(
    before, after, unit, change
):
    found = comparison.changes(measured(*before, unit=unit), measured(*after, unit=unit))

    assert [one.row[-1] for one in found] == ([change] if change else [])


def test_what_only_one_run_has_is_not_compared():
    told = comparison.report(measured(1, what="old"), measured(2, what="new"))

    assert told == "0 of 0 figures that both runs have did not change beyond their spread."


def test_results_are_the_same_once_they_are_read_again():
    results = measured(1234.5, 0.5)

    again = measurements.Results.from_json(json.loads(results.to_json()))

    assert [vars(one) for one in again.all()] == [
        {"what": "GET package", "subject": "pkgd", "unit": "ms", "values": [1234.0, 0.5]}
    ]


@pytest.mark.parametrize(
    ("value", "bound", "cells"),
    [
        (1.5, {"at_most": 1.6, "goal": 1.33}, ("at most 1.60, goal 1.33", "1.50", "yes")),
        (1.7, {"at_most": 1.6}, ("at most 1.60", "1.70", "no")),
        (3.0, {"at_least": 3}, ("at least 3.00", "3.00", "yes")),
        (2.9, {"at_least": 3, "wobbles": True}, ("at least 3.00", "2.90", "no, wobbles")),
    ],
)
def test_a_promise_tells_whether_it_is_kept(value, bound, cells):
    assert promises.Promise("CPU", value, **bound).row == ("CPU", *cells)


def test_only_what_was_measured_is_promised():
    (promise,) = promises.of(measured(1.1, what="from the start to ready", unit="s"))

    assert promise.is_kept
    assert promises.of(measurements.Results()) == []


def test_the_published_results_can_be_read():
    published = json.loads((ROOT / "bench" / "results.json").read_text())

    assert measurements.Results.from_json(published["series"]).all()
