"""The pages that show the API document: Swagger UI and ReDoc, with all that they load."""

import re
from functools import cached_property
from importlib.metadata import distribution
from mimetypes import guess_type
from pathlib import Path

from flask import Response, current_app, json, request
from werkzeug.exceptions import NotFound

import document
import services
from blueprints import Blueprint
from config import HERE

blueprint = Blueprint("docs", __name__, description="This document, and pages that show it")

HTML = {"type": "string", "examples": ["<!doctype html>…"]}
PAGES = HERE / "pages"
# a package of the two programs' files; importing it would read them all into memory
OFFAPI = Path(str(distribution("offapi").locate_file("offapi")))
ASSETS = {
    "redoc.js": OFFAPI / "redoc.js",
    "redocly.svg": PAGES / "redocly.svg",
    "show-swagger-ui.js": PAGES / "show-swagger-ui.js",
    "swagger-ui.css": OFFAPI / "swagger_style.css",
    "swagger-ui.js": OFFAPI / "swagger_bundle.js",
}
ASSETS_SECONDS = 86_400
# ReDoc would have its maker's logo come from there
LOGO_ABROAD = re.compile(rb"https://cdn\.redoc\.ly/redoc/[a-z-]+\.svg")
LOGO = b"docs/assets/redocly.svg"
# both programs write style elements of their own; scripts come from our files alone
POLICY = "; ".join(
    [
        "default-src 'none'",
        "base-uri 'none'",
        "connect-src 'self'",
        "font-src data:",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "img-src 'self' data:",
        "script-src 'self'",
        "style-src 'self' 'unsafe-inline'",
    ]
)


class ApiDocument:
    """The API document as JSON, made when it is first asked for."""

    @cached_property
    def text(self) -> str:
        """The document of the current application."""
        return json.dumps(document.build(current_app))


@blueprint.get("/openapi.json")
@blueprint.response(200, {"type": "object", "examples": [{"openapi": "3.1.0"}]})
def openapi() -> Response:
    """Send this document."""
    return _send(services.get(ApiDocument).text, "application/json")


@blueprint.get("/docs")
@blueprint.response(200, HTML, content_type="text/html")
def swagger_ui() -> Response:
    """Show this document in Swagger UI, which can call the service."""
    return _page("swagger-ui.html")


@blueprint.get("/redoc")
@blueprint.response(200, HTML, content_type="text/html")
def redoc() -> Response:
    """Show this document in ReDoc."""
    return _page("redoc.html")


def asset(name: str) -> Response:
    """Send what a page loads."""
    if name not in ASSETS:
        raise NotFound
    text = LOGO_ABROAD.sub(LOGO, ASSETS[name].read_bytes())
    return _send(text, guess_type(name)[0], seconds=ASSETS_SECONDS)


# straight to Flask: it is no part of the API
blueprint.record(lambda state: state.add_url_rule("/docs/assets/<name>", "asset", asset))


def _page(name: str) -> Response:
    return _send((PAGES / name).read_bytes(), "text/html")


def _send(text: bytes | str, kind: str | None, *, seconds: int = 0) -> Response:
    """Answer with a text that the client may keep, but has to ask again for after a time."""
    response = Response(text, content_type=f"{kind}; charset=utf-8")
    response.cache_control.max_age = seconds
    response.add_etag()
    response.make_conditional(request)
    return response
