"""A headless Chromium, driven by its DevTools protocol over a pair of pipes."""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time

from support import require, until

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--no-first-run",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-search-engine-choice-screen",
    "--no-proxy-server",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--remote-debugging-pipe",
    "--window-size=1280,1600",
]
SECONDS = 30


def find():
    """Return the path of Chromium; without it, skip the test, or fail it in CI."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    require(path, "Chromium")
    return path


class Browser:
    """A browser with one page; it records the URLs, warnings and errors of the page."""

    def __init__(self, folder):
        """Start the browser; it keeps its profile in `folder`."""
        program = find()
        commands, answers = pipe(), pipe()
        # Chromium reads commands from descriptor 3 and writes answers to 4.
        run = f'exec "$@" 3<&{commands[0]} 4>&{answers[1]}'
        argv = [
            "bash",
            "-c",
            run,
            "bash",
            program,
            *FLAGS,
            f"--user-data-dir={folder}",
            "about:blank",
        ]
        self.process = subprocess.Popen(
            argv,
            pass_fds=(commands[0], answers[1]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": str(folder)},
        )
        os.close(commands[0])
        os.close(answers[1])
        self.commands, self.answers = commands[1], answers[0]
        self.buffer, self.number = b"", 0
        self.urls, self.warnings = [], []
        self.session = None
        self.session = self._attach()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(SECONDS)
        os.close(self.commands)
        os.close(self.answers)

    def open(self, url):
        """Load a page, and drop the records of the page before."""
        self.urls.clear()
        self.warnings.clear()
        self.send("Page.navigate", url=url)

    def evaluate(self, script):
        """Return the value of a JavaScript expression in the page."""
        answer = self.send("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, script):
        """Wait until a JavaScript expression is true, and return its value."""
        return until(
            lambda: self.evaluate(script),
            SECONDS,
            interval=0.1,
            explain=lambda: f"{script}\n{self.warnings}",
        )

    def settle(self, quiet=1.0):
        """Wait until the page has requested nothing for `quiet` seconds."""
        seen, since = -1, time.monotonic()
        while time.monotonic() < since + quiet:
            self.evaluate("1")  # reads the events that came before its result
            if len(self.urls) != seen:
                seen, since = len(self.urls), time.monotonic()
            time.sleep(0.05)

    def screenshot(self, path):
        """Save a picture of the page."""
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot")["data"]))

    def send(self, method, **parameters):
        """Send a command of the DevTools protocol and return its result."""
        self.number += 1
        command = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            command["sessionId"] = self.session
        os.write(self.commands, json.dumps(command).encode() + b"\0")
        while (message := self._receive()).get("id") != self.number:
            self._note(message)
        assert "error" not in message, message["error"]
        return message["result"]

    def _attach(self):
        targets = self.send("Target.getTargets")["targetInfos"]
        (page,) = [one["targetId"] for one in targets if one["type"] == "page"]
        self.session = self.send("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.send(f"{domain}.enable")
        return self.session

    def _receive(self):
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.answers], [], [], SECONDS)
            assert ready, "the browser does not answer"
            piece = os.read(self.answers, 1 << 20)
            assert piece, "the browser has ended"
            self.buffer += piece
        message, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(message)

    def _note(self, message):
        """Record an event of the page."""
        event = message.get("params", {})
        match message["method"]:
            case "Network.requestWillBeSent":
                self.urls.append(event["request"]["url"])
            case "Runtime.consoleAPICalled" if event["type"] in ("error", "warning", "assert"):
                self.warnings.append(event["args"])
            case "Log.entryAdded" if event["entry"]["level"] in ("error", "warning"):
                self.warnings.append(event["entry"])
            case "Runtime.exceptionThrown":
                self.warnings.append(event["exceptionDetails"])


def pipe():
    """Return both ends of a pipe, with numbers above those that Chromium uses."""
    ends = os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends]
    for end in ends:
        os.close(end)
    return high
