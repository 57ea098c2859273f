"""The first page of the dashboard, and how its parts are rendered and shared."""

from datetime import UTC, datetime

from markupsafe import Markup
from support import SQLITE

from dashboard import rendering
from dashboard.rendering import Fragments, moment, size, visible
from models import TaskStatus, utcnow

HOSTILE = "<script>alert(1)</script> \x1b[31mred\x1b[0m \u202egpj.exe \x00"
SHOWN = "<script>alert(1)</script> ␛[31mred␛[0m ⟨U+202E⟩gpj.exe ␀"


def test_what_runs_is_shown_with_its_log_and_what_waits_with_the_reason(browser, become, schedule):
    running = {"status": TaskStatus.RUNNING, "phase": "building", "done": 1, "expected": 3}
    become(schedule(), "old\n" * 20 + "checking for gcc\n", **running)
    become(schedule("hello", "2.10.0"), waiting="the disk is full")

    page = browser.get("/now")

    assert "Running 1 hello 2.12.1 building 1/3" in page.said
    assert page.tree.css_first("pre.tail").text() == "old\n" * 5 + "checking for gcc"
    assert "Queued 1" in page.said
    assert "hello 2.10.0 the disk is full" in page.said


@SQLITE
def test_failures_are_shown_with_message_and_hint_as_text(browser, become, schedule):
    error = {"error_code": "build_failed", "error_message": HOSTILE, "error_hint": "Read the log."}
    ended = {"status": TaskStatus.FAILED, "finished_at": utcnow(), **error}
    become(schedule(), HOSTILE, **ended)

    page = browser.get("/now")

    failure = page.tree.css_first(".failure")
    assert failure.css_first("pre").text() == SHOWN
    assert "Read the log." in failure.text()
    assert page.tree.css("main script") == []


@SQLITE
def test_the_health_of_the_service_is_shown(browser):
    facts = browser.get("/now/service").tree.css(".facts > div")
    said = {one.css_first("dt").text(): one.css_first("dd").text() for one in facts}

    assert said["database"] == "ok"
    assert said["workers"] == "failed a worker thread of this process is not running"


@SQLITE
def test_a_part_that_has_not_changed_is_not_sent_again(browser, schedule):
    first = browser.client.get("/now/work")
    known = {"If-None-Match": first.headers["ETag"]}

    again = browser.client.get("/now/work", headers=known)
    schedule()
    browser.get("/now")  # renders it anew
    changed = browser.client.get("/now/work", headers=known)

    assert (again.status_code, again.data) == (304, b"")
    assert (changed.status_code, b"hello" in changed.data) == (200, True)


@SQLITE
def test_all_who_look_within_a_second_get_the_same_rendering(browser, browser_of, schedule, app):
    with app.app_context():
        etag = browser.client.get("/now/work").headers["ETag"]
        schedule()
        shared = browser.client.get("/now/work").headers["ETag"]
        other_scope = browser_of("read").client.get("/now/work").headers["ETag"]

    assert shared == etag
    assert other_scope != etag


def test_what_was_rendered_is_kept_for_a_second(monkeypatch):
    kept = Fragments()
    kept.keep("a", "<p>a</p>")
    assert kept.find("a") == "<p>a</p>"

    monkeypatch.setattr(rendering, "SHARED_SECONDS", 0)

    assert kept.find("a") is None
    kept.keep("b", "<p>b</p>")
    assert kept.find("b") is None


@SQLITE
def test_a_browser_that_opens_the_service_comes_to_the_first_page(browser):
    page = browser.get("/", headers={"Accept": "text/html"})

    assert page.request.path == "/now"
    assert "Nothing runs. Queued 0 Nothing waits." in page.said


@SQLITE
def test_what_the_pages_load_may_be_cached_and_is_ours(stranger):
    page = stranger.get("/sign-in")
    loaded = [
        one.attributes.get("src") or one.attributes["href"]
        for one in page.tree.css("head [src], head [href]")
    ]

    assert len(loaded) == 4
    for place in loaded:
        answer = stranger.client.get(place)
        assert (answer.status_code, answer.cache_control.max_age) == (200, 86_400)
    assert stranger.client.get("/dashboard/nope.js").status_code == 404


# --- Errors ---


@SQLITE
def test_an_error_is_a_page_with_what_to_do(browser):
    page = browser.get("/tasks/0b9f2c1e")

    assert page.status_code == 404
    assert "there is no task 0b9f2c1e" in page.said
    assert "List the tasks" in page.said
    assert page.tree.css_first("nav a").text() == "Now"


@SQLITE
def test_an_error_of_a_part_is_a_part(browser):
    path = "/tasks/0b9f2c1e-7d43-4c5a-9a52-6f1f0f6f8f2d/state"
    answer = browser.get(path, headers={"HX-Request": "true"})

    assert answer.status_code == 404
    assert answer.tree.css_first("[role=alert]").text().split()[:3] == ["404", "Not", "Found"]
    assert answer.tree.css("nav") == []


@SQLITE
def test_without_the_database_a_page_says_so(browser, tmp_path):
    (tmp_path / "data" / "app.db").rename(tmp_path / "data" / "away.db")

    page = browser.get("/now")

    assert (page.status_code, page.headers["Retry-After"]) == (503, "2")
    assert "the file of the database is gone" in page.said


@SQLITE
def test_a_method_that_a_page_does_not_have_is_a_405(browser):
    answer = browser.post("/now")

    assert (answer.status_code, answer.content_type) == (405, "text/html; charset=utf-8")


# --- Texts ---


def test_control_characters_are_made_visible_and_markup_is_left_alone():
    assert visible(HOSTILE) == SHOWN
    assert visible(Markup("\x1b")) == "\x1b"
    assert (visible(3), visible("plain\n\t")) == (3, "plain\n\t")


def test_sizes_and_times_are_shown_as_people_read_them():
    shown = [size(count) for count in (None, 0, 1023, 1024, 33_554_432, 5 * 1024**5)]

    assert shown == ["", "0 B", "1023 B", "1.0 KiB", "32.0 MiB", "5120.0 TiB"]
    assert moment(datetime(2026, 11, 27, 9, 5, 1, tzinfo=UTC)) == "2026-11-27 09:05:01 UTC"
