"""One machine that follows a profile: ask, fetch, switch, check, report.

Whatever is killed in between, the profile is at the old generation or at the new one. A generation
whose check was cut short is checked in the next round, before anything else.
"""

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from pkgctl.children import run
from pkgctl.client import Client, JsonObject
from pkgctl.diagnosis import DEFAULT_PORTS
from pkgctl.errors import CommandError, ExitCode, one_line
from pkgctl.nix_client import (
    PUBLIC_KEY,
    BinaryCache,
    NixProfile,
    cache_url,
    environment,
    is_store_path,
    show,
)
from pkgctl.sync_state import Offer, Refusal, StateFolder, SyncState, Trial

CHECK_SECONDS = 60
CUT_SHORT = 3  # how often a check that did not end is run again: it may be what ends the machine
HEARTBEAT_SECONDS = 120  # MACHINE_SILENT_SECONDS is 600 on the server unless set
MAX_ERROR_LENGTH = 1000
LOGIN = re.compile(r" login (token-[0-9]{1,18}) ", re.ASCII)
UNKNOWN_FIELD = HTTPStatus.UNPROCESSABLE_ENTITY
ROLLED_BACK = "rolled back on the machine"
AGAIN = "tried again when another one is offered, or with --retry"


@dataclass(frozen=True)
class Following:
    """The profile that a machine follows, the path of the machine's own, and how it is checked."""

    profile: str
    machine: str
    path: Path
    check: Sequence[str] = ()
    public_keys: Sequence[str] = ()
    check_seconds: float = CHECK_SECONDS


class Reporter:
    """Reports the state of the machine to the server: at each change, and every few minutes."""

    def __init__(self) -> None:
        self._told: JsonObject | None = None
        self._told_at = 0.0

    def report(self, client: Client, machine: str, body: JsonObject) -> None:
        """Report, unless the same was reported a moment ago. Raises CommandError."""
        is_due = time.monotonic() >= self._told_at + HEARTBEAT_SECONDS
        if body == self._told and not is_due:
            return
        client.put(f"machine/{machine}", body)
        self._told, self._told_at = body, time.monotonic()


class Local:
    """The profile on the machine: what needs no server. The caller has locked its folder."""

    def __init__(self, following: Following, folder: StateFolder, lock: int) -> None:
        self.following = following
        self.folder = folder
        self.state = folder.load()
        self.nix = NixProfile(following.path, folder.home, lock)

    def remember(self, **changes: Any) -> None:
        """Change the state, and save it. Raises CommandError."""
        for name, value in changes.items():
            setattr(self.state, name, value)
        self.folder.save(self.state)

    @property
    def error(self) -> str | None:
        """Why the machine refuses what it is offered; None where it doesn't."""
        refused, offer = self.state.refused, self.state.offered
        return refused.error if refused and offer and self._is_refused(offer) else None

    def finish_trial(self) -> None:
        """Finish a check that was cut short. Raises CommandError where it fails."""
        trial = self.state.trying
        if trial is None:
            return
        if self._is_refused(trial.offer):
            self._go_back(trial)
        elif self.nix.store_path == trial.offer.store_path:
            again = replace(trial, cut_short=trial.cut_short + 1)
            with suppress(CommandError):  # a full disk must not keep a failed generation active
                self.remember(trying=again)
            self._judge(again)
        else:
            self.remember(trying=None)

    def roll_back(self) -> None:
        """Switch to the generation before, and stay there until another one is offered."""
        number = self.nix.earlier()
        if number is None:
            hint = f"pkgctl sync {self.following.profile} --status shows how it stands"
            message = f"{self.following.path} has no earlier generation"
            raise CommandError(message, ExitCode.NOT_FOUND, hint)
        left = self.state.offered or Offer(self.nix.store_path or "")
        self.remember(refused=Refusal(left.store_path, ROLLED_BACK), trying=None)
        self.nix.switch(number)

    def is_settled(self, offer: Offer) -> bool:
        """Tell whether an offer is held or refused already; forget the refusal of another one."""
        if self._is_refused(offer):
            return True
        if self.state.refused:
            self.remember(refused=None)
        is_held = self.nix.store_path == offer.store_path
        is_known = offer.store_path in self.state.numbers and self.state.error is None
        if is_held and not (is_known and self.state.numbers[offer.store_path] == offer.generation):
            self._hold(offer)
        return is_held

    def take(self, offer: Offer) -> None:
        """Make a fetched offer the active generation, and check it. Raises CommandError."""
        trial = Trial(offer, self.nix.number)
        self.remember(trying=trial)
        self.nix.set(offer.store_path)
        self.folder.root.unlink(missing_ok=True)
        self._judge(trial)

    def _is_refused(self, offer: Offer) -> bool:
        refused = self.state.refused
        return refused is not None and refused.store_path == offer.store_path

    def _judge(self, trial: Trial) -> None:
        """Check the present generation; go back where that fails. Raises CommandError."""
        is_hopeless = trial.cut_short > CUT_SHORT
        failure = f"it was cut short {CUT_SHORT + 1} times" if is_hopeless else self._check()
        if failure is None:
            self._hold(trial.offer)
            return
        error = f"the check failed: {failure}"[:MAX_ERROR_LENGTH]
        try:
            self.remember(refused=Refusal(trial.offer.store_path, error))
        finally:  # even if the disk is full
            self._go_back(trial)
        kept = "back to what it was" if trial.before else "nothing is active"
        raise CommandError(error, ExitCode.FAILED, f"{kept}; {AGAIN}")

    def _hold(self, offer: Offer) -> None:
        """Remember that an offer is held, and forget the numbers of generations that are gone."""
        kept = {self.nix.store_path_of(number) for number in self.nix.numbers()}
        numbers = {path: n for path, n in self.state.numbers.items() if path in kept}
        numbers[offer.store_path] = offer.generation
        self.remember(numbers=numbers, trying=None, error=None)

    def _check(self) -> str | None:
        """Return how the check failed; None where it passed, or there is none."""
        if not self.following.check or self.nix.number is None:
            return None
        argv = [*self.following.check, str(self.nix.link(self.nix.number))]
        seconds = self.following.check_seconds
        try:
            done = run(argv, environ=environment(), seconds=seconds, show=show)
        except OSError as error:
            return f"{argv[0]} can't be run: {error.strerror}"
        if done.code is None:
            return f"it took longer than {seconds:g} s"
        said = one_line(done.output)
        return f"exit code {done.code}: {said}".rstrip(": ") if done.code else None

    def _go_back(self, trial: Trial) -> None:
        """Switch to what was active before a trial, and delete the generation that failed."""
        before, failed = trial.before, trial.offer.store_path
        if self.nix.store_path == failed:
            if before is not None and self.nix.store_path_of(before):
                self.nix.switch(before)
            else:
                self.nix.clear()
        self.nix.forget(failed)
        self.remember(trying=None)


class Follower:
    """One round of a sync, with the server."""

    def __init__(self, local: Local, client: Client, reporter: Reporter) -> None:
        self._local = local
        self._client = client
        self._reporter = reporter

    def sync(self) -> bool:
        """Make the profile what is offered; return whether that changed it. Raises CommandError.

        The state is reported in any case, unless the server can't be asked.
        """
        with self._failure_reported():
            self._local.finish_trial()
        self._ask()
        with self._failure_reported():
            has_changed = self._take()

        self._report(self._local.error)
        return has_changed

    def _ask(self) -> None:
        """Ask the server what is offered, if that has changed. Raises CommandError."""
        local, following = self._local, self._local.following
        source = f"{self._client.url} {following.profile} {following.machine}"
        etag = local.state.etag if local.state.source == source else None
        path = f"profile/{following.profile}"
        try:
            found, etag = self._client.get_unless(path, etag, machine=following.machine)
        except CommandError as error:
            raise _too_old() if error.status == UNKNOWN_FIELD else error from None
        if found is not None:
            local.remember(source=source, etag=etag, offered=_offer_of(found))

    def _take(self) -> bool:
        local = self._local
        offer = local.state.offered
        if offer is None or local.is_settled(offer):
            return False
        try:
            self._fetch(offer)
            local.take(offer)
        except CommandError as error:
            local.remember(error=error.reason)
            raise
        return True

    def _fetch(self, offer: Offer) -> None:
        """Fetch an offer from the cache, signed by a trusted key. Raises CommandError."""
        told = _object(self._client.get("cache"))
        url = cache_url(told.get("url"))
        keys = " ".join(self._trusted(told.get("public_key")))

        folder, token = self._local.folder, self._client.token
        is_servers = _origin(url) == _origin(urlsplit(self._client.url))
        with ExitStack() as stack:
            netrc = None
            if token and is_servers:  # no other host may receive it
                login = _login_of(told.get("netrc"))
                netrc = stack.enter_context(folder.password(url.hostname or "", login, token))
            cache = BinaryCache(url.geturl(), keys, netrc)
            self._local.nix.fetch(offer.store_path, folder.root, cache)

    def _trusted(self, told: object) -> Sequence[str]:
        """Return the keys that are trusted: those given, else the server's at first use."""
        folder, given = self._local.folder, self._local.following.public_keys
        offered = _keys_of(told)
        known = folder.trusted()
        trusted = list(given) or (offered if known is None else known)
        if offered and not set(offered) & set(trusted):
            message = f"the key of the cache is not the one that is trusted: it is now {told}"
            hint = f"if that is meant: pkgctl sync {self._local.following.profile} --public-key KEY"
            raise CommandError(message, ExitCode.UNTRUSTED, hint)
        if not trusted:
            message = "the server doesn't tell the public key of its cache"
            raise CommandError(message, ExitCode.UNTRUSTED, "--public-key gives it")
        if trusted != known:
            folder.trust(trusted)
        return trusted

    def _report(self, error: str | None) -> None:
        local = self._local
        store_path = local.nix.store_path
        body = {
            "profile": local.following.profile,
            "generation": local.state.numbers.get(store_path or ""),
            "store_path": store_path,
            "state": "failed" if error else "current",
            "error": error and error[:MAX_ERROR_LENGTH],
        }
        self._reporter.report(self._client, local.following.machine, body)

    @contextmanager
    def _failure_reported(self) -> Iterator[None]:
        """Report what fails in the `with` block, if the server can be reached."""
        try:
            yield
        except CommandError as error:
            with suppress(CommandError):
                self._report(error.reason)
            raise


def status(following: Following, nix: NixProfile, state: SyncState) -> JsonObject:
    """Return the status of a machine, as JSON."""
    store_path, offer = nix.store_path, state.offered
    refused = state.refused.error if state.refused else None
    error = refused or state.error
    held = "current" if offer and offer.store_path == store_path else "behind"
    return {
        "profile": following.profile,
        "machine": following.machine,
        "path": str(following.path),
        "state": "failed" if error else held if offer else "waiting",
        "generation": state.numbers.get(store_path or ""),
        "store_path": store_path,
        "offered": asdict(offer) if offer else None,
        "error": error,
    }


def _offer_of(profile: Any) -> Offer | None:
    """Return the offer in a profile's document; None without one. Raises CommandError."""
    if "offered" not in _object(profile):
        raise _too_old()
    has_cache = profile.get("published") is not None
    if profile["offered"] is None and profile.get("generation") and not has_cache:
        message = "the server has no binary cache, so that it offers nothing to machines"
        raise CommandError(message, ExitCode.UNREACHABLE, "its settings CACHE and CACHE_KEY_FILE")
    if profile["offered"] is None:
        return None
    offered = _object(profile["offered"])
    store_path, generation = offered.get("store_path"), offered.get("generation")
    if not (isinstance(store_path, str) and is_store_path(store_path)):
        message = f"the server offers {store_path!r}, which is no store path"
        raise CommandError(message, ExitCode.REFUSED)
    if type(generation) is not int:
        message = f"the server offers generation {generation!r}, which is no number"
        raise CommandError(message, ExitCode.REFUSED)
    return Offer(store_path, generation)


def _login_of(told: object) -> str:
    """Return the login in a server's line for netrc; older servers take any."""
    found = LOGIN.search(told) if isinstance(told, str) else None
    return found[1] if found else "pkgd"


def _keys_of(told: object) -> list[str]:
    """Return the public keys in a server's answer, none for null. Raises CommandError."""
    if told is None:
        return []
    keys = told.split() if isinstance(told, str) else []
    if not all(map(PUBLIC_KEY.fullmatch, keys)) or not isinstance(told, str):
        message = f"the server tells the public key {told!r}, which is none"
        raise CommandError(message, ExitCode.UNTRUSTED)
    return keys


def _object(answer: object) -> JsonObject:
    """Return an answer of the server as an object. Raises CommandError if it is none."""
    if isinstance(answer, dict):
        return answer
    raise CommandError(f"the server answers {answer!r:.100}, and no object", ExitCode.REFUSED)


def _too_old() -> CommandError:
    message = "the server is of an older release, which offers nothing to machines"
    return CommandError(message, ExitCode.REFUSED)


def _origin(url: SplitResult) -> tuple[str, str | None, int | None]:
    return url.scheme, url.hostname, url.port or DEFAULT_PORTS.get(url.scheme)
