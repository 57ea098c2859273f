"""The command install, and the steps that others share with it: register, download, wait."""

import re
from contextlib import suppress
from dataclasses import asdict
from http import HTTPStatus
from pathlib import Path

import click

from pkgctl.catalog import choose
from pkgctl.client import JsonObject
from pkgctl.errors import CommandError, ExitCode
from pkgctl.options import (
    CommandContext,
    PackageSpec,
    WantedType,
    common_options,
    download_options,
    nearest,
    spelled,
)
from pkgctl.output import title
from pkgctl.waiting import WaitSettings, wait_for_task

EXACT = re.compile(r"\d+\.\d+\.\d+([-+].*)?", re.ASCII)


@click.command()
@common_options
@download_options
@click.argument("wanted", metavar="NAME[@VERSION|@RANGE]", type=WantedType())
@click.option("--no-activate", is_flag=True, help="Only download it.")
def install(
    context: CommandContext,
    wanted: PackageSpec,
    *,
    no_activate: bool,
    timeout: float | None,
    whole_log: bool,
    cancel_on_interrupt: bool,
) -> None:
    """Register, download and activate a package.

    Without a version, or with @latest, it is the newest that may be had and is no pre-release;
    with a range the newest in it. What is done already is not done again.

    \b
    Examples:
      pkgctl install hello
      pkgctl install hello@2.12.1 --follow --timeout 10m
      pkgctl install 'hello@^2.10'
      pkgctl install 'hello@>=2,<2.12' --no-activate --json
    """
    spec = wanted if EXACT.fullmatch(wanted.version) else choose(context, wanted)
    words = ["install", spec, "--no-activate"] if no_activate else ["install", spec]
    resume_command = context.command_line(*words)
    settings = WaitSettings(timeout, resume_command, whole_log, cancel_on_interrupt)

    package, is_new = register_or_find(context, spec)
    try:
        download_and_wait(context, package, settings)
    except CommandError as error:
        if is_new and error.exit_code == ExitCode.NOT_FOUND:
            forget(context, package)
        raise
    if not no_activate:
        context.client.post(f"package/{package['id']}/activate")
        context.printer.line(f"Success: Activated package v{package['version']}")

    installed = context.package(package["id"])
    context.printer.result(installed, _program_path(installed))


def register_or_find(context: CommandContext, spec: PackageSpec) -> tuple[JsonObject, bool]:
    """Return the package, and whether it was registered now."""
    try:
        package = register(context, spec)
    except CommandError as error:
        if error.status != HTTPStatus.CONFLICT:
            raise
        return context.package(spec), False
    context.printer.line(f"Registered {title(package)} as package {package['id']}")
    return package, True


def register(context: CommandContext, spec: PackageSpec) -> JsonObject:
    """Register a package; a version that the server takes for none may be a catalog's spelling."""
    try:
        package: JsonObject = context.client.post("packages", asdict(spec))
    except CommandError as error:
        if error.status != HTTPStatus.UNPROCESSABLE_ENTITY:
            raise
        offers = context.versions(spec.name)
        meant = spelled(spec, offers)
        if meant is None:
            hint = f"the catalogs have {spec.name} {nearest(spec, offers)}" if offers else ""
            raise CommandError(error.reason, error.exit_code, hint, error.status) from None
        package = context.client.post("packages", asdict(meant))
    return package


def forget(context: CommandContext, package: JsonObject) -> None:
    """Remove a package that no catalog has, unless that fails: the reason of the failure counts."""
    with suppress(CommandError):
        context.client.delete(f"package/{package['id']}")
        context.printer.line(f"Removed {title(package)} again: no catalog has it")


def download_and_wait(context: CommandContext, package: JsonObject, settings: WaitSettings) -> None:
    """Request a download, and wait for its task unless the package is downloaded already."""
    answer = context.client.post(f"package/{package['id']}/download")
    if answer["status"] == "created":
        wait_for_task(context.client, context.printer, answer["task_id"], title(package), settings)


def _program_path(package: JsonObject) -> str:
    """Return the path of a package's program, or its store path.

    It is the store path if the package has no program, several of other names, or is not on this
    machine.
    """
    programs = list(Path(package["store_path"], "bin").glob("*"))
    candidates = [path for path in programs if path.name == package["name"]] or programs
    return str(candidates[0] if len(candidates) == 1 else package["store_path"])
