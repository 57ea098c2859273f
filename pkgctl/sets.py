"""Whole sets of packages: applying one to a profile, waiting for that, and what it changes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from http import HTTPStatus

from pkgctl import downloads
from pkgctl.client import JsonObject
from pkgctl.downloads import Awaited, Download
from pkgctl.errors import CommandError, ExitCode
from pkgctl.options import DEFAULT_PROFILE, CommandContext
from pkgctl.tables import title
from pkgctl.waiting import WaitSettings

UNCHANGED = "the profile is as it was; what was downloaded stays so"


@dataclass(frozen=True)
class Held:
    """What a profile holds, and the ETag of that state; None where there is no such profile."""

    packages: Sequence[JsonObject] = ()
    etag: str | None = None


def held(context: CommandContext, name: str) -> Held:
    """Fetch what a profile holds. Raises CommandError where there is none of this name."""
    try:
        document, etag = context.client.get_with_etag(f"profile/{name}")
    except CommandError as error:
        if error.status != HTTPStatus.NOT_FOUND:
            raise
        if name == DEFAULT_PROFILE:  # which every server has that has profiles
            raise context.too_old("change a whole set") from None
        hint = "pkgctl profiles lists those there are; an apply or a promotion makes one"
        raise CommandError(error.reason, error.exit_code, hint, error.status) from None
    return Held(document["packages"], etag)


def held_if_any(context: CommandContext, name: str) -> Held:
    """Fetch what a profile holds: nothing where there is none of this name."""
    try:
        return held(context, name)
    except CommandError as error:
        if error.status != HTTPStatus.NOT_FOUND:
            raise
    return Held()


def references(packages: Iterable[JsonObject]) -> list[JsonObject]:
    """Return name and version of packages, as a set has them."""
    return [{"name": one["name"], "version": one["version"]} for one in packages]


def put(
    context: CommandContext,
    name: str,
    wanted: Sequence[JsonObject],
    settings: WaitSettings,
    etag: str | None = None,
    hint: str = UNCHANGED,
) -> JsonObject:
    """Make a profile hold exactly a set, in one generation, and return the profile.

    With an ETag, only while it is in that state. Raises CommandError, and leaves the profile as it
    was, where a package can't be downloaded (with the hint), or the profile can't hold them all.
    """
    with context.needs_newer_server("apply a whole set"):
        answer = context.client.put(f"profile/{name}", {"packages": wanted}, etag)
    if answer["task_id"]:
        apply = Awaited(task_id=answer["task_id"], label=f"profile {name}")
        _wait(context, apply, wanted, settings, hint)
    profile: JsonObject = context.client.get(f"profile/{name}")
    return profile


def _wait(
    context: CommandContext,
    apply: Awaited,
    wanted: Sequence[JsonObject],
    settings: WaitSettings,
    hint: str,
) -> None:
    """Wait for the downloads of a set, each by itself, and then for the change of the profile."""
    started = _downloads(context, wanted)
    downloads.wait_for_all(context, [*started, apply], settings)
    if apply.error is None:
        return
    errors = [download.error for download in started if download.error]
    if apply.error.exit_code != ExitCode.FAILED or not errors:
        raise apply.error
    downloads.warn_of_failures(started)
    message = f"{len(errors)} of {len(wanted)} packages could not be had"
    raise CommandError(message, errors[0].exit_code, hint)


def _downloads(context: CommandContext, wanted: Sequence[JsonObject]) -> list[Download]:
    """Return the downloads of an accepted set: the server queues one for each missing package."""
    ours = {(one["name"], one["version"]) for one in wanted}
    return [
        Download(task_id=one["task"]["id"], label=title(one), package=one, is_new=False)
        for one in context.client.list_all("packages", status="created")
        if (one["name"], one["version"]) in ours and one["task"]
    ]


def difference(before: Iterable[JsonObject], after: Iterable[JsonObject]) -> JsonObject:
    """Return which packages are added, removed, or replaced by another version, by name."""
    old = {one["name"]: one["version"] for one in before}
    new = {one["name"]: one["version"] for one in after}
    both = sorted(old.keys() & new.keys())
    return {
        "added": [{"name": one, "version": new[one]} for one in sorted(new.keys() - old.keys())],
        "removed": [{"name": one, "version": old[one]} for one in sorted(old.keys() - new.keys())],
        "replaced": [
            {"name": one, "old": old[one], "new": new[one]} for one in both if old[one] != new[one]
        ],
    }


def show(context: CommandContext, changes: JsonObject) -> None:
    """Print a line for each package that is removed or added, unless JSON is wanted."""
    removed = [(one["name"], "-", one["version"]) for one in changes["removed"]]
    added = [(one["name"], "+", one["version"]) for one in changes["added"]]
    for one in changes["replaced"]:
        removed.append((one["name"], "-", one["old"]))
        added.append((one["name"], "+", one["new"]))
    # For each name, the removed version before the added one.
    for name, sign, version in sorted(removed + added, key=lambda line: (line[0], line[1] == "+")):
        context.printer.line(f"{sign} {name} {version}")
