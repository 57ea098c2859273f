"""Show pkgd's API on a server started for it: each request as a curl command, and its answer.

`script/demo` runs this module. It exits with 0 when every step went as expected; otherwise with 1,
after printing what was expected and what came instead.
"""

import contextlib
import fcntl
import http
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from config import SETTINGS
from script import manifests, pinned, sets, telling
from script.telling import BOLD, CYAN, RED, Unexpected, expect, step, tell

ROOT = Path(__file__).resolve().parent.parent
BIN = ROOT / ".venv" / "bin"
START_SECONDS = 30
STOP_SECONDS = 30
TASK_SECONDS = 120
LIVE = ("queued", "running")


# --- The story ---


def story(api: "Api", profile: Path) -> None:
    """Take a package from a name and a version to a program that runs, then switch versions."""
    begin(api)
    newer, first_greeting = install(api, profile)

    step("Register, download and activate another version of it")
    older = register(api, "hello", "2.10.0")
    task = wait(api, download(api, older))
    expect("the task's status", task["status"], "succeeded")
    activate(api, older)

    step("Run the same program: it is now the other version")
    second_greeting = run(profile / "bin" / "hello")
    expect("whether the greeting is another", second_greeting != first_greeting, True)

    step("The version that it replaced is downloaded, but no longer activated")
    package = api.get(f"/api/v1/package/{newer}", 200)
    expect("the package's status", package["status"], "downloaded")

    step("Download a version that no catalog has: the task fails, and has a hint")
    task = wait(api, download(api, register(api, "hello", "9.9.9")))
    expect("the task's status", task["status"], "failed")
    expect("the error's code", task["error"]["code"], "version_unavailable")
    tell(f"{task['error']['message']}\n{task['error']['hint']}")

    step("List the packages")
    packages = api.get("/api/v1/packages", 200)
    expect(
        "the packages",
        {package["version"]: package["status"] for package in packages},
        {"2.12.1": "downloaded", "2.10.0": "activated", "9.9.9": "created"},
    )


def begin(api: "Api") -> None:
    """Greet the service, and get a token."""
    step("Is the service there?")
    answer = api.get("/hello", 200)
    expect("the greeting", answer, {"message": "Welcome to Package API"})

    step("Mint the first token; on a new development server this needs none")
    api.keep_token(api.post("/api/v1/tokens", 201)["token"])

    step("From now on, a request without a token is refused")
    answer = api.post("/api/v1/tokens", 401, with_token=False)
    expect("the problem's status", answer["status"], 401)


def install(api: "Api", profile: Path) -> tuple[int, str]:
    """Register, download, activate and run a package; return its id and what it printed."""
    step("Register a package, by name and version")
    newer = register(api, "hello", "2.12.1")

    step("Download it: Nix builds it in the background, and a task shows the progress")
    task = download(api, newer)

    step("Wait for the task to end")
    task = wait(api, task)
    expect("the task's status", task["status"], "succeeded")

    step("Read the log of its build")
    api.get(f"/api/v1/task/{task['id']}/log", 200)

    step("Activate it: the profile now has its programs")
    activate(api, newer)

    step("Run it")
    return newer, run(profile / "bin" / "hello")


def register(api: "Api", name: str, version: str) -> int:
    """Register a package; return its id."""
    package = api.post("/api/v1/packages", 201, {"name": name, "version": version})
    expect("the package's status", package["status"], "created")
    package_id: int = package["id"]
    return package_id


def download(api: "Api", package_id: int) -> dict[str, Any]:
    """Schedule a package's download; return the answer, which names the task."""
    answer: dict[str, Any] = api.post(f"/api/v1/package/{package_id}/download", 202)
    return answer


def wait(api: "Api", scheduled: dict[str, Any]) -> dict[str, Any]:
    """Return the scheduled task once it has ended."""
    deadline = time.monotonic() + TASK_SECONDS
    while time.monotonic() < deadline:
        task: dict[str, Any] = api.get(f"/api/v1/task/{scheduled['task_id']}?wait=30", 200)
        if task["status"] not in LIVE:
            return task
    raise Unexpected(f"the task was to end within {TASK_SECONDS} s, but is {task['status']}")


def activate(api: "Api", package_id: int) -> None:
    """Put a package in the profile."""
    answer = api.post(f"/api/v1/package/{package_id}/activate", 200)
    expect("the answer", answer, {"status": "activated"})


def run(program: Path) -> str:
    """Run a program of the profile; return what it printed."""
    tell(f"$ {shlex.quote(str(program))}", CYAN)
    result = subprocess.run([program], capture_output=True, text=True, check=False, timeout=10)
    tell(result.stdout + result.stderr)
    expect("the program's exit code", result.returncode, 0)
    expect("whether it printed something", bool(result.stdout.strip()), True)
    return result.stdout


# --- Requests and answers ---


class Api:
    """Sends requests, and prints each as a curl command with its answer."""

    def __init__(self, url: str) -> None:
        """Send requests to the server at `url`, without a token until one is kept."""
        self.url = url
        self.token: str | None = None
        # No proxy, even if the environment names one.
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def keep_token(self, token: str) -> None:
        """Send `token` from now on; curl commands show it as $TOKEN."""
        self.token = token
        tell("$ TOKEN=…   # the token of the answer, which is never shown again", CYAN)

    def get(self, path: str, status: int) -> Any:
        """Send a GET and return the answer, which must have this status."""
        return self._ask("GET", path, status)

    def post(self, path: str, status: int, body: Any = None, *, with_token: bool = True) -> Any:
        """Send a POST and return the answer, which must have this status."""
        return self._ask("POST", path, status, body, with_token=with_token)

    def put(self, path: str, status: int, body: Any) -> Any:
        """Send a PUT and return the answer, which must have this status."""
        return self._ask("PUT", path, status, body)

    def _ask(
        self, method: str, path: str, status: int, body: Any = None, *, with_token: bool = True
    ) -> Any:
        token = self.token if with_token else None
        tell(f"$ {curl(method, self.url + path, body, has_token=token is not None)}", CYAN)

        headers = {"Authorization": f"Token {token}"} if token else {}
        data = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            data = json.dumps(body).encode()
        came, text = self.send(method, path, data, headers)

        shown, answer = pretty(text)
        tell(f"HTTP {came} {http.HTTPStatus(came).phrase}\n{shown}")
        expect(f"the status of {method} {path}", came, status)
        return answer

    def send(
        self, method: str, path: str, data: bytes | None, headers: dict[str, str]
    ) -> tuple[int, str]:
        """Send a request; return the status and the text of its answer."""
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with self.opener.open(request, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as answer:
            return answer.code, answer.read().decode()


def curl(method: str, url: str, body: Any, *, has_token: bool) -> str:
    """Return the curl command that sends a request."""
    parts = (
        ["curl", shlex.quote(url)] if method == "GET" else [f"curl -X {method}", shlex.quote(url)]
    )
    if has_token:
        parts.append('-H "Authorization: Token $TOKEN"')
    if body is not None:
        parts.append(f"--json {shlex.quote(json.dumps(body))}")
    return " ".join(parts)


def pretty(text: str) -> tuple[str, Any]:
    """Return an answer as text to print, without a token's secret, and parsed."""
    try:
        answer = json.loads(text)
    except ValueError:
        return text, text
    shown = answer
    if isinstance(answer, dict) and "token" in answer:
        shown = {**answer, "token": f"{answer['token'][:9]}…"}
    return json.dumps(shown, indent=2, ensure_ascii=False), answer


# --- The server ---


def main(store: str) -> int:
    """Run the story on a new server; return the exit code."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _frame: sys.exit(128 + number))
    began = time.monotonic()
    try:
        with (
            own_folder() as folder,
            own_store(folder, store) as store_dir,
            serving(folder, store_dir) as (server, url, environment),
        ):
            api = Api(url)
            story(api, folder / "profile")
            sets.story(api, folder)
            shell = pinned.Shell(environment | of_pkgctl(folder, api))
            manifests.story(shell, folder)
            pinned.story(shell, folder)
            run(folder / "profile" / "bin" / "hello")
            step("Stop the service")
            expect("the service's exit code", stop(server), 0)
    except KeyboardInterrupt:
        return 130
    except (Unexpected, OSError) as error:
        tell(f"\ndemo: not as expected in step {telling.steps}: {error}", RED)
        return 1
    except (LookupError, TypeError) as error:
        tell(f"\ndemo: the answer in step {telling.steps} has another structure: {error!r}", RED)
        return 1
    tell(
        f"\ndemo: all {telling.steps} steps as expected, in {time.monotonic() - began:.1f} s", BOLD
    )
    return 0


@contextlib.contextmanager
def own_folder() -> Iterator[Path]:
    """Make a new folder, locked while it is used; remove the folders of earlier runs."""
    base = ROOT / "data" / "demo"
    base.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as held:
        with locked(base, fcntl.LOCK_EX):
            for left in base.iterdir():
                with contextlib.suppress(OSError), locked(left, fcntl.LOCK_EX | fcntl.LOCK_NB):
                    # Nix makes the folders of its store read-only.
                    subprocess.run(["chmod", "-R", "u+w", left], check=False)
                    shutil.rmtree(left)
            folder = Path(tempfile.mkdtemp(prefix="run-", dir=base))
            held.enter_context(locked(folder, fcntl.LOCK_EX))
        yield folder


@contextlib.contextmanager
def own_store(folder: Path, store: str) -> Iterator[str]:
    """Make a folder for a Nix store; yield "" to use the machine's own store."""
    if store == "machine":
        yield ""
    elif " " in str(folder):  # Nix's built-in builders fail in a store whose path has a space
        with tempfile.TemporaryDirectory(prefix="pkgd-demo-") as elsewhere:
            yield f"{elsewhere}/nix"
    else:
        yield f"{folder}/nix"


@contextlib.contextmanager
def locked(folder: Path, how: int) -> Iterator[None]:
    """Lock a folder as `how` says; with LOCK_NB, raise BlockingIOError if it is locked already."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, how)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def serving(
    folder: Path, store_dir: str
) -> Iterator[tuple[subprocess.Popen[bytes], str, dict[str, str]]]:
    """Run a server; yield it, its URL and its environment once it is ready; stop it at the end."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environment = settings(folder, port, store_dir)
    pinned.make_catalog(folder)
    log = folder / "server.log"
    tell(f"The service keeps its data in {folder}", BOLD)
    if store_dir:
        tell(f"and a Nix store in {store_dir}, since this machine's own can't be used")

    server = None
    try:
        with log.open("wb") as output:
            init_db = start("flask", "--app", "app", "init-db", env=environment, output=output)
            expect("the exit code of flask init-db", init_db.wait(START_SECONDS), 0)
            server = start("gunicorn", "app:create_app()", env=environment, output=output)
        wait_until_ready(server, url)
        yield server, url, environment
    except (Unexpected, OSError):
        tell(f"\nThe last lines of {log}:", BOLD)
        tell("\n".join(log.read_text(errors="replace").splitlines()[-30:]))
        raise
    finally:
        if server is not None:
            stop(server)


def start(
    program: str, *arguments: str, env: dict[str, str], output: BinaryIO
) -> subprocess.Popen[bytes]:
    """Start a program of the virtual environment, in a session that Ctrl-C does not reach."""
    return subprocess.Popen(
        [BIN / program, *arguments],
        cwd=ROOT,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
    )


def settings(folder: Path, port: int, store_dir: str) -> dict[str, str]:
    """Return the server's environment, without settings of the caller or of a `.env` file."""
    unset = dict.fromkeys([*SETTINGS, "GUNICORN_CMD_ARGS", "NIX_PATH"], "")
    ours = {
        "APP_ENV": "development",
        "DATA_DIR": str(folder),
        "STORE_DIR": store_dir,
        "CATALOGS": shlex.quote(str(pinned.catalog_folder(folder))),
        "PORT": str(port),
    }
    return {**os.environ, **unset, **ours}


def of_pkgctl(folder: Path, api: "Api") -> dict[str, str]:
    """Return the environment in which pkgctl asks this server."""
    return {
        "PKGCTL_URL": api.url,
        "PKGCTL_TOKEN": api.token or "",
        "XDG_CONFIG_HOME": str(folder),
        "NO_PROXY": "127.0.0.1",
    }


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until_ready(server: subprocess.Popen[bytes], url: str) -> None:
    """Wait for /readyz to answer 200."""
    api = Api(url)
    deadline = time.monotonic() + START_SECONDS
    came: object = "no answer"
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(OSError):
            came = api.send("GET", "/readyz", None, {})
            if came[0] == 200:
                return
        time.sleep(0.05)
    if server.poll() is not None:
        raise Unexpected(f"the service was to start, but ended with {server.returncode}")
    raise Unexpected(f"the service was to be ready within {START_SECONDS} s; /readyz: {came}")


def stop(server: subprocess.Popen[bytes]) -> int:
    """Stop the server, and return its exit code."""
    server.terminate()
    try:
        return server.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, signal.SIGKILL)
        return server.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
