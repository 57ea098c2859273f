"""The routes of the API document: as JSON, and as pages made of Swagger UI and ReDoc."""

import re
from importlib.metadata import distribution
from mimetypes import guess_type
from pathlib import Path

from flask import Response, request
from werkzeug.exceptions import NotFound

import services
from api import Blueprint
from config import HERE
from openapi import ApiDocument

blueprint = Blueprint("docs", __name__, description="This document, and pages that show it")

HTML = {"type": "string", "examples": ["<!doctype html>…"]}
PAGES = HERE / "pages"
# Located rather than imported: an import would read all of its files into memory.
OFFAPI = Path(str(distribution("offapi").locate_file("offapi")))
ASSETS = {
    "redoc.js": OFFAPI / "redoc.js",
    "redocly.svg": PAGES / "redocly.svg",
    "show-swagger-ui.js": PAGES / "show-swagger-ui.js",
    "swagger-ui.css": OFFAPI / "swagger_style.css",
    "swagger-ui.js": OFFAPI / "swagger_bundle.js",
}
ASSETS_SECONDS = 86_400
# ReDoc loads its maker's logo from there.
REMOTE_LOGO = re.compile(rb"https://cdn\.redoc\.ly/redoc/[a-z-]+\.svg")
LOCAL_LOGO = b"docs/assets/redocly.svg"
# Both programs write style elements; scripts come from our files alone.
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


@blueprint.get("/openapi.json")
@blueprint.response(200, {"type": "object", "examples": [{"openapi": "3.1.0"}]})
def openapi() -> Response:
    """Send this document."""
    return send(services.get(ApiDocument).below(request.script_root), "application/json")


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
    text = REMOTE_LOGO.sub(LOCAL_LOGO, ASSETS[name].read_bytes())
    return send(text, guess_type(name)[0], seconds=ASSETS_SECONDS)


# Not in the API document.
blueprint.record(lambda state: state.add_url_rule("/docs/assets/<name>", "asset", asset))


def _page(name: str) -> Response:
    return send((PAGES / name).read_bytes(), "text/html")


def send(text: bytes | str, kind: str | None, *, seconds: int = 0) -> Response:
    """Send a text that clients may cache for `seconds`, and then have to validate by its ETag."""
    response = Response(text, content_type=f"{kind}; charset=utf-8")
    response.cache_control.max_age = seconds
    response.add_etag()
    response.make_conditional(request)
    return response
