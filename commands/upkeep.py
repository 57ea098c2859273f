"""The commands of maintenance: reconcile, gc, prune."""

import click
from flask import current_app

import maintenance
import nix
from cache import publishing
from commands.guard import check_writable, state_command


@state_command("reconcile")
@click.option("--force", is_flag=True, help="Even if most packages are no longer downloaded then.")
def reconcile(force: bool) -> None:
    """Make the database true of the profile and the store."""
    check_writable()
    for sentence in maintenance.reconcile(force=force) or ["all as it should be"]:
        click.echo(nix.plain(sentence))


@state_command("gc")
@click.option("--dry-run", is_flag=True, help="Only tell what would be removed and freed.")
@click.option("--force", is_flag=True, help="Even if most packages are no longer downloaded then.")
def gc(dry_run: bool, force: bool) -> None:
    """Remove roots and generations that no package needs.

    Then run Nix's garbage collector, and remove the same from a cache that is a folder.
    """
    if not dry_run:
        check_writable()
    done = maintenance.collect_garbage(dry_run=dry_run, force=force)
    would = "would be " if dry_run else ""
    numbers = ", ".join(done.generations) or "none"
    click.echo(f"generations {would}removed: {numbers}")
    click.echo(f"roots {would}removed: {len(done.roots)}")
    click.echo(f"bytes {would}freed: {done.freed_bytes}")
    swept = publishing.sweep(done.links, dry_run=dry_run)
    if swept is not None:
        click.echo(f"paths {would}removed from the cache: {swept.paths}")
        click.echo(f"bytes {would}freed in the cache: {swept.freed_bytes}")


@state_command("prune")
@click.option("--dry-run", is_flag=True, help="Only tell how many would go.")
def prune(dry_run: bool) -> None:
    """Delete tasks and events older than the settings say.

    These are TASK_DAYS, counted from the end of a task, and EVENT_DAYS. The worker pool does so,
    too, each hour.
    """
    task_days, event_days = (current_app.config[name] for name in ("TASK_DAYS", "EVENT_DAYS"))
    if dry_run:
        click.echo(f"{maintenance.prunable(task_days)} tasks would be pruned")
        click.echo(f"{maintenance.prunable_events(event_days)} events would be pruned")
        return
    check_writable()
    click.echo(f"{maintenance.prune(task_days)} tasks pruned")
    click.echo(f"{maintenance.prune_events(event_days)} events pruned")
