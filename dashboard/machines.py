"""The pages of machines: how each stands, and which share of them a new generation goes to."""

from typing import Any

from flask import Blueprint, Response, redirect, request, url_for
from werkzeug.wrappers import Response as WerkzeugResponse

from dashboard.forms import read
from dashboard.rendering import Entry, Fragment, fragment, page, send
from fields import QueryInteger
from machines import rollouts
from machines import routes as machines
from machines import states as machine_states
from machines.models import MachineState
from machines.schemas import MachineQuerySchema, PercentSchema
from profiles import activation

pages = Blueprint("machines", __name__)
entry = Entry("Machines", "dashboard.machines.index", machine_states.are_there)

ASKED = MachineQuerySchema()


class PercentFormSchema(PercentSchema):
    """The share of a rollout, as a form sends it."""

    percent = QueryInteger(  # type: ignore[assignment] # of digits, not a number of JSON
        required=True, validate=PercentSchema().fields["percent"].validators
    )


SHARE = PercentFormSchema()


@pages.get("/machines")
def index() -> Response:
    """Show the machines, and what the profiles offer them."""
    asked = read(ASKED, request.args)
    followed = machine_states.followed()
    return page(
        "machines.html", asked=asked, followed=followed, states=MachineState, listed=_listed(asked)
    )


@pages.get("/parts/machines")
def listed() -> Response:
    """Send the part that lists the machines."""
    return send(_listed(read(ASKED, request.args)))


@pages.get("/machines/<machine_name>")
def show(machine_name: str) -> Response:
    """Show one machine."""
    machine = machines.find(machine_name)
    return page("machine.html", machine=machine, state=_state(machine.name))


@pages.get("/parts/machine/<machine_name>")
def state(machine_name: str) -> Response:
    """Send the part that changes as the machine reports."""
    return send(_state(machine_name))


@pages.post("/machines/<machine_name>/remove")
def remove(machine_name: str) -> WerkzeugResponse:
    """Forget a machine."""
    machines.forget(machine_name)
    return redirect(url_for("dashboard.machines.index"), 303)


@pages.post("/rollouts/<profile_name>")
def roll_out(profile_name: str) -> WerkzeugResponse:
    """Offer a profile's newest generation to a share of its machines."""
    percent = read(SHARE, request.form)["percent"]
    profile = activation.find(profile_name)
    profile.lock()
    rollouts.set_percent(profile, percent)
    return redirect(url_for("dashboard.machines.index", profile=profile_name), 303)


def _listed(asked: dict[str, Any]) -> Fragment:
    def gather() -> dict[str, Any]:
        rows, headers = machines.listed(asked)
        more = {**asked, "after": rows[-1].name} if "Link" in headers else None
        return {"machines": rows, "total": int(headers["X-Total-Count"]), "more": more}

    return fragment("dashboard.machines.listed", "machines_list.html", gather, **asked)


def _state(name: str) -> Fragment:
    def gather() -> dict[str, Any]:
        return {"machine": machines.find(name)}

    return fragment("dashboard.machines.state", "machine_state.html", gather, machine_name=name)
