"""The commands of packages: create, list, show, download, remove."""

from itertools import islice

import click

from pkgctl import completion
from pkgctl.arguments import (
    PackageRef,
    PackageSpec,
    PackageSpecType,
    PackageType,
    ProfileType,
)
from pkgctl.client import JsonObject
from pkgctl.downloads import download_and_wait, register
from pkgctl.errors import one_line
from pkgctl.options import DEFAULT_PROFILE, CommandContext, common_options, download_options
from pkgctl.tables import Column, Columns, text_column, time_column, title
from pkgctl.waiting import WaitSettings

PACKAGE_COLUMNS: Columns = {
    "ID": Column(lambda package: package["id"]),
    "NAME": text_column(lambda package: package["name"]),
    "VERSION": text_column(lambda package: package["version"]),
    "STATUS": Column(lambda package: package["status"]),
    "TASK": Column(lambda package: package["task"] and package["task"]["status"]),
}
PACKAGE_DETAILS: Columns = PACKAGE_COLUMNS | {
    "CREATED": time_column(lambda package: package["created_at"]),
    "UPDATED": time_column(lambda package: package["updated_at"]),
    "SPELLED": Column(lambda package: package.get("spelled")),
    "CATALOG": Column(lambda package: package.get("catalog")),
    "CATALOG HASH": Column(lambda package: package.get("catalog_sha256")),
    "ATTRIBUTE": Column(lambda package: package.get("attr")),
    "DERIVATION": Column(lambda package: package["drv_path"]),
    "PROFILES": Column(lambda package: ", ".join(package.get("profiles", []))),
    "STORE PATH": Column(lambda package: package["store_path"]),
    "CLOSURE BYTES": Column(lambda package: package["closure_size"]),
    "TASK ID": Column(lambda package: package["task"] and package["task"]["id"]),
    "TASK ERROR": Column(lambda package: _task_error(package, "code")),
    "TASK MESSAGE": Column(lambda package: one_line(_task_error(package, "message"))),
}


def _task_error(package: JsonObject, field: str) -> str:
    """Return a field of the error that a package's latest task ended with; "" if none did."""
    error = package["task"] and package["task"]["error"]
    return str(error[field]) if error else ""


@click.command()
@common_options
@click.argument("spec", metavar="NAME@VERSION", type=PackageSpecType())
def create(context: CommandContext, spec: PackageSpec) -> None:
    """Register a package; download nothing.

    \b
    Example:
      pkgctl create hello@2.12.1
    """
    package = register(context, spec)
    text = f"Success: Registered {title(package)} as package {package['id']}"
    context.printer.result(package, text)


@click.command("list")
@common_options
@click.option(
    "--name",
    shell_complete=completion.registered_names,
    help="Only versions of this package.",
)
@click.option(
    "--status",
    type=click.Choice(["created", "downloaded", "activated"]),
    help="Only those that are so.",
)
@click.option("-p", "--profile", type=ProfileType(), help="Only those that this profile holds.")
@click.option("-n", "--limit", type=click.IntRange(min=1), help="At most this many.")
def list_packages(
    context: CommandContext,
    *,
    name: str | None,
    status: str | None,
    profile: str | None,
    limit: int | None,
) -> None:
    """List the packages, oldest first.

    \b
    Examples:
      pkgctl list
      pkgctl list --status activated --json
    """
    listed = context.client.list_all("packages", name=name, status=status, profile=profile)
    context.printer.table(islice(listed, limit), PACKAGE_COLUMNS)


@click.command()
@common_options
@click.argument("package", metavar="PACKAGE", type=PackageType())
def show(context: CommandContext, package: PackageRef) -> None:
    """Show everything about a package.

    \b
    Examples:
      pkgctl show hello
      pkgctl show hello@2.12.1
    """
    context.printer.record(context.package(package), PACKAGE_DETAILS)


@click.command()
@common_options
@download_options
@click.argument("package", metavar="PACKAGE", type=PackageType())
@click.option("--wait", is_flag=True, help="Wait until it is done; so does --follow.")
def download(
    context: CommandContext,
    package: PackageRef,
    *,
    wait: bool,
    timeout: float | None,
    whole_log: bool,
    cancel_on_interrupt: bool,
) -> None:
    """Download a package in the background.

    \b
    Examples:
      pkgctl download hello
      pkgctl download hello@2.12.1 --wait --timeout 10m
    """
    found = context.package(package)
    if not (wait or whole_log):
        _start_download(context, found)
        return

    resume_command = context.command_line("download", package, "--wait")
    settings = WaitSettings(timeout, resume_command, whole_log, cancel_on_interrupt)
    download_and_wait(context, found, settings)
    text = f"Success: Downloaded {title(found)}"
    context.printer.result(context.package(found["id"]), text)


def _start_download(context: CommandContext, package: JsonObject) -> None:
    """Request a download, and print its task."""
    answer = context.client.post(f"package/{package['id']}/download")
    text = f"Success: {title(package)} is downloaded already"
    if answer["status"] == "created":
        text = f"Success: Downloading {title(package)}, task {answer['task_id']}"
    context.printer.result(answer, text)


@click.command()
@common_options
@click.argument("packages", metavar="PACKAGE...", type=PackageType(), nargs=-1, required=True)
def remove(context: CommandContext, packages: tuple[PackageRef, ...]) -> None:
    """Forget packages that aren't in use.

    \b
    Examples:
      pkgctl remove hello@2.12.1
      pkgctl remove parrot fortune
    """
    answers = []
    for package in context.packages(packages):
        with context.hint_at_conflict(_how_to_remove(package)):
            answers.append(context.client.delete(f"package/{package['id']}"))
        context.printer.line(f"Success: Removed {title(package)}")
    context.printer.json(answers if len(packages) > 1 else answers[0])


def _how_to_remove(package: JsonObject) -> str:
    ref = f"{package['name']}@{package['version']}"
    if package["status"] != "activated":
        return f"pkgctl cancel {ref} first"
    profiles = package.get("profiles") or [DEFAULT_PROFILE]
    option = "" if DEFAULT_PROFILE in profiles else f" -p {profiles[0]}"
    return f"pkgctl deactivate {ref}{option} first"
