"""What all routes have in common: how their input is read."""

import flask_smorest
from marshmallow import RAISE
from webargs.flaskparser import FlaskParser


class Parser(FlaskParser):
    """A parser to which a misspelt query parameter is an error, as a misspelt field is."""

    def __init__(self) -> None:
        """Have both parts of a request that are read refuse what they don't know."""
        super().__init__()
        self.DEFAULT_UNKNOWN_BY_LOCATION = {"json": RAISE, "query": RAISE}


class Blueprint(flask_smorest.Blueprint):  # type: ignore[misc] # it ships no types
    """A group of routes that are in the API document."""

    ARGUMENTS_PARSER = Parser()
