"""What the pages load: a style sheet, a script, htmx, an icon."""

from functools import cache
from hashlib import sha256
from importlib.metadata import distribution
from mimetypes import guess_type
from pathlib import Path

from flask import Blueprint, Response, url_for
from werkzeug.exceptions import NotFound

import api_docs

pages = Blueprint("assets", __name__)

STATIC = Path(__file__).parent / "static"
# Located rather than imported: the package is made for Django.
HTMX = Path(str(distribution("django-js-lib-htmx").locate_file("js_lib_htmx/static/htmx")))
ASSETS = {
    "app.js": STATIC / "app.js",
    "htmx.js": HTMX / "htmx.min.js",
    "icon.svg": STATIC / "icon.svg",
    "style.css": STATIC / "style.css",
}


@pages.get("/dashboard/<name>")
def show(name: str) -> Response:
    """Send what a page loads."""
    if name not in ASSETS:
        raise NotFound
    return api_docs.send(content(name), guess_type(name)[0], seconds=api_docs.ASSETS_SECONDS)


def url(name: str) -> str:
    """Return where a page loads this from; another version's is another URL."""
    return url_for("dashboard.assets.show", name=name, v=sha256(content(name)).hexdigest()[:8])


@cache
def content(name: str) -> bytes:
    """Return an asset's bytes, read once."""
    return ASSETS[name].read_bytes()
