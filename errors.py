"""Every answer that is not a success: one class each, which error_handlers.py sends.

All are problem documents (RFC 9457). The API document is made of these classes, too: a new error is
a new class here, raised where it happens, and named by the routes that may raise it.
"""

import errno
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from werkzeug.datastructures import Headers, WWWAuthenticate
from werkzeug.http import HTTP_STATUS_CODES

import nix

CONTENT_TYPE = "application/problem+json"
EXAMPLE_TASK = "0b9f2c1e-7d43-4c5a-9a52-6f1f0f6f8f2d"
HOST_LIMITS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT}


class ApiError(Exception):
    """An answer other than a success.

    `code` names the error for programs: it is in the document's `type`, unless the HTTP status says
    it all (`has_type` is false). `title` is the status in words. `message`, filled in with what the
    error is raised with, is the document's `detail`, unless a detail or errors by field are given.
    `hint` says what a client can do. `example` is what the API document's example is raised with.
    """

    status: int
    title: str
    code: ClassVar[str]
    message: ClassVar[str] = ""
    hint: ClassVar[str]
    example: ClassVar[dict[str, Any]] = {}
    has_type: ClassVar[bool] = True
    retry_after: int | None = None

    def __init_subclass__(cls) -> None:
        """Derive the title from the status."""
        cls.title = HTTP_STATUS_CODES[cls.status]

    def __init__(
        self,
        *,
        detail: object = None,
        errors: Mapping[str, Any] | None = None,
        near: Sequence[str] | None = None,
        retry_after: int | None = None,
        **facts: object,
    ) -> None:
        """Fill the message in with `facts`; `errors` are by field, `near` are names that exist."""
        by_field = (f"{field}: {' '.join(said)}" for field, said in (errors or {}).items())
        said = detail or "; ".join(by_field) or self.message.format(**facts)
        super().__init__(nix.plain(str(said)))

        self.errors = errors
        self.near = near
        self.retry_after = retry_after or self.retry_after

    def document(self, instance: str) -> dict[str, Any]:
        """Return the problem document; `instance` is the id of the request."""
        document = {
            "type": f"urn:pkgd:problem:{self.code}" if self.has_type else "about:blank",
            "title": self.title,
            "status": self.status,
            "detail": str(self),
            "instance": instance,
        }
        if self.errors:
            document["errors"] = self.errors
        if self.near is not None:
            document["near"] = self.near
        return document

    def headers(self) -> Headers:
        """Return the headers that belong to the answer."""
        headers = Headers()
        if self.retry_after is not None:
            headers["Retry-After"] = str(self.retry_after)
        return headers


class InvalidJson(ApiError):
    """The body is not JSON."""

    status = 400
    code = "no-json"
    has_type = False
    hint = "Send valid JSON in UTF-8."
    example: ClassVar = {"errors": {"body": ["Invalid JSON body."]}}


class Unauthorized(ApiError):
    """No live token came with the request."""

    status = 401
    code = "no-token"
    has_type = False
    message = (
        "a live token is needed; flask create-token on the host of the service makes one, "
        "and {docs} shows the API"
    )
    hint = "Send a token that is neither expired nor revoked."
    example: ClassVar = {"docs": "/docs"}

    def headers(self) -> Headers:
        """Return the challenges of RFC 9110, section 11.6.1."""
        schemes = ("bearer", "token")
        challenges = (WWWAuthenticate(scheme, {"realm": "pkgd"}).to_header() for scheme in schemes)
        return Headers([("WWW-Authenticate", challenge) for challenge in challenges])


class SignInNeeded(Unauthorized):
    """A page of the dashboard was asked for without a session that is alive."""

    message = "sign in with a token to see this"


class ScopeTooSmall(ApiError):
    """The token may not do this."""

    status = 403
    code = "small-scope"
    has_type = False
    message = "this needs scope {needed}; the token's is {given}"
    hint = "Use a token of a larger scope."
    example: ClassVar = {"needed": "admin", "given": "read"}


class LifeTooLong(ApiError):
    """A token would outlive the one that mints it."""

    status = 403
    code = "long-life"
    message = "a token can't outlive the one that mints it, which expires at {bound}"
    hint = "Ask for a shorter life, or for none: the token then expires with the one that mints it."
    example: ClassVar = {"bound": "2024-05-05T10:30:00.000Z"}


class LengthRequired(ApiError):
    """The body's length is not announced: waiting for its end could take for ever."""

    status = 411
    code = "no-length"
    has_type = False
    message = "the body's length must be announced, with Content-Length"
    hint = "Send the header Content-Length."


class BodyTooLarge(ApiError):
    """The body is over the limit."""

    status = 413
    code = "large-body"
    has_type = False
    message = "a body may have {limit} bytes at most"
    hint = "Send 64 KiB at most."
    example: ClassVar = {"limit": 65_536}


class UrlTooLong(ApiError):
    """The request line is too long; the server in front of the application says so."""

    status = 414
    code = "long-url"
    has_type = False
    hint = "Send a shorter query."
    example: ClassVar = {"detail": "Request Line is too large (4353 > 4094)"}


class BodyNotJson(ApiError):
    """The body is announced as something other than JSON."""

    status = 415
    code = "other-body"
    has_type = False
    message = "the body must be JSON, with Content-Type: application/json"
    hint = "Send the header Content-Type: application/json."


class InvalidInput(ApiError):
    """A field or a query parameter breaks a rule; `errors` says which and how."""

    status = 422
    code = "invalid"
    has_type = False
    hint = "Correct the fields that `errors` names."
    example: ClassVar = {"errors": {"limit": ["Not a valid integer."]}}


class TooManyFailures(ApiError):
    """Too many requests without a live token came from this address."""

    status = 429
    code = "too-many-failures"
    message = "too many requests without a live token came from this address"
    hint = "Wait, then send a live token."
    example: ClassVar = {"retry_after": 30}


class HttpError(ApiError):
    """What Flask and Werkzeug refuse themselves, with whatever status; not documented."""

    status = 500
    code = "http-error"
    has_type = False
    hint = "See the status."


class NoSuchPackage(ApiError):
    """No package has this id."""

    status = 404
    code = "no-such-package"
    message = "there is no package {package_id}"
    hint = "List the packages."
    example: ClassVar = {"package_id": 7}


class NoSuchTask(ApiError):
    """No task has this id."""

    status = 404
    code = "no-such-task"
    message = "there is no task {task_id}"
    hint = "List the tasks: those that ended long ago are deleted."
    example: ClassVar = {"task_id": EXAMPLE_TASK}


class AmbiguousTask(ApiError):
    """Several tasks have ids that begin so; `near` lists some of them."""

    status = 409
    code = "ambiguous-task"
    message = "several tasks have ids that begin with {task_id}: {listed}"
    hint = "Give more digits of the id."
    example: ClassVar = {"task_id": "0b9f", "listed": EXAMPLE_TASK, "near": [EXAMPLE_TASK]}


class NoSuchToken(ApiError):
    """No live token has this id."""

    status = 404
    code = "no-such-token"
    message = "there is no live token {token_id}"
    hint = "List the tokens."
    example: ClassVar = {"token_id": 7}


class NoSuchProfile(ApiError):
    """There is no profile of this name."""

    status = 404
    code = "no-such-profile"
    message = "there is no profile {name!r}"
    hint = "List the profiles, or make it: PUT profile/NAME."
    example: ClassVar = {"name": "staging"}


class NothingToPromote(ApiError):
    """The profile that is to be promoted has no generation."""

    status = 409
    code = "nothing-to-promote"
    message = "the profile {name} has no generation"
    hint = "Apply a set to it first."
    example: ClassVar = {"name": "staging"}


class MachinesNotCurrent(ApiError):
    """Machines of the profile that is to be promoted don't hold it, or none does yet."""

    status = 409
    code = "machines-not-current"
    message = "the profile {name} is not proven by its machines: {why}"
    hint = "See the machines that it names; promote without require=current to do so all the same."
    example: ClassVar = {"name": "staging", "why": "of 5, 1 has failed: web-1"}


class NoSuchMachine(ApiError):
    """No machine of this name has reported."""

    status = 404
    code = "no-such-machine"
    message = "there is no machine {name!r}"
    hint = "List the machines: one is there once it has reported."
    example: ClassVar = {"name": "web-1"}


class NotYourMachine(ApiError):
    """Another token of scope sync reports this machine."""

    status = 403
    code = "not-your-machine"
    message = "another live token reports the machine {name}: revoke it, or remove the machine"
    hint = "Use that token or another name; or have an operator revoke it, or remove the machine."
    example: ClassVar = {"name": "web-1"}


class TooManyMachines(ApiError):
    """A token of scope sync reports as many machines as one may."""

    status = 409
    code = "too-many-machines"
    message = "the token reports {limit} machines already, and a new one would be one too many"
    hint = "Have an operator remove those that are gone, or an admin mint another token."
    example: ClassVar = {"limit": 10_000}


class ProfileKept(ApiError):
    """The profile can't be deleted."""

    status = 409
    code = "profile-kept"
    message = "the profile {name} can't be deleted: {why}"
    hint = "Wait for the apply, or cancel it."
    example: ClassVar = {"name": "default", "why": "it always exists"}


class ProfileChanged(ApiError):
    """The profile is not in the state that If-Match or If-None-Match names."""

    status = 412
    code = "profile-changed"
    message = "the profile {name} has changed: its ETag is {etag}"
    hint = "Look at it again, and decide anew."
    example: ClassVar = {"name": "staging", "etag": '"7.b5qvdl8x"'}


class NoSuchGeneration(ApiError):
    """The profile has no generation of this number."""

    status = 404
    code = "no-such-generation"
    message = "there is no generation {number}"
    hint = "List the generations."
    example: ClassVar = {"number": 7}


class NoSuchWebhook(ApiError):
    """No webhook has this id."""

    status = 404
    code = "no-such-webhook"
    message = "there is no webhook {webhook_id}"
    hint = "List the webhooks."
    example: ClassVar = {"webhook_id": 1}


class TooManyWebhooks(ApiError):
    """There are as many webhooks as there may be."""

    status = 409
    code = "too-many-webhooks"
    message = "there are {limit} webhooks already, and a new one would be one too many"
    hint = "Remove those that are disabled."
    example: ClassVar = {"limit": 50}


class NoCache(ApiError):
    """The service has no binary cache, or none that it serves itself."""

    status = 404
    code = "no-cache"
    message = "there is no binary cache here"
    hint = "Have the operator set CACHE."


class NotInCache(ApiError):
    """The binary cache has no such file."""

    status = 404
    code = "not-in-cache"
    message = "the cache has no such file"
    hint = "Ask for what a profile offers: that has been published."


class NameNotFound(ApiError):
    """No catalog has the name; `near` lists names that are like it."""

    status = 404
    code = "name-unknown"
    hint = "Check the spelling, or add a catalog that has the name to CATALOGS."
    example: ClassVar = {"detail": "no catalog has helo; did you mean hello?", "near": ["hello"]}


class PackageExists(ApiError):
    """This version is registered already."""

    status = 409
    code = "package-exists"
    message = "{name} {version} is registered already"
    hint = "Find it in the list of packages, by its name."
    example: ClassVar = {"name": "hello", "version": "2.12.1"}


class PackageInUse(ApiError):
    """A package can't be forgotten while it is activated or downloading."""

    status = 409
    code = "package-in-use"
    message = "{name} {version} is {use}"
    hint = "Deactivate it, or cancel its task, first."
    example: ClassVar = {"name": "hello", "version": "2.12.1", "use": "activated"}


class NotDownloaded(ApiError):
    """A package can't be activated before it is downloaded."""

    status = 409
    code = "not-downloaded"
    message = "{name} {version} is not downloaded"
    hint = "Download it first."
    example: ClassVar = {"name": "hello", "version": "2.12.1"}


class LockMismatch(ApiError):
    """A package has another store path than the request insists on."""

    status = 409
    code = "lock-mismatch"
    hint = "Have the store at the same place and the same catalogs, or forget the package here."
    example: ClassVar = {"detail": "hello 2.12.1 is /nix/store/…-hello, not /nix/store/…-hello"}


class FilesCollide(ApiError):
    """Two packages have the same file, so that the profile can't hold both."""

    status = 409
    code = "collision"
    hint = "Deactivate the other package first."
    example: ClassVar = {"detail": "hello 2.12.1 and greet 1.0.0 both have the file bin/hello"}


class ActivationRefused(ApiError):
    """Nix can't make a profile of these packages; trying again would not help."""

    status = 409
    code = "activation-refused"
    hint = "Read Nix's reason: a package is at fault."
    example: ClassVar = {"detail": "notes 1.0.0: /nix/store/…-notes-1.0.0 is a single file"}


class ProfileReplaced(ApiError):
    """Something that pkgd did not make is in the place of the profile."""

    status = 409
    code = "profile-replaced"
    hint = "Move it away on the host, and switch to the generation that was active."
    example: ClassVar = {"detail": "PROFILE should be a link, but is a folder: move it away"}


class CheckFailed(ApiError):
    """PROFILE_CHECK refused the new generation; the profile is what it was."""

    status = 409
    code = "check-failed"
    message = "the check of generation {number} failed with {failure}"
    hint = "Read what the check said."
    example: ClassVar = {"number": 4, "failure": "exit code 1: no answer"}


class LastAdmin(ApiError):
    """The last live token of scope admin would be revoked."""

    status = 409
    code = "last-admin"
    message = (
        "this would revoke the last live token of scope admin; force=true does so all the same"
    )
    hint = "Mint another one first. Once all are gone, flask create-token on the host makes one."


class TaskEnded(ApiError):
    """A task that has ended can't be cancelled."""

    status = 409
    code = "task-ended"
    message = "task {task_id} has ended already"
    hint = "There is nothing to cancel."
    example: ClassVar = {"task_id": EXAMPLE_TASK}


class DatabaseUnavailable(ApiError):
    """The database is down, takes no writes, or is busy for too long."""

    status = 503
    code = "database-unavailable"
    message = "the database can't be used at the moment; try again"
    hint = "Try again."
    retry_after = 2


class ReadOnly(ApiError):
    """The operator has set READ_ONLY: nothing is changed."""

    status = 503
    code = "read-only"
    message = "the operator has made the service read-only for a while (READ_ONLY): try again later"
    hint = "Try again later; reading goes on."
    retry_after = 30


class NixFailed(ApiError):
    """Nix could not do what the request needs."""

    status = 503
    code = "nix-failed"
    hint = "Read Nix's message; try again if its cause can pass."
    example: ClassVar = {"detail": "nix-env failed: out of memory"}
    retry_after = 2


class FileUnusable(ApiError):
    """A file or folder of the service is gone, something else, or not to be read or written."""

    status = 503
    code = "file-unusable"
    hint = "Have the operator set right what the message names, on the host."
    example: ClassVar = {"detail": "[Errno 13] Permission denied: '/var/lib/pkgd/changes.lock'"}
    retry_after = 5


class NotReady(ApiError):
    """The service can't do its work; `errors` says which check fails."""

    status = 503
    code = "not-ready"
    hint = "See what the failing check says."
    example: ClassVar = {"errors": {"workers": ["a worker thread of this process is not running"]}}
    retry_after = 2


class Busy(ApiError):
    """The request has waited for as long as a request may, or the host is at a limit."""

    status = 503
    code = "busy"
    message = "{what}; try again"
    hint = "Try again."
    example: ClassVar = {"what": "another change of the profile is going on"}
    retry_after = 5


class TooManyFollowers(ApiError):
    """As many logs are followed as MAX_FOLLOWERS allows."""

    status = 503
    code = "too-many-followers"
    message = "as many logs are being followed as this service allows; try again"
    hint = "Try again, or read the log without following it."
    retry_after = 5


class TooManyTransfers(ApiError):
    """As many files of the cache are sent as MAX_TRANSFERS allows."""

    status = 503
    code = "too-many-transfers"
    message = "as many files of the cache are being sent as this service allows; try again"
    hint = "Try again, as Nix does by itself."
    retry_after = 2


def documented() -> dict[str, type[ApiError]]:
    """Return the errors by their codes, those of the lowest status first."""
    known = (error for error in ApiError.__subclasses__() if error is not HttpError)
    return {error.code: error for error in sorted(known, key=lambda error: error.status)}
