"""The routes of the binary cache: how machines use it, and its files, by Nix's own protocol.

A file is named by a hash and sent as it is. Only the three kinds of names that a cache has are
looked up, and only in its folder.
"""

import io
import os
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import flask
from flask import Response, current_app, g, request, url_for
from marshmallow import fields
from werkzeug.wsgi import wrap_file

import auth
import errors
import nix
import services
from api import Blueprint
from cache import publishing
from cache.access import CacheAccess, login_of
from config import STALL_SECONDS
from fields import OutputSchema, always, nullable
from nix.cache import INFO, NAR, NARINFO

blueprint = Blueprint(
    "cache", __name__, url_prefix="/api/v1", description="What machines fetch, signed"
)
files = flask.Blueprint("cache_files", __name__, url_prefix="/cache")

NIX_CONF = """\
extra-substituters = {url}
extra-trusted-public-keys = {public_key}
"""
NETRC_FILE = "netrc-file = /etc/nix/netrc\n"
NETRC = "machine {host} login {login} password TOKEN\n"
INFO_TYPE, NARINFO_TYPE = "text/x-nix-cache-info", "text/x-nix-narinfo"
NAR_TYPE = "application/x-nix-nar"
# A nar is named by its content. The others change: a sweep removes them, a key is replaced.
FOR_EVER = "private, max-age=31536000, immutable"
A_MINUTE = "private, max-age=60"
EXAMPLE_URL = "https://pkgd.example.org/cache"
EXAMPLE_KEY = "pkgd.example.org-1:uKuqWTsnRaK7x4oekJfLGr3HAWZDHW383KUXmk4z1DI="


class CacheSchema(OutputSchema):
    """How a machine uses the binary cache."""

    url = fields.String(**always("Where it is, for Nix.", EXAMPLE_URL))
    public_key = fields.String(**always("Whose signatures to trust.", EXAMPLE_KEY))
    nix_conf = fields.String(
        **always(
            "Lines for nix.conf.",
            f"extra-substituters = {EXAMPLE_URL}\nextra-trusted-public-keys = {EXAMPLE_KEY}\n"
            "netrc-file = /etc/nix/netrc\n",
        )
    )
    netrc = fields.String(
        **nullable(
            "A line for the netrc file, with a token's secret in place of TOKEN; null for a cache "
            "that has logins of its own.",
            "machine pkgd.example.org login token-2 password TOKEN\n",
        )
    )


class TransferSlots(threading.BoundedSemaphore):
    """How many nars this process may send at once: each holds a thread until it is read."""


class Transfer(io.FileIO):
    """A file that is being sent; closing it frees its slot."""

    def __init__(self, path: Path, slots: TransferSlots) -> None:
        super().__init__(path)
        self._slots: TransferSlots | None = slots

    def close(self) -> None:
        """Close the file, and free its slot."""
        super().close()
        slots, self._slots = self._slots, None
        if slots is not None:
            slots.release()


@blueprint.get("/cache")
@blueprint.response(200, CacheSchema)
@blueprint.refuses(errors.NoCache, errors.FileUnusable)
def show() -> Any:
    """Tell how machines use the binary cache: its URL and key, the lines for nix.conf and netrc.

    A cache that the server itself has is at `/cache`, by the protocol of Nix. There a token may
    also be the password of HTTP Basic, as Nix sends it from its netrc file: with any login, and
    fastest with the token's own, which the answer to that token names.
    """
    where = publishing.cache(current_app.config)
    if where is None:
        raise errors.NoCache
    try:
        public_key = nix.public_key(where.key_file)
    except nix.CacheKeyUnusable as error:
        raise errors.FileUnusable(detail=error) from None
    if where.folder is None:
        url, key = where.public_uri, public_key
        nix_conf = NIX_CONF.format(url=url, public_key=key)
        return {"url": url, "public_key": key, "nix_conf": nix_conf, "netrc": None}

    url = url_for("cache_files.info", _external=True).removesuffix(f"/{INFO}")
    return {
        "url": url,
        "public_key": public_key,
        "nix_conf": NIX_CONF.format(url=url, public_key=public_key) + NETRC_FILE,
        "netrc": NETRC.format(host=urlsplit(url).hostname, login=login_of(g.caller.id)),
    }


@files.get(f"/{INFO}")
def info() -> Response:
    """Tell Nix for which store the cache is."""
    return _small(INFO, INFO_TYPE)


@files.get("/<name>")
def narinfo(name: str) -> Response:
    """Describe a store path: what it needs, which nar it is, who has signed it."""
    if not NARINFO.fullmatch(name):
        raise errors.NotInCache
    return _small(name, NARINFO_TYPE)


@files.get("/nar/<name>")
def nar(name: str) -> Response:
    """Send the content of a store path."""
    if not NAR.fullmatch(name):
        raise errors.NotInCache
    path = _folder() / "nar" / name
    response = Response(content_type=NAR_TYPE, headers={"Cache-Control": FOR_EVER})
    response.content_length = _stat(path).st_size
    response.set_etag(name.partition(".")[0])
    response.make_conditional(request)
    if response.status_code == 200 and request.method != "HEAD":
        _send(response, path)
    return response


def _small(name: str, kind: str) -> Response:
    """Send a small file of the folder."""
    path = _folder() / name
    _stat(path)
    response = Response(content_type=kind, headers={"Cache-Control": A_MINUTE})
    if not _leave_to_nginx(response, path):
        response.data = path.read_bytes()
        response.add_etag()
        response.make_conditional(request)
    return response


def _send(response: Response, path: Path) -> None:
    """Have nginx send a file, or send it while there is a slot. Raises TooManyTransfers."""
    if _leave_to_nginx(response, path):
        return
    slots = services.get(TransferSlots)
    if not slots.acquire(blocking=False):
        raise errors.TooManyTransfers
    try:
        file = Transfer(path, slots)
    except OSError:
        slots.release()
        raise
    response.response = wrap_file(request.environ, file)
    response.direct_passthrough = True
    if client := request.environ.get("gunicorn.socket"):
        # The kernel's limit means nothing to Python's sendfile, which tries again for ever.
        client.settimeout(STALL_SECONDS)


def _leave_to_nginx(response: Response, path: Path) -> bool:
    """Have nginx send the file if the request came through it: nginx adds ETag and length."""
    accel: str = current_app.config["CACHE_ACCEL"]
    is_behind_nginx = bool(accel) and "X-Forwarded-For" in request.headers
    if is_behind_nginx:
        response.headers["X-Accel-Redirect"] = accel + str(path.relative_to(_folder()))
        response.content_length = 0
        del response.headers["ETag"]
    return is_behind_nginx


def _folder() -> Path:
    """Return the folder of the cache. Raises NoCache where the server has none."""
    folder = publishing.folder()
    if folder is None:
        raise errors.NoCache
    return folder


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except FileNotFoundError:
        raise errors.NotInCache from None


@files.after_request
def admit(response: Response) -> Response:
    """Have nginx check this token by itself for a while, if it came with the login of its own."""
    caller = g.get("caller")
    is_served = caller is not None and response.status_code < 400
    if is_served and not current_app.config["READ_ONLY"]:
        login, secret = auth.basic_credentials()
        if login == login_of(caller.id):
            services.get(CacheAccess).admit(caller.id, caller.expires_at, secret)
    return response


@files.after_request
def challenge(response: Response) -> Response:
    """Tell that HTTP Basic is understood here, too."""
    if response.status_code == 401:
        response.headers.add("WWW-Authenticate", 'Basic realm="pkgd"')
    return response
