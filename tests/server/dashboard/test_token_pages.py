"""The pages of tokens: a secret is shown once, and nobody but an admin sees them."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from support import SQLITE, bearing

TOKENS = "/access/tokens"


@pytest.fixture
def fill_in(browser):
    """Return a function that sends the form for a new token, and returns the answer."""

    def fill_in(**fields):
        newest = browser.get(TOKENS).tree.css_first("input[name=newest]").attributes["value"]
        return browser.post(TOKENS, **{"newest": newest, "name": "ci", "scope": "read", **fields})

    return fill_in


def secret_in(page):
    shown = page.tree.css_first("code.copy")
    return shown and shown.text()


def names(page):
    return [row.text(strip=True) for row in page.tree.css("tbody th[scope=row]")]


def test_the_answer_that_mints_a_token_alone_shows_its_secret(app, browser, fill_in):
    answer = fill_in()

    assert answer.headers["Cache-Control"] == "no-store"
    own = bearing(app, secret_in(answer)).get("/api/v1/token").json
    assert (own["name"], own["scope"]) == ("ci", "read")
    assert names(browser.get(TOKENS)) == ["token 1yours", "ci"]
    assert "pkgd_" not in browser.get(TOKENS).text


@SQLITE
def test_a_secret_is_in_no_log(fill_in, caplog):
    assert secret_in(fill_in()) not in caplog.text


def test_to_load_the_answer_anew_mints_nothing_and_shows_no_secret(browser, fill_in):
    fill_in(newest="1")

    answer = fill_in(newest="1")

    assert answer.status_code == 409
    assert secret_in(answer) is None
    assert len(names(browser.get(TOKENS))) == 2


def test_of_forms_sent_at_the_same_time_one_mints(app, browser):
    cookie = browser.client.get_cookie("pkgd_session").value

    def mint(_):
        headers = {"Cookie": f"pkgd_session={cookie}", "Origin": "http://localhost"}
        client = app.test_client(use_cookies=False)
        return client.post(TOKENS, data={"newest": "1", "name": "ci"}, headers=headers).status_code

    with ThreadPoolExecutor(4) as threads:
        statuses = sorted(threads.map(mint, range(4)))

    assert statuses == [200, 409, 409, 409]
    assert len(names(browser.get(TOKENS))) == 2


@SQLITE
@pytest.mark.parametrize(
    ("fields", "status", "said"),
    [
        ({"name": "n" * 101}, 422, "Length must be between 1 and 100."),
        ({"scope": "root"}, 422, "Must be one of"),
        ({"expires_in": "-1"}, 422, "Not a valid integer."),
        ({"colour": "red"}, 422, "Unknown field."),
        ({"expires_in": str(9 * 365 * 86_400)}, 403, "can't outlive the one that mints it"),
    ],
)
def test_a_refused_form_says_why_and_keeps_what_was_typed(fill_in, fields, status, said):
    answer = fill_in(**{"name": "robot", **fields})

    assert answer.status_code == status
    assert said in answer.tree.css_first("#fault").text()
    kept = answer.tree.css_first("#name").attributes["value"]
    assert kept == fields.get("name", "robot")
    assert len(names(answer)) == 1


@SQLITE
def test_a_form_offers_no_life_that_would_be_refused(stranger, mint):
    stranger.sign_in(mint(expires_in=8 * 86_400)["token"])

    lives = stranger.get(TOKENS).tree.css("#expires_in option")

    assert [life.text() for life in lives] == ["90 days at most", "1 day", "7 days"]


def test_a_token_is_revoked_after_a_question(app, browser, mint):
    robot = mint(name="robot")
    link = browser.get(TOKENS).tree.css_first("a[aria-label='Revoke robot']")

    after = browser.press(browser.get(link.attributes["href"]), "Revoke")

    assert names(after) == ["token 1yours"]
    assert bearing(app, robot["token"]).get("/api/v1/token").status_code == 401


def test_the_last_admin_is_revoked_when_that_is_confirmed_again(browser):
    refused = browser.press(browser.get(f"{TOKENS}/1/revoke"), "Revoke")
    assert refused.status_code == 409

    after = browser.press(refused, "Revoke it all the same")

    assert after.request.path == "/sign-in"


@SQLITE
def test_the_question_says_that_one_would_be_signed_out(browser, mint):
    other = mint()["id"]

    assert "you will be signed out" in browser.get(f"{TOKENS}/1/revoke").said
    assert "you will be signed out" not in browser.get(f"{TOKENS}/{other}/revoke").said


@SQLITE
def test_all_other_tokens_are_revoked_after_a_question(browser, mint):
    mint(), mint()
    links = browser.get(TOKENS).tree.css("main a")
    link = next(one for one in links if "all but yours" in one.text())

    after = browser.press(browser.get(link.attributes["href"]), "Revoke all others")

    assert names(after) == ["token 1yours"]


@SQLITE
def test_a_token_that_is_not_there_is_not_revoked(browser):
    asked = browser.get(f"{TOKENS}/7/revoke")

    assert (asked.status_code, asked.tree.css_first("h1").text()) == (404, "Not Found")
    assert "there is no live token 7" in asked.said
    assert browser.post(f"{TOKENS}/7/revoke").status_code == 404


@SQLITE
def test_tokens_are_listed_by_pages(browser, mint):
    mint(name="second"), mint(name="third")

    first = browser.get(f"{TOKENS}?limit=2")
    rest = browser.get(first.tree.css_first("a[rel=next]").attributes["href"])

    assert names(first) == ["token 1yours", "second"]
    assert names(rest) == ["third"]


@SQLITE
@pytest.mark.parametrize("scope", ["read", "operate"])
def test_nobody_but_an_admin_sees_who_has_access(app, browser_of, scope):
    browser = browser_of(scope)
    rules = [rule for rule in app.url_map.iter_rules() if "dashboard.access" in rule.endpoint]

    for rule in rules:
        path = rule.build(dict.fromkeys(rule.arguments, 1), append_unknown=False)[1]
        send = browser.get if "GET" in rule.methods else browser.post
        assert send(path).status_code == 403, path
    assert "Access" not in browser.get("/now").tree.css_first("nav").text()


@SQLITE
def test_access_leads_to_the_tokens(browser):
    links = browser.get("/now").tree.css("nav a")
    link = next(one for one in links if one.text() == "Access")

    page = browser.get(link.attributes["href"])

    assert page.request.path == TOKENS
    current = [one.text() for one in page.tree.css("nav [aria-current]")]
    assert current == ["Access", "Tokens"]


@SQLITE
def test_a_form_of_another_site_mints_and_revokes_nothing(browser):
    foreign = {"Origin": "https://evil.example"}

    for path in (TOKENS, f"{TOKENS}/1/revoke", f"{TOKENS}/revoke-others"):
        assert browser.post(path, foreign, newest="1").status_code == 403

    assert names(browser.get(TOKENS)) == ["token 1yours"]
