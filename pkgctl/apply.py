"""The commands apply and export: a profile by a manifest, and a manifest by a profile."""

import os
from dataclasses import replace
from pathlib import Path

import click

from pkgctl import completion, files, lockfile, sets
from pkgctl.arguments import EXACT, LATEST, PackageSpec
from pkgctl.catalog import chosen
from pkgctl.client import JsonObject
from pkgctl.errors import CommandError, ExitCode
from pkgctl.lockfile import READABLE, Lock, Locked
from pkgctl.manifest import STDIN, Manifest, manifest_text
from pkgctl.options import (
    DEFAULT_PROFILE,
    CommandContext,
    common_options,
    download_options,
    profile_option,
)
from pkgctl.output import warn
from pkgctl.profile import PLAN_COLUMNS
from pkgctl.tables import Column, Columns, title
from pkgctl.waiting import WaitSettings

DRY_COLUMNS: Columns = {
    "TO DOWNLOAD": Column(lambda plan: ", ".join(map(title, plan["to_download"]))),
    **PLAN_COLUMNS,
}


@click.command()
@common_options
@profile_option
@download_options
@click.argument("file", metavar="FILE|-", type=click.Path(readable=False, allow_dash=True))
@click.argument("names", metavar="[NAME]...", nargs=-1, shell_complete=completion.active_names)
@click.option("--dry-run", is_flag=True, help="Only tell what would change.")
@click.option("--locked", is_flag=True, help="Exactly what the lock has, or nothing.")
@click.option("--upgrade", is_flag=True, help="Choose anew, all packages or those named.")
def apply(
    context: CommandContext,
    file: str,
    names: tuple[str, ...],
    *,
    dry_run: bool,
    locked: bool,
    upgrade: bool,
    timeout: float | None,
    whole_log: bool,
    cancel_on_interrupt: bool,
) -> None:
    """Make a profile hold what a manifest says.

    FILE is TOML: a table [packages] with a version, a range or "latest" for each name, and above it
    a profile, if any. What isn't in it leaves the profile: in one generation, or nothing changes.
    What was chosen is kept in FILE.lock, and taken again as long as it fits. With --locked, the
    profile gets the very store paths of the lock, also on another server with the same pins.

    \b
    Examples:
      pkgctl apply pkgs.toml --dry-run
      pkgctl apply pkgs.toml -p staging
      pkgctl apply --upgrade pkgs.toml hello
      pkgctl apply --locked pkgs.toml
    """
    _check_options(file, names, locked=locked, upgrade=upgrade)
    wanted = Manifest.load(file)
    lock = None if file == STDIN else Lock.load(file)
    if locked and lock:
        packages, lock = _from_lock(context, wanted, lock), None
    else:
        anew = set(names or wanted.packages) if upgrade else set()
        packages = sets.references(map(vars, resolve(context, wanted, lock, anew)))
    if dry_run:
        _show_plan(context, wanted, packages)
        return
    flags = [*["--locked"] * locked, *["--upgrade"] * upgrade]
    words = context.command_line("apply", *flags, file, *names)
    settings = WaitSettings(timeout, words, whole_log, cancel_on_interrupt)
    _carry_out(context, wanted, packages, lock, settings)


def _check_options(file: str, names: tuple[str, ...], *, locked: bool, upgrade: bool) -> None:
    if locked and upgrade:
        raise click.UsageError("--locked takes what the lock has, and --upgrade chooses anew")
    if names and not upgrade:
        raise click.UsageError(f"{names[0]} can be named only with --upgrade")
    if file == STDIN and (locked or names):
        raise click.UsageError("the standard input has no lock")


def _show_plan(context: CommandContext, wanted: Manifest, packages: list[JsonObject]) -> None:
    """Print what an apply would change."""
    path = f"profile/{_profile(context, wanted)}"
    with context.needs_newer_server("apply a whole set"):
        plan = context.client.put(path, {"packages": packages}, dry_run="true")
    context.printer.record(plan, DRY_COLUMNS)


def _carry_out(
    context: CommandContext,
    wanted: Manifest,
    packages: list[JsonObject],
    lock: Lock | None,
    settings: WaitSettings,
) -> None:
    """Have the profile hold the packages, and write the lock once it does."""
    if lock:
        _check_writable(lock)
    name = _profile(context, wanted)
    before = sets.held_if_any(context, name).packages
    profile = sets.put(context, name, packages, settings)
    changes = sets.difference(before, profile["packages"])
    sets.show(context, changes)
    if lock:
        _write(context, replace(lock, packages=_entries(context, name, packages, wanted)))
    context.printer.result(profile, _success(profile, is_new=any(changes.values())))


def _profile(context: CommandContext, wanted: Manifest) -> str:
    """Return the profile to change: --profile, else the manifest's, else the configured one."""
    return context.given_profile or wanted.profile or context.profile


def _success(profile: JsonObject, *, is_new: bool) -> str:
    count = len(profile["packages"])
    packages = f"{count} package{'s' * (count != 1)}"
    text = f"Success: Profile {profile['name']} holds {packages}"
    return f"{text}, generation {profile['generation']}" if is_new else f"{text}, as before"


# --- Choosing ---


def resolve(
    context: CommandContext, wanted: Manifest, lock: Lock | None, anew: set[str]
) -> list[PackageSpec]:
    """Return a version for each line: the locked one while it fits, but for names in `anew`."""
    if unknown := sorted(anew - wanted.packages.keys()):
        message = f"{wanted.title}: packages has no {', '.join(unknown)}"
        raise CommandError(message, ExitCode.NOT_FOUND)
    known = lock.packages if lock else {}
    kept = {name: one for name, one in known.items() if name not in anew}
    found, errors = [], []
    for spec in wanted.specs():
        try:
            found.append(_version(context, spec, kept.get(spec.name)))
        except CommandError as error:
            if error.exit_code not in (ExitCode.NOT_FOUND, ExitCode.REFUSED):
                raise
            said = f"{wanted.title}: packages.{spec.name}: {error.reason}"
            errors.append(CommandError(said, error.exit_code, error.hint, error.status))
    if len(errors) == 1:
        raise errors[0]
    for one in errors:
        warn(str(one))
    if errors:
        message = f"{len(errors)} of {len(wanted.packages)} packages can't be had"
        raise CommandError(message, errors[0].exit_code, "nothing was changed")
    return found


def _version(context: CommandContext, spec: PackageSpec, locked: Locked | None) -> PackageSpec:
    """Return the version to take: the locked one while it fits, else what an install would take."""
    if locked is not None and _fits(context, spec, locked):
        return PackageSpec(spec.name, locked.version)
    return chosen(context, spec)


def _fits(context: CommandContext, spec: PackageSpec, locked: Locked) -> bool:
    """Tell whether a line, which may have changed since, still means what is locked."""
    if spec.version in (locked.wanted, locked.version):
        return True
    if spec.version == LATEST or EXACT.fullmatch(spec.version):
        return False
    offers = context.catalog(spec.name, spec.version)["versions"]
    return any(offer["version"] == locked.version for offer in offers)


# --- The lock ---


def _from_lock(context: CommandContext, wanted: Manifest, lock: Lock) -> list[JsonObject]:
    """Return the packages of the lock with their store paths, which the server insists on then.

    Raises CommandError where it doesn't fit the manifest, or the server has other catalogs.
    """
    if lock.written is None:
        hint = f"pkgctl apply {wanted.title} writes it"
        raise CommandError(f"there is no {lock.path}", ExitCode.REFUSED, hint)
    if faults := [*_disagreements(wanted, lock)]:
        hint = f"pkgctl apply {wanted.title} makes it fit"
        raise CommandError(f"{lock.path}: {'; '.join(faults)}", ExitCode.REFUSED, hint)
    if lacking := _lacking(context, lock):
        hint = "flask catalog add on the server's machine adds it, with --sha256"
        raise CommandError("; ".join(lacking), ExitCode.REFUSED, hint)
    return [
        {"name": name, "version": one.version, "store_path": one.store_path}
        for name, one in lock.packages.items()
    ]


def _disagreements(wanted: Manifest, lock: Lock) -> list[str]:
    """Return a message for each name for which manifest and lock disagree."""
    ours, theirs = wanted.packages, lock.packages
    missing = [f"it has no {name}" for name in ours if name not in theirs]
    more = [f"it has {name}, the manifest has not" for name in theirs if name not in ours]
    other = [
        f"{name} is locked for {theirs[name].wanted!r}, and wanted as {ours[name]!r}"
        for name in ours
        if name in theirs and theirs[name].wanted != ours[name]
    ]
    return [*missing, *more, *other]


def _lacking(context: CommandContext, lock: Lock) -> list[str]:
    """Return a message for each pin of a lock that the server's catalogs lack."""
    there = {one["sha256"] for one in context.client.get("catalogs")}
    lacking: dict[str, str] = {}
    for name, one in lock.packages.items():
        if one.catalog and one.catalog.sha256 and one.catalog.sha256 not in there:
            called = f"{one.catalog.source or one.catalog.name}, sha256 {one.catalog.sha256}"
            lacking.setdefault(called, name)
    return [
        f"no catalog here has the hash that {name} needs: {one}" for one, name in lacking.items()
    ]


def _check_writable(lock: Lock) -> None:
    """Raise CommandError where the lock could not be written, before anything is changed."""
    folder = Path(os.path.realpath(lock.path)).parent
    if not os.access(folder, os.W_OK):
        message = f"{lock.path} can't be written: the folder can't"
        raise CommandError(message, ExitCode.REFUSED, "`-` as FILE wants no lock")


def _entries(
    context: CommandContext, name: str, packages: list[JsonObject], wanted: Manifest
) -> dict[str, Locked]:
    """Return the lock's entries. Raises CommandError where the profile has changed meanwhile."""
    catalogs = {one["name"]: one for one in context.client.get("catalogs")}
    documents = {title(one): one for one in context.client.list_all("packages", profile=name)}
    entries = {}
    for one in packages:
        found = documents.get(title(one))
        if found is None:
            message = f"profile {name} has changed meanwhile: there is no lock of what it held"
            raise CommandError(message, ExitCode.REFUSED, "try again")
        line = wanted.packages[one["name"]]
        entries[one["name"]] = lockfile.locked(line, found, catalogs)
    return entries


def _write(context: CommandContext, lock: Lock) -> None:
    """Write the lock if it has changed, and warn of what another server may not reproduce."""
    if not lock.save():
        return
    context.printer.line(f"Wrote {lock.path}")
    loose = [
        name for name, one in lock.packages.items() if not (one.catalog and one.catalog.sha256)
    ]
    if loose:
        several = f"{loose[0]} and {len(loose) - 1} more" if len(loose) > 1 else loose[0]
        warn(
            f"{lock.path}: {several} came from a catalog that may change; "
            "another server is sure to have the same only from a pin (flask catalog add)"
        )


# --- export ---


@click.command()
@common_options
@profile_option
@click.argument("file", type=click.Path(readable=False, allow_dash=True), default=STDIN)
@click.option("-f", "--force", is_flag=True, help="Replace files that there are.")
def export(context: CommandContext, file: str, *, force: bool) -> None:
    """Write a profile's manifest and lock.

    The manifest has exact versions, and FILE.lock the very store paths. Without FILE, the manifest
    is printed alone; with --json, what the lock would have.

    \b
    Examples:
      pkgctl export
      pkgctl export -p staging pkgs.toml
    """
    name = context.profile
    packages = context.client.get(f"profile/{name}")["packages"]
    versions = {one["name"]: one["version"] for one in packages}
    meant = None if name == DEFAULT_PROFILE else name
    text = manifest_text(versions, meant)
    if file == STDIN and not context.printer.as_json:
        click.echo(text, nl=False)
        return
    wanted = Manifest(file, versions, meant)
    lock = Lock(Path(f"{file}.lock"), _entries(context, name, packages, wanted))
    if file != STDIN:
        _write_both(context, wanted, text, lock, force=force)
    context.printer.json({name: one.document() for name, one in lock.packages.items()})


def _write_both(
    context: CommandContext, wanted: Manifest, text: str, lock: Lock, *, force: bool
) -> None:
    path = Path(wanted.title)
    there = [str(one) for one in (path, lock.path) if os.path.lexists(one)]
    if there and not force:
        message = f"{' and '.join(there)}: there already"
        raise CommandError(message, ExitCode.REFUSED, "pass --force to replace")
    try:
        files.replace(path, text, READABLE)
    except OSError as error:
        message = f"{path} can't be written: {error.strerror}"
        raise CommandError(message, ExitCode.REFUSED) from None
    context.printer.line(f"Wrote {path}")
    _write(context, lock)
