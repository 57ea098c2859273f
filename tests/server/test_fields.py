"""The kinds of fields: what they accept as a number."""

import pytest
from marshmallow import ValidationError

from fields import JsonInteger, QueryInteger, Seconds


@pytest.mark.parametrize(("given", "number"), [("0", 0), ("007", 7), ("100", 100)])
def test_a_number_in_a_url_is_decimal_digits(given, number):
    assert QueryInteger().deserialize(given) == number


@pytest.mark.parametrize("given", ["", "-1", "+1", "1.0", "1_0", " 1", "\u0661", "one"])
def test_anything_else_is_no_number_in_a_url(given):
    with pytest.raises(ValidationError):
        QueryInteger().deserialize(given)


@pytest.mark.parametrize(("given", "seconds"), [("0", 0), ("2.5", 2.5), ("1e1", 10), ("3E-1", 0.3)])
def test_seconds_in_a_url_are_a_number_as_in_json(given, seconds):
    assert Seconds().deserialize(given) == seconds


@pytest.mark.parametrize("given", ["", "nan", "inf", "1_0", " 1", "\uff11", "1,5", "e"])
def test_anything_else_is_no_number_of_seconds(given):
    with pytest.raises(ValidationError):
        Seconds().deserialize(given)


@pytest.mark.parametrize(("given", "number"), [(60, 60), (60.0, 60)])
def test_a_whole_number_in_json_may_be_a_float(given, number):
    assert JsonInteger(strict=True).deserialize(given) == number


@pytest.mark.parametrize("given", [60.5, "60", True, float("inf"), [60], None])
def test_anything_else_is_no_whole_number_in_json(given):
    with pytest.raises(ValidationError):
        JsonInteger(strict=True).deserialize(given)
