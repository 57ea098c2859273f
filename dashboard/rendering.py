"""How pages and their fragments are rendered, shared, and sent."""

import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any

from flask import Flask, Response, g, render_template, request, url_for
from jinja2 import StrictUndefined
from markupsafe import Markup

import auth
import services
from config import VERSION
from dashboard import assets
from fields import rfc3339
from models import Scope
from nix.terminal import CONTROL

SHARED_SECONDS = 1.0
HTML = "text/html; charset=utf-8"
POLICY = "; ".join(
    [
        "default-src 'none'",
        "base-uri 'none'",
        "connect-src 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "img-src 'self'",
        "script-src 'self'",
        "style-src 'self'",
    ]
)
# With `no-referrer`, a browser sends `Origin: null` with a form, and none could be checked.
HEADERS = {"Content-Security-Policy": POLICY, "Referrer-Policy": "same-origin"}
UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
UNIT = 1024


# --- Templates ---


def init_app(app: Flask) -> None:
    """Give templates what they all use, and have them print no text that deceives."""
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    app.jinja_env.undefined = StrictUndefined
    app.jinja_env.finalize = visible
    app.jinja_env.filters |= {"rfc3339": rfc3339, "size": size, "moment": moment}
    app.jinja_env.globals |= {"asset": assets.url, "may": may, "version": VERSION}


def visible(value: Any) -> Any:
    """Return what a template prints with its control characters as signs that can be seen.

    Those that turn the direction of writing could have a text read as another one.
    """
    if not isinstance(value, str) or isinstance(value, Markup) or value.isprintable():
        return value
    return CONTROL.sub(_sign, value)


def _sign(found: re.Match[str]) -> str:
    code = ord(found[0])
    return chr(0x2400 + code) if code < 0x20 else f"⟨U+{code:04X}⟩"


def may(scope: str) -> bool:
    """Tell whether the caller's scope includes another one."""
    caller: auth.Caller | None = g.get("caller")
    return caller is not None and caller.scope.includes(Scope(scope))


def size(count: float | None) -> str:
    """Return a number of bytes as people read it."""
    if count is None:
        return ""
    unit = 0
    while count >= UNIT and unit < len(UNITS) - 1:
        count, unit = count / UNIT, unit + 1
    return f"{count:.0f} {UNITS[unit]}" if unit == 0 else f"{count:.1f} {UNITS[unit]}"


def moment(at: datetime) -> str:
    """Return a time as it is shown without JavaScript."""
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"


# --- Navigation ---


@dataclass(frozen=True)
class Entry:
    """A page's place in the navigation; `is_shown` tells whether it has anything to show.

    `also` are the blueprints of other pages that belong to it.
    """

    title: str
    endpoint: str
    is_shown: Callable[[], bool] = lambda: True
    also: tuple[str, ...] = ()

    @property
    def is_current(self) -> bool:
        """Whether the page that is being shown is this one, or below it."""
        own = self.endpoint.rpartition(".")[0], *self.also
        return not set(own).isdisjoint(request.blueprints)


class Navigation:
    """All entries, of which each caller sees those that its scope allows."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._entries = entries

    def shown(self) -> list[Entry]:
        """Return what the caller may see, and where there is something to see."""
        return [
            entry
            for entry in self._entries
            if may(auth.required_scope(entry.endpoint, "GET")) and entry.is_shown()
        ]


# --- Pages ---


def page(template: str, *, status: int = 200, **values: Any) -> Response:
    """Send a page that is made of a template and these values."""
    shown = services.get(Navigation).shown()
    return _html(render_template(template, navigation=shown, **values), status)


def bare_page(template: str, status: int, **values: Any) -> Response:
    """Send a page without the database: one that says what is wrong, or who is not signed in."""
    return _html(render_template(template, navigation=[], **values), status)


def restrict(response: Response) -> Response:
    """Add the headers that restrict what a browser does with an answer of the dashboard."""
    for name, value in HEADERS.items():
        response.headers[name] = value
    return response


def _html(text: str, status: int = 200) -> Response:
    return Response(text, status, content_type=HTML)


# --- Fragments ---


@dataclass(frozen=True)
class Fragment:
    """A part of a page that the browser asks for anew every few seconds."""

    url: str
    html: Markup
    etag: str
    seconds: int


class Fragments:
    """What was rendered within the last second, for all browsers that show the same."""

    def __init__(self) -> None:
        self._kept: dict[object, tuple[float, str]] = {}
        self._lock = threading.Lock()

    def find(self, key: object) -> str | None:
        """Return what was kept under a key within the last second."""
        with self._lock:
            kept = self._kept.get(key)
        return None if kept is None or _is_over(kept[0]) else kept[1]

    def keep(self, key: object, html: str) -> None:
        """Keep a fragment for a second, and drop those that are older."""
        with self._lock:
            young = {key: kept for key, kept in self._kept.items() if not _is_over(kept[0])}
            self._kept = young | {key: (time.monotonic(), html)}


def _is_over(since: float) -> bool:
    return time.monotonic() - since >= SHARED_SECONDS


def fragment(
    endpoint: str,
    template: str,
    gather: Callable[[], Mapping[str, Any]],
    *,
    seconds: int = 2,
    **arguments: Any,
) -> Fragment:
    """Return a fragment: the template with what `gather` returns.

    `endpoint` with the arguments is where the browser gets it every `seconds`. That request may be
    answered with what was rendered within the last second; as a part of a page it is always new.
    """
    url = url_for(endpoint, **arguments)
    kept, key = services.get(Fragments), (url, g.caller.scope)
    html = kept.find(key) if request.endpoint == endpoint else None
    if html is None:
        html = render_template(template, **gather())
        kept.keep(key, html)
    # Rendered by a template, which escapes.
    return Fragment(url, Markup(html), sha256(html.encode()).hexdigest()[:32], seconds)  # noqa: S704


def send(part: Fragment) -> Response:
    """Send a fragment, or 304 where the browser has it."""
    response = _html(part.html)
    response.set_etag(part.etag)
    response.make_conditional(request)
    return response
