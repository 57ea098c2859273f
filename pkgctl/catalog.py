"""The commands of catalogs: search, versions, catalogs; and which of their versions to take."""

from collections.abc import Iterable
from http import HTTPStatus
from itertools import islice

import click

from pkgctl.client import PAGE_SIZE, JsonObject
from pkgctl.errors import CommandError, ExitCode
from pkgctl.options import (
    LATEST,
    CommandContext,
    PackageSpec,
    common_options,
    nearest,
    spelled,
)
from pkgctl.output import TableColumns, title, warn, whole_seconds

LISTED = 10
UNKNOWN_PARAMETER = "Unknown field"  # what a server says that knows no ranges

FOUND_COLUMNS: TableColumns = {
    "NAME": lambda package: package["name"],
    "NEWEST": lambda package: package["version"],
    "DESCRIPTION": lambda package: package["description"],
}
OFFER_COLUMNS: TableColumns = {
    "VERSION": lambda offer: offer["version"],
    "ATTRIBUTE": lambda offer: offer["attr"],
    "CATALOG": lambda offer: offer["catalog"],
    "SPELLED": lambda offer: offer.get("spelled"),
    "REFUSED": lambda offer: offer.get("reason"),
    "PRE-RELEASE": lambda offer: "yes" if offer.get("prerelease") else None,
    "PINNED": lambda offer: whole_seconds(offer.get("pinned_at")),
}
CATALOG_COLUMNS: TableColumns = {
    "NAME": lambda catalog: catalog["name"],
    "STATE": lambda catalog: catalog["state"],
    "PACKAGES": lambda catalog: catalog["packages"],
    "INDEXED": lambda catalog: whole_seconds(catalog["indexed_at"]),
    "REVISION": lambda catalog: catalog["revision"],
    "DATED": lambda catalog: whole_seconds(catalog["dated_at"]),
    "NIX": lambda catalog: catalog["nix"],
    "SOURCE": lambda catalog: catalog["source"],
}


@click.command()
@common_options
@click.argument("text", nargs=-1, required=True, metavar="TEXT")
@click.option("--versions", "only_versions", is_flag=True, help="List the versions of one name.")
@click.option("-n", "--limit", type=click.IntRange(min=1), help="At most this many.")
def search(
    context: CommandContext, text: tuple[str, ...], *, only_versions: bool, limit: int | None
) -> None:
    """Search the catalogs for names and descriptions, best matches first.

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
        context.printer.table(islice(found, limit), FOUND_COLUMNS, cut_last=True)


@click.command()
@common_options
@click.argument("name")
@click.option("-n", "--limit", type=click.IntRange(min=1), help="At most this many.")
def versions(context: CommandContext, name: str, limit: int | None) -> None:
    """List the versions of a name that the catalogs offer, newest first.

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
    """List the catalogs, in the order in which they are asked.

    \b
    Examples:
      pkgctl catalogs
      pkgctl catalogs --json
    """
    with context.needs_newer_server("list its catalogs"):
        context.printer.table(context.client.get("catalogs"), CATALOG_COLUMNS)


def choose(context: CommandContext, wanted: PackageSpec) -> PackageSpec:
    """Return the newest package that is meant by a range, or by a catalog's spelling.

    Raises CommandError if there is none.
    """
    found = _ask(context, wanted)
    warn_of_failures(found)
    offers = found["versions"]
    for offer in offers:
        if wanted.version in (offer["version"], offer.get("spelled")):
            return PackageSpec(wanted.name, offer["version"])

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
    failures = [f"{one['catalog']}: {one['message']}" for one in found.get("failures", [])]
    if failures and not found["versions"] and not what:
        raise CommandError(failures[0], ExitCode.REFUSED)
    for failure in failures:
        warn(f"{what}{failure}")


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
    if meant is None:
        raise context.too_old("choose a version")
    return {"versions": [{"version": meant.version, "spelled": wanted.version}]}


def _none_fits(
    context: CommandContext, wanted: PackageSpec, offers: list[JsonObject]
) -> CommandError:
    """Return the error that says what there is instead."""
    name, version = wanted.name, wanted.version
    what = name if version == LATEST else f"{name} {version}"
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


def _listed(versions: Iterable[str]) -> str:
    known = list(dict.fromkeys(versions))
    more = f" and {len(known) - LISTED} more" if len(known) > LISTED else ""
    return ", ".join(known[:LISTED]) + more


def newer(context: CommandContext, package: JsonObject) -> JsonObject | None:
    """Return the newest version on offer that is newer than a package; None if there is none.

    The order is the server's: of versions in its list by their places, else as in a range.
    """
    found = context.catalog(package["name"])
    warn_of_failures(found, f"{title(package)}: ")
    offers = found["versions"]
    if any("prerelease" not in offer for offer in offers):
        raise context.too_old("tell what is newer")

    places = [n for n, offer in enumerate(offers) if offer["version"] == package["version"]]
    if places:
        return newest(offers[: places[0]])
    if not offers:
        return None
    return newest(context.catalog(package["name"], f">{package['version']}")["versions"])
