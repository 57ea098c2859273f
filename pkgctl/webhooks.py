"""The commands of webhooks: webhooks, and webhook add, show, test, enable, remove."""

from collections.abc import Sequence
from typing import TextIO

import click

from pkgctl import completion
from pkgctl.arguments import NumberType
from pkgctl.client import JsonObject
from pkgctl.errors import CommandError, ExitCode, printable
from pkgctl.options import CommandContext, common_options
from pkgctl.tables import Column, Columns, text_column, time_column

DELIVERIES_SHOWN = 10
TYPES_HELP = (
    "Only events of this type, such as task.failed, or group, such as machine.*; repeatable."
)

WEBHOOK_COLUMNS: Columns = {
    "ID": Column(lambda webhook: webhook["id"]),
    "URL": text_column(lambda webhook: webhook["url"]),
    "TYPES": text_column(lambda webhook: _types(webhook), rank=1),
    "STATE": Column(lambda webhook: webhook["state"]),
    "FAILING": time_column(lambda webhook: webhook["failing_since"], rank=1),
    "NEXT": time_column(lambda webhook: webhook["next_at"], rank=2),
}
WHOLE_COLUMNS: Columns = {
    "ID": Column(lambda webhook: webhook["id"]),
    "URL": Column(lambda webhook: webhook["url"]),
    "TYPES": Column(lambda webhook: _types(webhook)),
    "STATE": Column(lambda webhook: webhook["state"]),
    "CREATED": time_column(lambda webhook: webhook["created_at"]),
    "DELIVERED UP TO": Column(lambda webhook: webhook["delivered_seq"]),
    "FAILURES": Column(lambda webhook: webhook["failures"]),
    "FAILING": time_column(lambda webhook: webhook["failing_since"]),
    "NEXT": time_column(lambda webhook: webhook["next_at"]),
    "DISABLED": time_column(lambda webhook: webhook["disabled_at"]),
    "REASON": Column(lambda webhook: webhook["disabled_reason"]),
}
DELIVERY_COLUMNS: Columns = {
    "AT": time_column(lambda delivery: delivery["at"]),
    "EVENT": Column(lambda delivery: delivery["seq"]),
    "TYPE": Column(lambda delivery: delivery["type"]),
    "ATTEMPT": Column(lambda delivery: delivery["attempt"]),
    "OUTCOME": Column(lambda delivery: _outcome(delivery)),
    "STATUS": Column(lambda delivery: delivery["status"], rank=1),
    "SECONDS": Column(lambda delivery: f"{delivery['seconds']:.1f}", rank=2),
    "ERROR": text_column(lambda delivery: " ".join((delivery["error"] or "").split()), rank=1),
}
ID = NumberType("pkgctl webhooks lists them")


def _types(webhook: JsonObject) -> str:
    return " ".join(webhook["types"]) or "all"


def _outcome(delivery: JsonObject) -> str:
    return "succeeded" if delivery["succeeded"] else "failed"


@click.command()
@common_options
def webhooks(context: CommandContext) -> None:
    """List the webhooks.

    They are URLs that are told of events. One is `failing` while its last delivery failed and is
    tried again, and `disabled` after five days of that, or when its receiver wants no more.

    \b
    Example:
      pkgctl webhooks
    """
    with context.needs_newer_server("tell webhooks of events"):
        context.printer.table(context.client.list_all("webhooks"), WEBHOOK_COLUMNS)


@click.group()
def webhook() -> None:
    """Add, test and remove webhooks.

    \b
    Examples:
      pkgctl webhook add https://example.org/ --type 'task.*'
      pkgctl webhook show 1
    """


@webhook.command()
@common_options
@click.argument("address", metavar="URL")
@click.option("--type", "types", metavar="TYPE", multiple=True, help=TYPES_HELP)
@click.option(
    "--secret-file",
    type=click.File(),
    help="A file with the secret that signs, whsec_…; - for the standard input.",
)
def add(
    context: CommandContext, address: str, types: Sequence[str], secret_file: TextIO | None
) -> None:
    """Add a webhook and print its secret.

    It can't be shown again. The webhook is told of what happens from now on.

    \b
    Examples:
      pkgctl webhook add https://example.org/
      pkgctl webhook add https://example.org/ --type 'task.*'
    """
    body: JsonObject = {"url": address, "types": list(types)}
    if secret_file is not None:
        body["secret"] = secret_file.read().strip()
    with context.needs_newer_server("tell webhooks of events"):
        added = context.client.post("webhooks", body)
    context.printer.result(added, added["secret"])
    said = f"Webhook {added['id']} was added; its secret isn't shown again."
    click.echo(printable(said), err=True)


@webhook.command()
@common_options
@click.argument("webhook_id", metavar="ID", type=ID, shell_complete=completion.webhooks)
def show(context: CommandContext, webhook_id: int) -> None:
    """Show a webhook, and what was sent to it lately.

    \b
    Example:
      pkgctl webhook show 1
    """
    shown = context.client.get(f"webhook/{webhook_id}")
    context.printer.record(shown, WHOLE_COLUMNS)
    if not context.printer.as_json and shown["deliveries"]:
        context.printer.line("")
        context.printer.table(shown["deliveries"][:DELIVERIES_SHOWN], DELIVERY_COLUMNS)


@webhook.command()
@common_options
@click.argument("webhook_id", metavar="ID", type=ID, shell_complete=completion.webhooks)
def test(context: CommandContext, webhook_id: int) -> None:
    """Send a test now, and tell how that went.

    \b
    Example:
      pkgctl webhook test 1
    """
    sent = context.client.post(f"webhook/{webhook_id}/test")
    if not sent["succeeded"]:
        context.printer.json(sent)
        raise CommandError(f"the test failed: {sent['error']}", ExitCode.REFUSED)
    text = f"Success: The receiver answered {sent['status']} after {sent['seconds']:.1f} s"
    context.printer.result(sent, text)


@webhook.command()
@common_options
@click.argument("webhook_id", metavar="ID", type=ID, shell_complete=completion.webhooks)
@click.option("--from-now", is_flag=True, help="Skip the events that it missed.")
def enable(context: CommandContext, webhook_id: int, *, from_now: bool) -> None:
    """Enable a disabled webhook.

    It goes on where it was, as far as the server keeps events. One that fails is tried again now.

    \b
    Examples:
      pkgctl webhook enable 1
      pkgctl webhook enable 1 --from-now
    """
    body = {"from": "now"} if from_now else {}
    enabled = context.client.post(f"webhook/{webhook_id}/enable", body)
    context.printer.result(enabled, f"Success: Enabled webhook {webhook_id}")


@webhook.command()
@common_options
@click.argument("webhook_id", metavar="ID", type=ID, shell_complete=completion.webhooks)
def remove(context: CommandContext, webhook_id: int) -> None:
    """Remove a webhook.

    \b
    Example:
      pkgctl webhook remove 1
    """
    answer = context.client.delete(f"webhook/{webhook_id}")
    context.printer.result(answer, f"Success: Removed webhook {webhook_id}")
