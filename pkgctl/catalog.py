"""The commands of catalogs: search, versions, catalogs; and which of their versions to take."""

from collections.abc import Iterable
from http import HTTPStatus
from itertools import islice

import click

from pkgctl import completion
from pkgctl.arguments import EXACT, LATEST, PackageSpec
from pkgctl.client import PAGE_SIZE, JsonObject
from pkgctl.errors import CommandError, ExitCode
from pkgctl.options import CommandContext, common_options, nearest, spelled
from pkgctl.output import warn
from pkgctl.tables import Column, Columns, text_column, time_column, title, words_column

LISTED = 10
SHORT = 3  # the server looks for shorter words at the beginning of names only
NONE_SHORT = f"There are none; words of less than {SHORT} letters are found where a name begins."
UNKNOWN_PARAMETER = "Unknown field"  # what a server says that knows no ranges

REFUSALS = {
    "unfree": ("it has an unfree license", "the server's ALLOW_UNFREE would allow it"),
    "insecure": ("it is known to be insecure", "the server's ALLOW_INSECURE would allow it"),
    "broken": ("it is marked as broken", "the server's ALLOW_BROKEN would allow it"),
    "unsupported_platform": ("it isn't made for the server's platform", ""),
    "evaluation_failed": ("its catalog can't provide it", ""),
}

FOUND_COLUMNS: Columns = {
    "NAME": text_column(lambda package: package["name"]),
    "NEWEST": text_column(lambda package: package["version"]),
    "DESCRIPTION": words_column(lambda package: package["description"]),
}
OFFER_COLUMNS: Columns = {
    "VERSION": text_column(lambda offer: offer["version"]),
    "ATTRIBUTE": text_column(lambda offer: offer["attr"]),
    "CATALOG": text_column(lambda offer: offer["catalog"]),
    "SPELLED": text_column(lambda offer: offer.get("spelled"), rank=3),
    "REFUSED": text_column(lambda offer: offer.get("reason"), rank=1),
    "PRE-RELEASE": Column(lambda offer: "yes" if offer.get("prerelease") else None, rank=2),
    "PINNED": time_column(lambda offer: offer.get("pinned_at"), rank=4),
}


def _index_of(catalog: JsonObject) -> str | None:
    """Return how the index of a catalog stands in a few words; None of an older server."""
    status = catalog.get("index")
    if status == "failed" and catalog["index_error"]:
        return f"failed: {catalog['index_error']}"
    if status != "in_progress":
        return status
    progress = catalog["index_progress"]
    share = f", {100 * progress['done'] // progress['expected']} %" if progress["expected"] else ""
    return f"in progress{share}"


def _verification_of(catalog: JsonObject) -> str | None:
    """Return how far it is verified what a catalog offers; None of an older server."""
    status = catalog.get("verification")
    if status != "in_progress":
        return status
    share = f", {100 * catalog['verified'] // catalog['packages']} %" if catalog["packages"] else ""
    return f"in progress{share}"


CATALOG_COLUMNS: Columns = {
    "NAME": text_column(lambda catalog: catalog["name"]),
    "STATE": words_column(lambda catalog: catalog["state"]),
    "INDEX": words_column(_index_of),
    "PACKAGES": Column(lambda catalog: catalog["packages"]),
    "INDEXED": time_column(lambda catalog: catalog["indexed_at"], rank=1),
    "VERIFIED": Column(_verification_of, rank=1),
    "REVISION": text_column(lambda catalog: catalog["revision"], rank=4),
    "DATED": time_column(lambda catalog: catalog["dated_at"], rank=2),
    "NIX": Column(lambda catalog: catalog["nix"], rank=3),
    "SOURCE": text_column(lambda catalog: catalog["source"], rank=5),
}


@click.command()
@common_options
@click.argument(
    "text",
    nargs=-1,
    required=True,
    metavar="TEXT...",
    shell_complete=completion.catalog_names,
)
@click.option("--versions", "only_versions", is_flag=True, help="List the versions of one name.")
@click.option("-n", "--limit", type=click.IntRange(min=1), help="At most this many.")
def search(
    context: CommandContext, text: tuple[str, ...], *, only_versions: bool, limit: int | None
) -> None:
    """Search the catalogs.

    Names and descriptions are searched, and the best matches come first.

    \b
    Examples:
      pkgctl search hello
      pkgctl search web server -n 10
      pkgctl search --versions python3Packages.requests
    """
    words = " ".join(text)
    if only_versions:
        _list_versions(context, words, limit)
        return

    page_size = min(limit or PAGE_SIZE, PAGE_SIZE)
    found = context.client.list_all("catalog", search=words, limit=page_size)
    with context.needs_newer_server("search the catalogs"):
        is_short = any(len(word) < SHORT for word in text)
        empty = NONE_SHORT if is_short else "There are none."
        context.printer.table(islice(found, limit), FOUND_COLUMNS, empty=empty)


@click.command()
@common_options
@click.argument("name", shell_complete=completion.catalog_names)
@click.option("-n", "--limit", type=click.IntRange(min=1), help="At most this many.")
def versions(context: CommandContext, name: str, limit: int | None) -> None:
    """List the versions of a name.

    They are those that the catalogs offer, newest first.

    \b
    Examples:
      pkgctl versions hello
      pkgctl versions python3Packages.requests -n 5
    """
    _list_versions(context, name, limit)


def _list_versions(context: CommandContext, name: str, limit: int | None) -> None:
    found = context.catalog(name)
    found["versions"] = found["versions"][:limit]
    context.printer.table(found["versions"], OFFER_COLUMNS, whole=found)
    warn_of_failures(found)


@click.command()
@common_options
def catalogs(context: CommandContext) -> None:
    """List the catalogs.

    They are asked in this order.

    \b
    Examples:
      pkgctl catalogs
      pkgctl catalogs --json
    """
    with context.needs_newer_server("list its catalogs"):
        context.printer.table(context.client.get("catalogs"), CATALOG_COLUMNS)


def chosen(context: CommandContext, wanted: PackageSpec) -> PackageSpec:
    """Return the version to install, as `choose` does; what is downloaded needs no catalog."""
    if EXACT.fullmatch(wanted.version):
        known = context.registered(wanted)
        if known is not None and known["status"] != "created":
            return PackageSpec(known["name"], known["version"])
    return choose(context, wanted)


def choose(context: CommandContext, wanted: PackageSpec) -> PackageSpec:
    """Return the package that is meant: of a range the newest, else exactly what is wanted.

    Raises CommandError if there is none, if it is refused, or if no catalog that answers has it.
    """
    found = _ask(context, wanted)
    offers = found["versions"]
    warn_of_failures(found, "" if offers else f"no catalog that answers has {_called(wanted)}; ")
    exact = [one for one in offers if wanted.version in (one["version"], one.get("spelled"))]
    for offer in exact:
        if offer.get("available", True):
            return PackageSpec(wanted.name, offer["version"])
    if exact:
        raise _refused(wanted, exact[0])

    chosen = newest(offers)
    if chosen is None:
        raise _none_fits(context, wanted, offers)
    spec = PackageSpec(wanted.name, chosen["version"])
    context.printer.line(f"Chose {wanted.name} {spec.version}, of catalog {chosen['catalog']}")
    return spec


def newest(offers: Iterable[JsonObject]) -> JsonObject | None:
    """Return the newest version that may be had and is no pre-release."""
    usable = (offer for offer in offers if offer["available"] and not offer["prerelease"])
    return next(usable, None)


def warn_of_failures(found: JsonObject, what: str = "") -> None:
    """Warn of catalogs that could not be asked; raise CommandError if nothing else was found."""
    failures = _failures(found, what)
    if failures and not found["versions"]:
        raise CommandError(failures[0], ExitCode.REFUSED)
    for failure in failures:
        warn(failure)


def _failures(found: JsonObject, what: str) -> list[str]:
    return [f"{what}{one['catalog']}: {one['message']}" for one in found.get("failures", [])]


def _ask(context: CommandContext, wanted: PackageSpec) -> JsonObject:
    """Return the versions in a range; of an older server, the one that a catalog spells so."""
    if wanted.version == LATEST:
        found = context.catalog(wanted.name)
        if any("prerelease" not in offer for offer in found["versions"]):
            raise context.too_old("choose a version")
        return found
    try:
        return context.catalog(wanted.name, wanted.version)
    except CommandError as error:
        is_refused = error.status == HTTPStatus.UNPROCESSABLE_ENTITY
        if not (is_refused and UNKNOWN_PARAMETER in error.reason):
            raise
    meant = spelled(wanted, context.versions(wanted.name))
    if meant is None and EXACT.fullmatch(wanted.version):
        meant = wanted
    if meant is None:
        raise context.too_old("choose a version")
    return {"versions": [{"version": meant.version, "spelled": wanted.version}]}


def _none_fits(
    context: CommandContext, wanted: PackageSpec, offers: list[JsonObject]
) -> CommandError:
    """Return the error that says what there is instead."""
    name, what = wanted.name, _called(wanted)
    there = [offer["version"] for offer in offers if offer["available"]]
    if there:
        message = f"of {what} there are only pre-releases: {_listed(there)}"
        return CommandError(
            message, ExitCode.NOT_FOUND, f"pkgctl install {name}@{there[0]} takes one"
        )
    if offers:
        refused = (f"{offer['version']} ({offer['reason']})" for offer in offers)
        return CommandError(f"of {what} nothing may be had: {_listed(refused)}", ExitCode.NOT_FOUND)

    return CommandError(
        f"no catalog has {what}; there are: {nearest(wanted, context.versions(name))}",
        ExitCode.NOT_FOUND,
        f"pkgctl versions {name} tells more",
    )


def _called(wanted: PackageSpec) -> str:
    return wanted.name if wanted.version == LATEST else f"{wanted.name} {wanted.version}"


def _refused(wanted: PackageSpec, offer: JsonObject) -> CommandError:
    """Return the error that says why a version can't be had."""
    reason, hint = REFUSALS.get(offer["reason"], (f"it is refused as {offer['reason']}", ""))
    reason = offer.get("message") or reason
    return CommandError(f"{_called(wanted)} can't be had: {reason}", ExitCode.NOT_FOUND, hint)


def _listed(versions: Iterable[str]) -> str:
    known = list(dict.fromkeys(versions))
    more = f" and {len(known) - LISTED} more" if len(known) > LISTED else ""
    return ", ".join(known[:LISTED]) + more


def newer(context: CommandContext, package: JsonObject) -> JsonObject | None:
    """Return the newest version on offer that is newer than a package; None if there is none.

    The order is the server's: of versions in its list by their places, else as in a range.
    """
    found = context.catalog(package["name"])
    for failure in _failures(found, f"{title(package)}: "):
        warn(failure)
    offers = found["versions"]
    if any("prerelease" not in offer for offer in offers):
        raise context.too_old("tell what is newer")

    places = [n for n, offer in enumerate(offers) if offer["version"] == package["version"]]
    if places:
        return newest(offers[: places[0]])
    if not offers:
        return None
    return newest(context.catalog(package["name"], f">{package['version']}")["versions"])
