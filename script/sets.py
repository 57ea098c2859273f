"""The part of the demonstration about whole sets: an apply, a promotion, and a rollback."""

from pathlib import Path
from typing import Any, Protocol

from script.telling import expect, step, tell

SET = [{"name": "hello", "version": "2.12.1"}, {"name": "parrot", "version": "1.0.0"}]


class Api(Protocol):
    """What sends requests, and prints each with its answer."""

    def get(self, path: str, status: int) -> Any:
        """Send a GET and return the answer, which must have this status."""

    def put(self, path: str, status: int, body: Any) -> Any:
        """Send a PUT and return the answer, which must have this status."""

    def post(self, path: str, status: int, body: Any = None) -> Any:
        """Send a POST and return the answer, which must have this status."""


def story(api: Api, folder: Path) -> None:
    """Apply a set to a profile, promote it to the default one, and go back."""
    step("Apply a set to a profile of its own: what would that change?")
    plan = api.put("/api/v1/profile/staging?dry_run=true", 200, {"packages": SET})
    expect("what would be downloaded", [one["name"] for one in plan["to_download"]], ["parrot"])

    step("Apply it: what is missing is downloaded, and the profile made in one generation")
    task_id = api.put("/api/v1/profile/staging", 202, {"packages": SET})["task_id"]
    task = api.get(f"/api/v1/task/{task_id}?wait=30", 200)
    expect("the task", (task["kind"], task["status"]), ("apply", "succeeded"))
    staging = api.get("/api/v1/profile/staging", 200)
    expect("the programs", programs(folder / "profiles" / "staging"), ["hello", "parrot"])

    step("Promote it: the default profile becomes the very generation that was tried")
    before = programs(folder / "profile")
    default = api.post("/api/v1/profile/default/promote", 200, {"from": "staging"})
    expect("the store path", default["store_path"], staging["store_path"])

    step("And the way back, by one request")
    api.post("/api/v1/generations/rollback?profile=default", 200)
    expect("the programs", programs(folder / "profile"), before)
    tell("\n".join([f"$ ls {folder / 'profile' / 'bin'}", *before]))


def programs(profile: Path) -> list[str]:
    """Return the names of the programs in a profile."""
    return sorted(path.name for path in (profile / "bin").iterdir())
