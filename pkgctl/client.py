"""The HTTP API of a pkgd server: requests, paging, errors, and retries while it is unreachable."""

import io
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from http import HTTPStatus
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import requests
import urllib3

from pkgctl.alarm import bounded
from pkgctl.diagnosis import environment_proxy, is_pkgd, other_scheme, unreachable, without_path
from pkgctl.errors import CommandError, ExitCode, ServerUnreachable

JsonObject = dict[str, Any]

PAGE_SIZE = 1000
CONNECT_SECONDS = 5
READ_SECONDS = 120  # an activation may wait for others, and a search evaluates Nix
POLL_READ_SECONDS = 20
RETRY_SECONDS = 0.5
ANSWER_BYTES = 128 * 1024 * 1024  # far more than any answer has
PIECE_BYTES = 64 * 1024
PROBLEM = "application/problem+json"
UNAVAILABLE = {
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
}
STATUS_EXIT_CODES: dict[int, ExitCode] = {
    HTTPStatus.UNAUTHORIZED: ExitCode.NOT_ALLOWED,
    HTTPStatus.FORBIDDEN: ExitCode.NOT_ALLOWED,
    HTTPStatus.NOT_FOUND: ExitCode.NOT_FOUND,
}


@dataclass(frozen=True)
class ApiRequest:
    """One request to the server; `read_seconds` bounds the wait for its answer."""

    method: str
    path: str
    query: JsonObject | None = None
    body: JsonObject | None = None
    read_seconds: float | None = None
    headers: dict[str, str] | None = None


def _ignore(_message: str) -> None:
    """Accept a message and do nothing."""


@dataclass(frozen=True)
class RetryPolicy:
    """How long to retry when a server that has answered before becomes unreachable.

    `seconds` bounds one outage. `deadline`, a time.monotonic() value, ends all retries. `notify` is
    called with the reason once per outage.
    """

    seconds: float = 0.0
    deadline: float = math.inf
    notify: Callable[[str], None] = _ignore


class BearerAuth(requests.auth.AuthBase):
    """Sends the token. Without one, it keeps requests from sending credentials of a .netrc file."""

    def __init__(self, token: str | None) -> None:
        self.token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Add the Authorization header to a request."""
        if self.token is not None:
            request.headers["Authorization"] = f"Bearer {self.token}"
        return request


class Client:
    """A connection to one server with one token.

    `token_expires_at` is when the token expires, once the server has said that this is soon.
    `limit_seconds` bounds each wait for the server, whose faults then aren't looked into, and
    `answer_seconds` the whole of an answer, where nobody watches; only in the main thread.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        retry_policy: RetryPolicy | None = None,
        *,
        limit_seconds: float | None = None,
    ) -> None:
        self.url = url
        self.token = token
        self._limit_seconds = limit_seconds
        self.answer_seconds: float | None = None
        self.retry_policy = retry_policy or RetryPolicy()
        self.token_expires_at: str | None = None
        self._has_answered = False
        self._has_token = token is not None
        self._http = requests.Session()
        self._http.auth = BearerAuth(token)

    def __enter__(self) -> Self:
        """Return the client; it connects with its first request."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections."""
        self._http.close()

    def get(self, path: str, **query: object) -> Any:
        """GET /api/v1/PATH and return the answer's JSON."""
        return self._json(self._request(ApiRequest("GET", f"/api/v1/{path}", query)))

    def post(self, path: str, body: JsonObject | None = None, **query: object) -> Any:
        """POST to /api/v1/PATH and return the answer's JSON."""
        return self._json(self._request(ApiRequest("POST", f"/api/v1/{path}", query, body)))

    def put(self, path: str, body: JsonObject, etag: str | None = None, **query: object) -> Any:
        """PUT to /api/v1/PATH and return the answer's JSON.

        With an ETag, it counts only for what has that one.
        """
        headers = {"If-Match": etag} if etag else None
        return self._json(
            self._request(ApiRequest("PUT", f"/api/v1/{path}", query, body, headers=headers))
        )

    def get_with_etag(self, path: str) -> tuple[Any, str | None]:
        """GET /api/v1/PATH and return the answer's JSON, and its ETag."""
        response = self._request(ApiRequest("GET", f"/api/v1/{path}"))
        return self._json(response), response.headers.get("ETag")

    def delete(self, path: str, **query: object) -> Any:
        """DELETE /api/v1/PATH and return the answer's JSON."""
        return self._json(self._request(ApiRequest("DELETE", f"/api/v1/{path}", query)))

    def get_unless(
        self, path: str, etag: str | None, **query: object
    ) -> tuple[Any | None, str | None]:
        """GET /api/v1/PATH unless it still has this ETag; return the answer's JSON, and its ETag.

        The JSON is None where it has.
        """
        headers = {"If-None-Match": etag} if etag else None
        response = self._request(ApiRequest("GET", f"/api/v1/{path}", query, headers=headers))
        is_same = response.status_code == HTTPStatus.NOT_MODIFIED
        return None if is_same else self._json(response), response.headers.get("ETag")

    def ready(self) -> Any:
        """Return the readiness checks; raises ServerUnreachable if one fails."""
        return self._json(self._request(ApiRequest("GET", "/readyz")))

    def list_all(self, path: str, **query: object) -> Iterator[JsonObject]:
        """Yield every entry of a list, requesting one page after the other."""
        page: dict[str, object] = {"limit": PAGE_SIZE, **query}
        while page:
            response = self._request(ApiRequest("GET", f"/api/v1/{path}", page))
            yield from self._json(response)
            # take only the query of the link: its host must not receive the token
            link = response.links.get("next", {}).get("url", "")
            page = dict(parse_qs(urlsplit(link).query))

    def count(self, path: str, **query: object) -> int:
        """Return the length of a list."""
        request = ApiRequest("GET", f"/api/v1/{path}", {"limit": 1, **query})
        return int(self._request(request).headers["X-Total-Count"])

    def task(self, task_id: object, wait: float) -> JsonObject:
        """Return a task after `wait` seconds, or as soon as it has ended."""
        path = f"/api/v1/task/{task_id}"
        request = ApiRequest("GET", path, {"wait": wait}, read_seconds=POLL_READ_SECONDS)
        task: JsonObject = self._json(self._request(request))
        return task

    def log(self, task_id: object, attempt: int, offset: int) -> tuple[bytes, int]:
        """Return an attempt's log from byte `offset` on, and the offset of the next piece."""
        path = f"/api/v1/task/{task_id}/log"
        query = {"attempt": attempt, "offset": offset}
        request = ApiRequest("GET", path, query, read_seconds=POLL_READ_SECONDS)

        response = self._request(request)
        return response.content, int(response.headers["X-Next-Offset"])

    def _request(self, request: ApiRequest) -> requests.Response:
        """Send a request; retry as the policy allows if the server has answered before.

        Raises CommandError if the server refuses, ServerUnreachable if it doesn't answer.
        """
        policy = self.retry_policy
        try:
            return self._send(request)
        except ServerUnreachable as error:
            now = time.monotonic()
            give_up_at = min(now + policy.seconds, policy.deadline)
            if not self._has_answered or now >= give_up_at:
                raise
            policy.notify(error.reason)

        return self._retry(request, give_up_at)

    def _retry(self, request: ApiRequest, give_up_at: float) -> requests.Response:
        while True:
            time.sleep(RETRY_SECONDS)
            try:
                return self._send(request)
            except ServerUnreachable:
                if time.monotonic() >= give_up_at:
                    raise

    def _send(self, request: ApiRequest) -> requests.Response:
        with self._bounded():
            return self._answer(request)

    def _bounded(self) -> AbstractContextManager[None]:
        """Return what bounds the time of an answer."""
        if self.answer_seconds is None:
            return nullcontext()
        message = f"{self._name} did not send all of its answer in {self.answer_seconds:g} s"
        return bounded(self.answer_seconds, ServerUnreachable(message))

    def _answer(self, request: ApiRequest) -> requests.Response:
        try:
            response = self._http.request(
                request.method,
                self.url + request.path,
                params=request.query,
                json=request.body,
                headers=request.headers,
                timeout=self._limit_seconds
                or (CONNECT_SECONDS, request.read_seconds or READ_SECONDS),
                allow_redirects=False,  # following one turns a POST into a GET
                stream=True,
            )
            _read(response)
        except OSError as error:  # any of requests, which also has bare ones
            is_new = not (self._has_answered or self._limit_seconds)
            raise unreachable(self.url, error, is_new=is_new) from None
        except ValueError:  # it redirects to what is no URL
            raise self._no_pkgd() from None

        self.token_expires_at = response.headers.get("X-Token-Expires", self.token_expires_at)
        self._check(response)
        self._has_answered = True
        return response

    def _check(self, response: requests.Response) -> None:
        """Raise unless the response is a success, and pkgd's."""
        is_pkgd = "X-Request-ID" in response.headers
        is_same = response.status_code == HTTPStatus.NOT_MODIFIED
        is_malformed = response.status_code == HTTPStatus.BAD_REQUEST and not is_pkgd
        if is_malformed and not self._proxy and (error := other_scheme(self.url)):
            raise error
        if response.status_code in UNAVAILABLE:
            raise ServerUnreachable(self._detail(response))
        if response.status_code >= HTTPStatus.BAD_REQUEST:
            raise self._wrong_url(response) or self._refusal(response)
        if response.status_code >= HTTPStatus.MULTIPLE_CHOICES and not is_same:
            target = response.headers.get("Location", "")
            moved = f"{self._name} redirects to {target}"
            target = target.partition("?")[0].removesuffix(self._path_of(response))
            raise CommandError(moved, ExitCode.REFUSED, f"give {target} as --url")
        if not is_pkgd:
            raise self._no_pkgd()

    def _path_of(self, response: requests.Response) -> str:
        """Return the path that was requested, below the server's URL."""
        return urlsplit(response.url).path.removeprefix(self._path)

    def _wrong_url(self, response: requests.Response) -> CommandError | None:
        """Return the error for a URL at which there is no pkgd; None where there may be one.

        pkgd itself answers 401 or 404 at a wrong path, too, so it is asked whether it is alive.
        """
        is_other = response.status_code not in (HTTPStatus.UNAUTHORIZED, HTTPStatus.NOT_FOUND)
        is_right = self._has_answered or (PROBLEM in _kind(response) and not self._path)
        if is_other or is_right or self._limit_seconds or self._proxy:
            return None
        status = f"{response.status_code} {response.reason}"
        return None if is_pkgd(self.url) else self._no_pkgd(f" {status}")

    def _no_pkgd(self, status: str = "") -> CommandError:
        root = without_path(self.url)
        may_ask = self._path and not (self._proxy or self._limit_seconds)
        if may_ask and is_pkgd(root):
            message = f"there is no pkgd at {self.url}, but at {root}"
            return CommandError(message, ExitCode.UNREACHABLE, f"give {root} as --url")
        hint = "" if self._proxy else "is it another service's? --url says where pkgd is"
        return ServerUnreachable(f"{self._name} answers{status}, but not as pkgd does", hint)

    def _refusal(self, response: requests.Response) -> CommandError:
        status, hint = response.status_code, ""
        if status == HTTPStatus.UNAUTHORIZED:
            hint = "pkgctl login, --token or PKGCTL_TOKEN give one"
            if self._has_token:
                given = "the one that was given is unknown, expired or revoked"
                hint = f"{given}; pkgctl login keeps another"
        if status == HTTPStatus.INTERNAL_SERVER_ERROR:
            hint = (
                f"the server's log says more about request {response.headers.get('X-Request-ID')}"
            )

        exit_code = STATUS_EXIT_CODES.get(status, ExitCode.REFUSED)
        return CommandError(self._detail(response), exit_code, hint, status)

    def _detail(self, response: requests.Response) -> str:
        """Return the detail of a problem document, else the response's status line."""
        problem = self._json(response) if PROBLEM in _kind(response) else None
        if isinstance(problem, dict):
            return str(problem.get("detail"))
        return f"{self._name} answers {response.status_code} {response.reason}"

    def _json(self, response: requests.Response) -> Any:
        try:
            return response.json()
        except (ValueError, RecursionError):  # no JSON, a huge number, or nested too deeply
            raise self._no_pkgd() from None

    @cached_property
    def _path(self) -> str:
        """The path of the server's URL, "" for most."""
        return urlsplit(self.url).path

    @cached_property
    def _proxy(self) -> str | None:
        return environment_proxy(self.url)

    @property
    def _name(self) -> str:
        """The server's URL, with the proxy that an answer may have come from instead."""
        return f"{self.url}, through the proxy {self._proxy}," if self._proxy else self.url


def _read(response: requests.Response) -> None:
    """Read an answer, which the response has then. Raises OSError for one that is too large."""
    data = bytearray()
    try:
        for piece in response.raw.stream(PIECE_BYTES, decode_content=True):
            data += piece
            if len(data) > ANSWER_BYTES:
                response.close()
                raise requests.RequestException("its answer is too large")
    except urllib3.exceptions.HTTPError as error:
        is_late = isinstance(error, urllib3.exceptions.ReadTimeoutError)
        raise (requests.ReadTimeout if is_late else requests.ConnectionError)(error) from None
    response.raw = io.BytesIO(data)


def _kind(response: requests.Response) -> str:
    return str(response.headers.get("Content-Type", ""))
