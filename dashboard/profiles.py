"""The pages of profiles: what each holds, its generations, and every change of one, planned."""

from collections.abc import Iterable
from typing import Any

from flask import Blueprint, Response, g, redirect, request, url_for
from marshmallow import fields, validate
from werkzeug.wrappers import Response as WerkzeugResponse

import services
import tasks
from dashboard import manifests
from dashboard.forms import read
from dashboard.plans import ETAG_LENGTH, Plan, SeenSchema, difference, if_seen, told
from dashboard.rendering import Entry, Fragment, fragment, page, send
from errors import InvalidInput, NoSuchGeneration
from fields import ProfileName, Strict, always, described
from machines import states as machine_states
from models import TaskKind, TaskStatus
from profiles import activation, applies, generations, history
from profiles import states as profile_states
from profiles.history import History
from profiles.schemas import GateSchema, GenerationQuerySchema
from worker import Pool

pages = Blueprint("profiles", __name__)
entry = Entry("Profiles", "dashboard.profiles.index")

LISTED = 10  # generations on a page


class NewProfileSchema(Strict):
    """A profile to make."""

    name = ProfileName(**always("Its name.", "staging"))


class TargetSchema(GateSchema):
    """Where to promote to, if that is chosen yet."""

    to = ProfileName(load_default=None, **described("The profile to change.", "production"))


class PromotionFormSchema(SeenSchema, GateSchema):
    """A promotion, and the states of both profiles for which its plan was shown."""

    to = ProfileName(**always("The profile to change.", "production"))
    seen_source = fields.String(load_default="", validate=validate.Length(max=ETAG_LENGTH))


class ManifestSchema(SeenSchema):
    """A manifest; what is not there is empty."""

    manifest = fields.String(load_default="")


NEW, SEEN, GENERATIONS = NewProfileSchema(), SeenSchema(), GenerationQuerySchema()
TARGET, PROMOTION, MANIFEST = TargetSchema(), PromotionFormSchema(), ManifestSchema()


# --- What there is ---


@pages.get("/profiles")
def index() -> Response:
    """Show all profiles."""
    return page("profiles.html", list=_list())


@pages.get("/parts/profiles")
def list_() -> Response:
    """Send the part that changes."""
    return send(_list())


@pages.post("/profiles")
def create() -> WerkzeugResponse:
    """Make an empty profile."""
    name = read(NEW, request.form)["name"]
    if history.of(name):
        raise InvalidInput(errors={"name": [f"There is a profile {name} already."]})
    _accept(name, {}, "")
    return _shown(name)


@pages.get("/profiles/<name>")
def show(name: str) -> Response:
    """Show a profile with its generations."""
    profile_states.find(name)
    after = read(GENERATIONS, request.args).get("after")
    return page("profile.html", name=name, state=_state(name, after))


@pages.get("/profiles/<name>/state")
def state(name: str) -> Response:
    """Send the part that changes."""
    return send(_state(name, read(GENERATIONS, request.args).get("after")))


def _list() -> Fragment:
    def gather() -> dict[str, Any]:
        return {"profiles": profile_states.every()}

    return fragment("dashboard.profiles.list_", "profiles_list.html", gather, seconds=5)


def _state(name: str, after: int | None) -> Fragment:
    def gather() -> dict[str, Any]:
        found = profile_states.find(name)
        rows, next_ = _generations(activation.find(name), after)
        shown = profile_states.shown(found, profile_states.counts(found))
        applied, _ = tasks.listed({"profile": name, "kind": TaskKind.APPLY, "limit": 1})
        failed = [task for task in applied if task.status == TaskStatus.FAILED]
        return {
            "profile": shown,
            "can_roll_back": after is not None or len(rows) > 1,
            "generations": rows,
            "next": next_,
            "failed": failed,
        }

    endpoint = "dashboard.profiles.state"
    return fragment(endpoint, "profile_state.html", gather, name=name, after=after)


def _generations(profile: History, after: int | None) -> tuple[list[dict[str, Any]], int | None]:
    """Return a page of generations, each with what it changed, and the last if more follow."""
    query = {"limit": LISTED + 1} | ({} if after is None else {"after": after})
    rows, _ = generations.listed(profile, query)
    before = [*(row["packages"] for row in rows[1:]), []]
    found = [
        row | {"changes_made": difference(older, row["packages"])}
        for row, older in zip(rows, before, strict=False)
    ]
    has_more = len(found) > LISTED
    return found[:LISTED], found[LISTED - 1]["number"] if has_more else None


# --- Switches ---


@pages.get("/profiles/<name>/rollback")
def plan_rollback(name: str) -> Response:
    """Show what a rollback would change."""
    profile = activation.find(name)
    number = profile.active_before()
    if number is None:
        raise NoSuchGeneration(detail="no other generation was active before")
    url = url_for("dashboard.profiles.rollback", name=name)
    return _switch_plan(profile, number, url, "Roll back")


@pages.post("/profiles/<name>/rollback")
def rollback(name: str) -> WerkzeugResponse:
    """Switch to the generation that was active before."""
    seen = read(SEEN, request.form)["seen"]
    activation.rollback(activation.find(name), g.caller.label, if_seen(name, seen))
    return _shown(name)


@pages.get("/profiles/<name>/switch/<id:number>")
def plan_switch(name: str, number: int) -> Response:
    """Show what a switch to a generation would change."""
    profile = activation.find(name)
    url = url_for("dashboard.profiles.switch", name=name, number=number)
    return _switch_plan(profile, number, url, "Switch")


@pages.post("/profiles/<name>/switch/<id:number>")
def switch(name: str, number: int) -> WerkzeugResponse:
    """Switch to a generation."""
    seen = read(SEEN, request.form)["seen"]
    activation.switch(activation.find(name), number, g.caller.label, if_seen(name, seen))
    return _shown(name)


def _switch_plan(profile: History, number: int, url: str, label: str) -> Response:
    state = profile_states.find(profile.name)
    held = generations.find(profile, state.generation)["packages"] if state.generation else []
    wanted = generations.find(profile, number)["packages"]
    return Plan(
        title=f"{label} {profile.name} to generation {number}",
        url=url,
        label=label,
        back=_url(profile.name),
        fields={"seen": profile_states.etag(state)},
        changes=difference(held, wanted),
        notes=_of_apply(state.task_id),
    ).show()


def _of_apply(task_id: object) -> list[str]:
    """Return what happens to an apply that waits or runs, if there is one."""
    return ["The apply that waits or runs is cancelled by this."] if task_id else []


# --- Promotion ---


@pages.get("/profiles/<name>/promote")
def plan_promotion(name: str) -> Response:
    """Ask which profile is to become what this one is, and show what would change there."""
    query = read(TARGET, request.args)
    to = query["to"]
    source = profile_states.find(name)
    others = [one.name for one in history.every() if one.name != name]
    if to is None:
        return page("promote.html", name=name, others=others)
    target = profile_states.find(to) if history.of(to) else None
    held = target.packages or [] if target else []
    return Plan(
        title=f"Promote {name} to {to}",
        url=url_for("dashboard.profiles.promote", name=name),
        label="Promote",
        back=_url(name),
        fields={
            "to": to,
            "require": query["require"] or "",
            "seen": profile_states.etag(target) if target else "",
            "seen_source": profile_states.etag(source),
        },
        changes=difference(held, source.packages or []),
        notes=_promotion_notes(name, to, source.generation, query["require"], is_new=not target)
        + _of_apply(target and target.task_id),
    ).show()


def _promotion_notes(
    name: str, to: str, generation: int | None, require: str | None, *, is_new: bool
) -> list[str]:
    number = "no generation yet" if generation is None else f"generation {generation}"
    notes = [f"{to} gets exactly the store path that {name} has, {number}."]
    if is_new:
        notes.append(f"There is no profile {to}: it is made.")
    if require:
        notes.append(f"Refused unless every machine of {name} that has reported holds it.")
    return notes


@pages.post("/profiles/<name>/promote")
def promote(name: str) -> WerkzeugResponse:
    """Make another profile the generation that this one has."""
    given = read(PROMOTION, request.form)
    source = activation.find(name)

    def check(target: History | None) -> None:
        if_seen(given["to"], given["seen"])(target)
        if_seen(name, given["seen_source"])(source)
        if given["require"]:
            machine_states.require_current(source)

    activation.promote(given["to"], source, check, by=g.caller.label)
    return _shown(given["to"])


# --- Manifests ---


@pages.get("/profiles/<name>/apply")
def manifest(name: str) -> Response:
    """Ask for a manifest; what the profile holds now is there to begin with."""
    state = profile_states.find(name)
    return _manifest_form(name, manifests.text(state.packages or []))


@pages.post("/profiles/<name>/plan")
def plan_apply(name: str) -> Response:
    """Choose the versions, and show what would change."""
    text = read(MANIFEST, request.form)["manifest"].replace("\r\n", "\n")
    state = profile_states.find(name)
    try:
        wanted = manifests.read(text)
        chosen = manifests.choose(wanted)
        set_ = applies.versions(_set(chosen))
    except InvalidInput as error:
        return _manifest_form(name, text, (error.errors or {}).values(), InvalidInput.status)
    seen = profile_states.etag(state)
    other = wanted.profile not in (None, name)
    notes = [f"The manifest is for the profile {wanted.profile}: this is {name}."] * other
    return Plan(
        title=f"Apply a manifest to {name}",
        url=url_for("dashboard.profiles.apply", name=name),
        label="Apply",
        back=_url(name),
        fields={"manifest": manifests.text(_set(chosen)), "seen": seen},
        changes=told(applies.plan(name, set_, if_seen(name, seen))),
        notes=notes + _of_apply(state.task_id),
    ).show("plan_apply.html", chosen=chosen, wanted=wanted.packages)


@pages.post("/profiles/<name>/apply")
def apply(name: str) -> WerkzeugResponse:
    """Make the profile hold what the plan said, in which each version is exact."""
    given = read(MANIFEST, request.form)
    activation.find(name)
    _accept(name, manifests.read(given["manifest"]).packages, given["seen"])
    return _shown(name)


def _accept(name: str, chosen: dict[str, str], seen: str) -> None:
    wanted = applies.versions(_set(chosen))
    asked = {"by": g.caller.label, "request_id": g.request_id}
    if applies.accept(name, wanted, if_seen(name, seen), **asked):
        services.get(Pool).wake()


def _set(chosen: dict[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "version": version} for name, version in chosen.items()]


def _manifest_form(
    name: str, text: str, faults: Iterable[Iterable[str]] = (), status: int = 200
) -> Response:
    every = [fault for said in faults for fault in said]
    return page("manifest.html", status=status, name=name, text=text, faults=every)


# --- Deletion ---


@pages.get("/profiles/<name>/delete")
def plan_deletion(name: str) -> Response:
    """Show what is deleted with the profile."""
    state = profile_states.find(name)
    return Plan(
        title=f"Delete the profile {name}",
        url=url_for("dashboard.profiles.delete", name=name),
        label="Delete",
        back=_url(name),
        fields={"seen": profile_states.etag(state)},
        changes=difference(state.packages or [], []),
        notes=["Its generations are deleted, too; its packages stay downloaded."],
        kind="danger",
    ).show()


@pages.post("/profiles/<name>/delete")
def delete(name: str) -> WerkzeugResponse:
    """Delete the profile."""
    seen = read(SEEN, request.form)["seen"]
    activation.delete(activation.find(name), if_seen(name, seen))
    return redirect(url_for("dashboard.profiles.index"), 303)


def _url(name: str) -> str:
    return url_for("dashboard.profiles.show", name=name)


def _shown(name: str) -> WerkzeugResponse:
    return redirect(_url(name), 303)
