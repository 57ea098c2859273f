"""What all routes have in common: how their input is read, and how they may refuse.

The refusals are here for the API document, and in the words that the service itself has for them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import flask_smorest
from marshmallow import RAISE, Schema
from webargs.flaskparser import FlaskParser

View = TypeVar("View", bound=Callable[..., Any])


@dataclass(frozen=True)
class Refusal:
    """A way to say no: its status, its sentence, and what it is known by to programs, if it is."""

    status: int
    detail: str
    has_kind: bool = True
    errors: dict[str, list[str]] | None = None
    near: list[str] | None = None


REFUSALS = {
    "no-json": Refusal(400, "body: Invalid JSON body.", False, {"body": ["Invalid JSON body."]}),
    "no-token": Refusal(401, "a live token is needed", False),
    "small-scope": Refusal(403, "this needs scope admin; the token's is read", False),
    "no-such-package": Refusal(404, "there is no package 7"),
    "no-such-task": Refusal(404, "there is no task 0b9f2c1e-7d43-4c5a-9a52-6f1f0f6f8f2d"),
    "no-such-token": Refusal(404, "there is no live token 7"),
    "no-such-generation": Refusal(404, "there is no generation 7"),
    "name-unknown": Refusal(404, "no catalog has helo; did you mean hello?", near=["hello"]),
    "package-exists": Refusal(409, "hello 2.12.1 is registered already"),
    "package-in-use": Refusal(409, "hello 2.12.1 is activated"),
    "not-downloaded": Refusal(409, "hello 2.12.1 is not downloaded"),
    "collision": Refusal(409, "hello 2.12.1 and greet 1.0.0 both have bin/hello"),
    "check-failed": Refusal(409, "the check of generation 4 failed with exit code 1"),
    "task-ended": Refusal(409, "task 0b9f2c1e-7d43-4c5a-9a52-6f1f0f6f8f2d has ended already"),
    "no-length": Refusal(411, "the body must say its length", False),
    "large-body": Refusal(413, "The data value transmitted exceeds the capacity limit.", False),
    "long-url": Refusal(414, "Request Line is too large (4353 > 4094)", False),
    "other-body": Refusal(415, "the body must be JSON, with Content-Type: application/json", False),
    "invalid": Refusal(
        422, "limit: Not a valid integer.", False, {"limit": ["Not a valid integer."]}
    ),
    "too-many-failures": Refusal(
        429, "too many requests without a live token came from this address"
    ),
    "database-unavailable": Refusal(503, "the database can't be used at the moment; try again"),
    "nix-failed": Refusal(503, "nix-env failed: out of memory"),
    "not-ready": Refusal(
        503,
        "workers: a worker thread of this process is not running",
        errors={"workers": ["a worker thread of this process is not running"]},
    ),
    "too-many-followers": Refusal(
        503, "as many logs are being followed as this service allows; try again"
    ),
}


class Parser(FlaskParser):
    """A parser to which a misspelt query parameter is an error, as a misspelt field is."""

    def __init__(self) -> None:
        """Have both parts of a request that are read refuse what they don't know."""
        super().__init__()
        self.DEFAULT_UNKNOWN_BY_LOCATION = {"json": RAISE, "query": RAISE}


class Blueprint(flask_smorest.Blueprint):  # type: ignore[misc] # it ships no types
    """A group of routes that are in the API document."""

    ARGUMENTS_PARSER = Parser()

    def arguments(self, schema: type[Schema], **options: Any) -> Callable[[View], View]:
        """Have a view called with what the schema makes of a part of the request."""
        # an instance: of a class, a new one would be made for each request
        decorate: Callable[[View], View] = super().arguments(schema(), **options)
        return decorate

    def refuses(self, *kinds: str) -> Callable[[View], View]:
        """Have the API document say in which ways of its own a route may refuse."""
        decorate: Callable[[View], View] = self.doc(refusals=list(kinds))
        return decorate


def headers(*names: str) -> dict[str, Any]:
    """Return the headers of an answer as the API document has them."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}
