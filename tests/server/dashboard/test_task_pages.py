"""The pages of tasks: the list, and one task with its log."""

from support import SQLITE

from models import TaskStatus, utcnow

RUNNING = {"status": TaskStatus.RUNNING, "phase": "building"}
FAILED = {"status": TaskStatus.FAILED, "finished_at": utcnow(), "error_code": "build_failed"}


@SQLITE
def test_the_list_is_paged_and_filtered(browser, client, add_packages, monkeypatch):
    monkeypatch.setattr("dashboard.tasks.LISTED", 2)
    add_packages(3)
    for package_id in (1, 2, 3):
        client.post(f"/api/v1/package/{package_id}/download")

    first = browser.get("/tasks?status=queued&kind=")
    second = browser.get(first.tree.css_first("a[rel=next]").attributes["href"])

    assert "made-2 1.0.0" in first.said
    assert "made-0 1.0.0" in second.said
    assert "made-2" not in second.said
    assert "No task matches." in browser.get("/tasks?status=failed").said
    assert browser.get("/tasks?status=odd").status_code == 422


@SQLITE
def test_a_running_task_is_shown_with_the_end_of_its_log(browser, become, schedule):
    task_id = schedule()
    become(task_id, "<b>bold</b>\nhalf a li", **RUNNING)

    page = browser.get(f"/tasks/{task_id}")

    log = page.tree.css_first("pre#log")
    assert log.text() == "<b>bold</b>\n"  # what is half written comes with its rest
    assert log.attributes["data-offset"] == "12"
    assert page.tree.css("[data-over]") == []
    assert "Status running building" in page.said


@SQLITE
def test_the_log_goes_on_from_an_offset_until_it_is_over(browser, become, schedule):
    task_id = schedule()
    become(task_id, "one\n<two>\nthr", **RUNNING)
    more = browser.client.get(f"/tasks/{task_id}/log?attempt=1&offset=4")
    assert (more.text, more.headers["X-Next-Offset"]) == ("&lt;two&gt;\n", "10")
    assert browser.client.get(f"/tasks/{task_id}/log?offset=10").status_code == 204

    become(task_id, **FAILED)
    rest = browser.client.get(f"/tasks/{task_id}/log?offset=10")
    over = browser.client.get(f"/tasks/{task_id}/log?offset=13")

    assert (rest.text, rest.headers.get("X-Log-Over")) == ("thr", None)
    assert (over.status_code, over.headers["X-Log-Over"]) == (204, "true")


@SQLITE
def test_the_lines_that_hold_a_text_are_found_in_the_whole_log(browser, become, schedule):
    task_id = schedule()
    become(task_id, "begin\n" + "filler\n" * 30_000 + "<i>ERROR</i>: no\n", **FAILED)

    found = browser.get(f"/tasks/{task_id}", query_string={"find": "error"})
    shown = browser.get(f"/tasks/{task_id}")

    assert "1 line with “error”" in found.said
    assert "30002<i>ERROR</i>: no" in "".join(found.tree.css_first(".lines").text().split("\n"))
    assert "begin" not in shown.tree.css_first("pre#log").text()
    assert "Only the end is shown" in shown.said


@SQLITE
def test_the_log_can_be_downloaded(browser, become, schedule):
    task_id = schedule()
    become(task_id, "<b>\n", **FAILED)

    answer = browser.client.get(f"/tasks/{task_id}/log.txt")

    assert answer.headers["Content-Disposition"] == f'attachment; filename="{task_id}-1.log"'
    assert (answer.text, answer.content_type) == ("<b>\n", "text/plain; charset=utf-8")


@SQLITE
def test_each_attempt_has_its_log(browser, become, schedule):
    task_id = schedule()
    become(task_id, "first attempt\n", **RUNNING)
    become(task_id, attempt=2)

    page = browser.get(f"/tasks/{task_id}?attempt=1")

    assert page.tree.css_first("pre#log").text() == "first attempt\n"
    assert [one.text() for one in page.tree.css(".attempts a")] == ["1", "2"]


@SQLITE
def test_a_task_is_cancelled_by_who_may(browser, browser_of, schedule, get_task):
    task_id = schedule()
    reader = browser_of("read")

    assert "Cancel" not in reader.get(f"/tasks/{task_id}").said
    assert reader.post(f"/tasks/{task_id}/cancel").status_code == 403
    page = browser.press(browser.get(f"/tasks/{task_id}"), "Cancel")

    assert get_task(task_id)["status"] == "cancelled"
    assert "Status cancelled" in page.said
    assert page.tree.css("[data-over]") != []
    assert browser.post(f"/tasks/{task_id}/cancel").status_code == 409
