"""The pages of packages: what is registered, each one, and putting it in and out of a profile."""

from typing import Any

from flask import Blueprint, Response, g, redirect, request, url_for
from werkzeug.wrappers import Response as WerkzeugResponse

import build_logs
import nix
import packages
import tasks
from dashboard.forms import next_url, read
from dashboard.plans import Plan, PlannedChangeSchema, difference, if_seen, of_rows, told
from dashboard.rendering import Entry, Fragment, fragment, page, send
from errors import PackageInUse
from models import LIVE, AnyRow, PackageStatus
from profiles import activation, history, plans
from profiles import states as profile_states
from profiles.schemas import ProfileQuerySchema
from schemas import PackageQuerySchema

pages = Blueprint("packages", __name__)
entry = Entry("Packages", "dashboard.packages.index", also=("dashboard.offers",))

LIST, WHERE, CHANGE = PackageQuerySchema(), ProfileQuerySchema(), PlannedChangeSchema()
LISTED = 10  # tasks of a package
TAIL_BYTES = 4096
TAIL_LINES = 12


@pages.get("/packages")
def index() -> Response:
    """Show what is registered."""
    query = read(LIST, request.args)
    chosen = {name: query.get(name) for name in ("name", "status", "profile")}
    rows, headers = packages.listed(query)
    return page(
        "packages.html",
        packages=rows,
        chosen=chosen,
        statuses=list(PackageStatus),
        profiles=[profile.name for profile in history.every()],
        total=headers["X-Total-Count"],
        next=next_url(headers, rows[-1].id if rows else None),
    )


# --- One package ---


@pages.get("/packages/<id:package_id>")
def show(package_id: int) -> Response:
    """Show a package with its tasks."""
    package = packages.find(package_id)
    return page("package.html", package=package, state=_state(package_id))


@pages.get("/packages/<id:package_id>/state")
def state(package_id: int) -> Response:
    """Send the part that changes as its tasks run."""
    return send(_state(package_id))


@pages.post("/packages/<id:package_id>/download")
def download(package_id: int) -> WerkzeugResponse:
    """Queue its download."""
    packages.request_download(package_id)
    return _shown(package_id)


@pages.get("/packages/<id:package_id>/activate")
def plan_activation(package_id: int) -> Response:
    """Show what would change where it is activated."""
    package, name = packages.find(package_id), read(WHERE, request.args)["profile"]
    seen = profile_states.etag(profile_states.find(name))
    return Plan(
        title=f"Activate {_title(package)} in {name}",
        url=url_for("dashboard.packages.activate", package_id=package_id),
        label="Activate",
        back=_url(package_id),
        fields={"profile": name, "seen": seen},
        changes=told(plans.plan(activation.find(name), [package_id])),
    ).show()


@pages.post("/packages/<id:package_id>/activate")
def activate(package_id: int) -> WerkzeugResponse:
    """Put it in a profile, in place of another version of its name."""
    fields = read(CHANGE, request.form)
    profile = activation.find(fields["profile"])
    packages.find(package_id)
    check = if_seen(profile.name, fields["seen"])
    activation.activate(profile, [package_id], by=g.caller.label, check=check)
    return _shown(package_id)


@pages.get("/packages/<id:package_id>/deactivate")
def plan_deactivation(package_id: int) -> Response:
    """Show what would change where it is deactivated."""
    package, name = packages.find(package_id), read(WHERE, request.args)["profile"]
    seen = profile_states.etag(profile_states.find(name))
    held = activation.find(name).active()
    after = [one for one in held if one.id != package_id]
    return Plan(
        title=f"Deactivate {_title(package)} in {name}",
        url=url_for("dashboard.packages.deactivate", package_id=package_id),
        label="Deactivate",
        back=_url(package_id),
        fields={"profile": name, "seen": seen},
        changes=difference(of_rows(held), of_rows(after)),
        notes=["It stays downloaded, and in other profiles."],
    ).show()


@pages.post("/packages/<id:package_id>/deactivate")
def deactivate(package_id: int) -> WerkzeugResponse:
    """Take it out of a profile."""
    fields = read(CHANGE, request.form)
    profile = activation.find(fields["profile"])
    packages.find(package_id)
    check = if_seen(profile.name, fields["seen"])
    activation.deactivate(profile, package_id, by=g.caller.label, check=check)
    return _shown(package_id)


@pages.get("/packages/<id:package_id>/remove")
def plan_removal(package_id: int) -> Response:
    """Show what is forgotten with it."""
    package = packages.find(package_id)
    if package.status == PackageStatus.ACTIVATED:
        raise PackageInUse(name=package.name, version=package.version, use=package.status)
    return Plan(
        title=f"Remove {_title(package)}",
        url=url_for("dashboard.packages.remove", package_id=package_id),
        label="Remove",
        back=_url(package_id),
        fields={},
        notes=[
            "The package, its tasks and their logs are forgotten.",
            "Garbage collection may then delete its files, unless a generation holds them.",
        ],
        kind="danger",
    ).show()


@pages.post("/packages/<id:package_id>/remove")
def remove(package_id: int) -> WerkzeugResponse:
    """Forget it."""
    packages.remove(package_id)
    return redirect(url_for("dashboard.packages.index"), 303)


def _state(package_id: int) -> Fragment:
    def gather() -> dict[str, Any]:
        package = packages.find(package_id)
        rows, _ = tasks.listed({"package_id": package_id, "limit": LISTED})
        latest = rows[0] if rows else None
        held_by = (package.profiles or "").split(",") if package.profiles else []
        every = [profile.name for profile in history.every()]
        return {
            "package": package,
            "latest": latest,
            "is_live": latest is not None and latest.status in LIVE,
            "tail": _tail(latest) if latest is not None else "",
            "tasks": rows,
            "held_by": sorted(held_by),
            "others": [name for name in every if name not in held_by],
        }

    endpoint = "dashboard.packages.state"
    return fragment(endpoint, "package_state.html", gather, package_id=package_id)


def _tail(task: AnyRow) -> str:
    """Return the last lines of a live task's log."""
    if task.status not in LIVE:
        return ""
    text = nix.decode(build_logs.tail(task.seq, task.attempt, TAIL_BYTES))
    return "\n".join(text.splitlines()[-TAIL_LINES:])


def _title(package: AnyRow) -> str:
    return f"{package.name} {package.version}"


def _url(package_id: int) -> str:
    return url_for("dashboard.packages.show", package_id=package_id)


def _shown(package_id: int) -> WerkzeugResponse:
    return redirect(_url(package_id), 303)
