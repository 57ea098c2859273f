"""Answers of resolve.nix: JSON from Nix, which holds whatever a catalog says, checked."""

import json
import re
from typing import Any

from nix.errors import EvaluationFailed
from nix.store import STORE_NAME
from nix.terminal import plain

TEXT = re.compile(r"[^\0\ud800-\udfff]*")
DRV_PATH = re.compile(rf"(?:/[^/\0\n]+)+/{STORE_NAME.pattern}\.drv")
OUTPUT = re.compile(r"[A-Za-z0-9+._?=-]+")

REASON = re.compile("unfree|broken|unsupported_platform|insecure")

VERSION = {"catalog": TEXT, "attr": TEXT, "spelled": TEXT, "reason": (REASON, None)}
OFFERS = {"throws": bool, "versions": [VERSION], "others": [TEXT]}
REFUSED = {**VERSION, "fullName": TEXT}
FOUND = {**VERSION, "pname": TEXT, "drvPath": DRV_PATH, "outputs": [OUTPUT]}

FACT = {
    **dict.fromkeys(("attr", "pname", "spelled", "version"), TEXT),
    **dict.fromkeys(("description", "homepage", "license"), (TEXT, None)),
    **dict.fromkeys(("isPackage", "isSet", "throws"), bool),
    "reason": (REASON, None),
}

DERIVATION = {"attr": TEXT, "path": (TEXT, None), "drvPath": DRV_PATH, "outputs": [OUTPUT]}

# The answers by their attribute in resolve.nix. A tuple holds alternatives, a list the kind of each
# element, a dictionary the fields there must be.
SHAPES: dict[str, Any] = {
    "names": [TEXT],
    "members": [[TEXT]],
    "survey": None,
    "fact": FACT,
    "derivations": None,
    "derivation": DERIVATION,
    "offers": OFFERS,
    "answer": ({"found": FOUND}, {"refused": REFUSED}, {"offers": OFFERS}),
    "found": [(FOUND, None)],
}


def read_answer(attribute: str, output: bytes) -> Any:
    """Return what Nix has written for an attribute. Raises EvaluationFailed if it isn't as due."""
    try:
        answer = json.loads(output.decode())
    except (ValueError, RecursionError) as error:
        raise EvaluationFailed(f"Nix's answer can't be read: {error}") from None
    _check(answer, SHAPES[attribute], attribute)
    return _plain(answer)


def _plain(value: Any) -> Any:
    """Return an answer with each text in it in plain text."""
    match value:
        case str():
            return plain(value)
        case list():
            return [_plain(element) for element in value]
        case dict():
            return {field: _plain(element) for field, element in value.items()}
    return value


def _check(value: Any, shape: Any, name: str) -> None:
    """Raise EvaluationFailed, with the name of the part, unless a value has its shape."""
    match shape:
        case dict() if isinstance(value, dict):
            for field, kind in shape.items():
                _check(value.get(field), kind, field)
        case list() if isinstance(value, list):
            for element in value:
                _check(element, shape[0], name)
        case tuple():
            _check(value, _alternative(value, shape), name)
        case re.Pattern() if isinstance(value, str) and shape.fullmatch(value):
            pass
        case type() if isinstance(value, shape):
            pass
        case None if value is None:
            pass
        case _:
            raise EvaluationFailed(f"the catalog's {name} is not as it must be: {value!r:.100}")


def _alternative(value: Any, shapes: tuple[Any, ...]) -> Any:
    """Return the one of the shapes that a value means to have: the last if there is no telling."""
    if shapes[-1] is None:
        return None if value is None else shapes[0]
    fields = set(value) if isinstance(value, dict) else set()
    return next((shape for shape in shapes if shape.keys() <= fields), shapes[-1])
