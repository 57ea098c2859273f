"""The API as pkgctl sees it: requests, pages, refusals, and patience with a server that is away."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from http import HTTPStatus
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

import requests

Document = dict[str, Any]

PAGE = 1000
CONNECT_SECONDS = 5
ANSWER_SECONDS = 120  # an activation waits for its turn, a search for Nix
POLL_SECONDS = 20
PAUSE_SECONDS = 0.5
AWAY = {HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT}


class Exit(IntEnum):
    """What pkgctl's exit codes mean."""

    REFUSED = 1
    USAGE = 2
    FAILED = 3
    CANCELLED = 4
    TIMED_OUT = 5
    NOT_FOUND = 6
    NOT_ALLOWED = 7
    UNREACHABLE = 8
    INTERRUPTED = 130


EXITS: dict[int, Exit] = {
    HTTPStatus.UNAUTHORIZED: Exit.NOT_ALLOWED,
    HTTPStatus.FORBIDDEN: Exit.NOT_ALLOWED,
    HTTPStatus.NOT_FOUND: Exit.NOT_FOUND,
}


class Failure(Exception):
    """The end of a command: one line that says why and what to do about it, and an exit code.

    `status` is the HTTP status of the answer that is behind it, if one is.
    """

    def __init__(
        self, message: str, exit_code: Exit, hint: str = "", status: int | None = None
    ) -> None:
        self.reason = one_line(message)
        super().__init__(printable(f"{self.reason} ({hint})" if hint else self.reason))
        self.exit_code = exit_code
        self.status = status


class Unreachable(Failure):
    """The server doesn't answer, or says that it can't at the moment."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, Exit.UNREACHABLE, hint)


def printable(text: str) -> str:
    """Return `text` as one line that can do nothing to a terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)


def one_line(message: str) -> str:
    """Return the first line of a message, which says what, and its last, which mostly says why."""
    lines = [line for line in message.splitlines() if line.strip()]
    ends = [lines[0].rstrip(";: "), *lines[1:][-1:]] if lines else []
    return printable(" ... ".join(end.strip() for end in ends))


def ignore(_message: str) -> None:
    """Tell nobody."""


@dataclass
class Patience:
    """How long to put up with a server that was there and is away: a number of seconds on end.

    `deadline` is the time.monotonic() from which on there is none, `tell` hears what is wrong.
    """

    seconds: float = 0.0
    deadline: float = math.inf
    tell: Callable[[str], None] = ignore


class Bearer(requests.auth.AuthBase):
    """Sends the token; without one it keeps requests from sending what a .netrc has."""

    def __init__(self, token: str | None) -> None:
        self.token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Add the header to a request."""
        if self.token is not None:
            request.headers["Authorization"] = f"Bearer {self.token}"
        return request


class Client:
    """One server, and the token to talk to it with."""

    def __init__(
        self, url: str, token: str | None = None, patience: Patience | None = None
    ) -> None:
        self.url = url
        self.patience = patience or Patience()
        self._met = False
        self._has_token = token is not None
        self._http = requests.Session()
        self._http.auth = Bearer(token)

    def __enter__(self) -> Self:
        """Begin; connections are made when they are needed."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections."""
        self._http.close()

    def get(self, path: str, **query: object) -> Any:
        """Return what the server says of /api/v1/PATH."""
        return self._json(self.ask("GET", f"/api/v1/{path}", query))

    def post(self, path: str, body: Document | None = None, **query: object) -> Any:
        """Return what a POST to /api/v1/PATH is answered with."""
        return self._json(self.ask("POST", f"/api/v1/{path}", query, body))

    def delete(self, path: str) -> Any:
        """Return what a DELETE of /api/v1/PATH is answered with."""
        return self._json(self.ask("DELETE", f"/api/v1/{path}"))

    def ready(self) -> Any:
        """Return the checks of the server's health; raises Unreachable when one fails."""
        return self._json(self.ask("GET", "/readyz"))

    def each(self, path: str, **query: object) -> Iterator[Document]:
        """Yield everything in a list, asking for its pages one after the other."""
        page: dict[str, object] = {"limit": PAGE, **query}
        while page:
            response = self.ask("GET", f"/api/v1/{path}", page)
            yield from self._json(response)
            # of the next page's address only the query counts: a token goes to no other server
            page = dict(parse_qsl(urlsplit(response.links.get("next", {}).get("url", "")).query))

    def count(self, path: str, **query: object) -> int:
        """Return how long a list is."""
        response = self.ask("GET", f"/api/v1/{path}", {"limit": 1, **query})
        return int(response.headers["X-Total-Count"])

    def task(self, task_id: object, wait: float) -> Document:
        """Return a task as it is in `wait` seconds, or as soon as it has ended."""
        response = self.ask("GET", f"/api/v1/task/{task_id}", {"wait": wait}, seconds=POLL_SECONDS)
        task: Document = self._json(response)
        return task

    def log(self, task_id: object, attempt: int, offset: int) -> tuple[bytes, int]:
        """Return an attempt's log from byte `offset` on, and where the next piece begins."""
        query = {"attempt": attempt, "offset": offset}
        response = self.ask("GET", f"/api/v1/task/{task_id}/log", query, seconds=POLL_SECONDS)
        return response.content, int(response.headers["X-Next-Offset"])

    def ask(
        self,
        method: str,
        path: str,
        query: Document | None = None,
        body: Document | None = None,
        seconds: float | None = None,
    ) -> requests.Response:
        """Send one request, again and again as far as patience goes once the server was met.

        Raises Failure for a refusal, Unreachable when there is no answer.
        """
        patience, since = self.patience, math.inf
        while True:
            try:
                response = self._send(method, path, query, body, seconds)
            except Unreachable as error:
                now = time.monotonic()
                is_first, since = since == math.inf, min(since, now)
                if not self._met or now >= min(since + patience.seconds, patience.deadline):
                    raise
                if is_first:
                    patience.tell(error.reason)
                time.sleep(PAUSE_SECONDS)
            else:
                self._met = True
                return response

    def _send(
        self,
        method: str,
        path: str,
        query: Document | None,
        body: Document | None,
        seconds: float | None,
    ) -> requests.Response:
        try:
            response = self._http.request(
                method,
                self.url + path,
                params=query,
                json=body,
                timeout=(CONNECT_SECONDS, seconds or ANSWER_SECONDS),
                allow_redirects=False,  # a POST would become a GET
            )
        except requests.RequestException as error:
            hint = "is it running? --url, PKGCTL_URL or pkgctl login say where"
            raise Unreachable(f"can't reach {self.url}: {_reason(error)}", hint) from None
        if response.status_code in AWAY:
            raise Unreachable(self._said(response))
        if response.status_code >= HTTPStatus.MULTIPLE_CHOICES:
            raise self._refusal(response)
        if "X-Request-ID" not in response.headers:
            raise Unreachable(f"{self.url} answers, but not as pkgd does")
        return response

    def _refusal(self, response: requests.Response) -> Failure:
        status = response.status_code
        if status < HTTPStatus.BAD_REQUEST:
            moved = f"{self.url} sends its clients on to {response.headers.get('Location')}"
            return Failure(moved, Exit.REFUSED, "give that address as --url")
        hint = ""
        if status == HTTPStatus.UNAUTHORIZED:
            hint = "pkgctl login, --token or PKGCTL_TOKEN give one"
            if self._has_token:
                hint = "the one that was given is unknown, expired or revoked"
        if status == HTTPStatus.INTERNAL_SERVER_ERROR:
            hint = f"the server's log says more of request {response.headers.get('X-Request-ID')}"
        return Failure(self._said(response), EXITS.get(status, Exit.REFUSED), hint, status)

    def _said(self, response: requests.Response) -> str:
        """Return what the problem document of a refusal says."""
        if "application/problem+json" in response.headers.get("Content-Type", ""):
            return str(self._json(response).get("detail"))
        return f"{self.url} answers {response.status_code} {response.reason}"

    def _json(self, response: requests.Response) -> Any:
        try:
            return response.json()
        except requests.JSONDecodeError:
            raise Unreachable(f"{self.url} answers, but not as pkgd does") from None


def _reason(error: BaseException) -> str:
    """Return what the operating system says is behind an error, else that it broke."""
    if isinstance(error, requests.Timeout):
        return "it doesn't answer in time"
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return "the connection was lost"
