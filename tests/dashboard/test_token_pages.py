"""The pages of tokens: a secret is shown once, and nobody but an admin sees them."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from selectolax.lexbor import LexborHTMLParser
from support import SQLITE, bearing

TOKENS = "/access/tokens"


@pytest.fixture
def send(see):
    """Return a function that fills the form for a new token in, and sends it."""

    def send(browser, **fields):
        newest = see(browser, TOKENS).css_first("input[name=newest]").attributes["value"]
        return browser.post(TOKENS, data={"newest": newest, "name": "ci", "scope": "read"} | fields)

    return send


def secret_in(answer):
    shown = LexborHTMLParser(answer.text).css_first("code.copy")
    return shown and shown.text()


def names(page):
    return [row.text(strip=True) for row in page.css("tbody th[scope=row]")]


def test_the_answer_that_mints_a_token_alone_shows_its_secret(app, admin, send, see):
    answer = send(admin)

    assert answer.headers["Cache-Control"] == "no-store"
    own = bearing(app, secret_in(answer)).get("/api/v1/token").json
    assert (own["name"], own["scope"]) == ("ci", "read")
    assert names(see(admin, TOKENS)) == ["token 1yours", "ci"]
    assert "pkgd_" not in see(admin, TOKENS).html


def test_a_secret_is_in_no_log(admin, send, caplog):
    answer = send(admin)

    assert secret_in(answer) not in caplog.text


def test_to_load_the_answer_anew_mints_nothing_and_shows_no_secret(admin, send, see):
    newest = see(admin, TOKENS).css_first("input[name=newest]").attributes["value"]
    send(admin, newest=newest)

    answer = send(admin, newest=newest)

    assert answer.status_code == 409
    assert secret_in(answer) is None
    assert len(names(see(admin, TOKENS))) == 2


def test_of_forms_sent_at_the_same_time_one_mints(client, sign_in, see):
    browsers = [sign_in(client.secret) for _ in range(4)]
    form = {"newest": "1", "name": "ci"}

    with ThreadPoolExecutor(4) as threads:
        answers = threads.map(lambda browser: browser.post(TOKENS, data=form), browsers)
        statuses = sorted(answer.status_code for answer in answers)

    assert statuses == [200, 409, 409, 409]
    assert len(names(see(browsers[0], TOKENS))) == 2


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
def test_a_form_that_is_refused_says_why_and_keeps_what_was_typed(
    admin, send, fields, status, said
):
    answer = send(admin, **{"name": "robot", **fields})
    page = LexborHTMLParser(answer.text)

    assert answer.status_code == status
    assert said in page.css_first("#fault").text()
    assert page.css_first("#name").attributes["value"] == fields.get("name", "robot")
    assert len(names(page)) == 1


@SQLITE
def test_a_form_offers_no_life_that_would_be_refused(mint, sign_in, see):
    browser = sign_in(mint(expires_in=8 * 86_400)["token"])

    lives = see(browser, TOKENS).css("#expires_in option")

    assert [life.text() for life in lives] == ["90 days at most", "1 day", "7 days"]


def test_a_token_is_revoked_after_a_question(app, admin, mint, see):
    robot = mint(name="robot")
    (link,) = see(admin, TOKENS).css("a[aria-label='Revoke robot']")

    question = see(admin, link.attributes["href"])
    answer = admin.post(question.css_first("form.action").attributes["action"])

    assert answer.status_code == 303
    assert names(see(admin, TOKENS)) == ["token 1yours"]
    assert bearing(app, robot["token"]).get("/api/v1/token").status_code == 401


def test_the_last_admin_is_revoked_when_that_is_confirmed_again(admin, see):
    revoke = f"{TOKENS}/1/revoke"

    refused = admin.post(revoke)
    again = LexborHTMLParser(refused.text).css_first("input[name=force]").attributes["value"]

    assert refused.status_code == 409
    assert admin.post(revoke, data={"force": again}).status_code == 303
    assert admin.get(TOKENS).headers["Location"].startswith("/sign-in")


@SQLITE
def test_the_question_says_that_one_would_be_signed_out(admin, mint, see):
    other = mint()["id"]

    assert "signed out" in see(admin, f"{TOKENS}/1/revoke").text()
    assert "signed out" not in see(admin, f"{TOKENS}/{other}/revoke").text()


@SQLITE
def test_all_other_tokens_are_revoked_after_a_question(admin, mint, see):
    mint(), mint()
    (link,) = [one for one in see(admin, TOKENS).css("a") if "all but yours" in one.text()]

    question = see(admin, link.attributes["href"])
    admin.post(question.css_first("form.action").attributes["action"])

    assert names(see(admin, TOKENS)) == ["token 1yours"]


@SQLITE
def test_a_token_that_is_not_there_is_said_so(admin, see):
    assert "there is no live token 7" in see(admin, f"{TOKENS}/7/revoke", 404).text()
    assert admin.post(f"{TOKENS}/7/revoke").status_code == 404


@SQLITE
def test_tokens_are_listed_by_pages(admin, mint, see):
    mint(name="second"), mint(name="third")

    first = see(admin, f"{TOKENS}?limit=2")
    rest = see(admin, first.css_first("a[rel=next]").attributes["href"])

    assert names(first) == ["token 1yours", "second"]
    assert names(rest) == ["third"]


@SQLITE
@pytest.mark.parametrize("scope", ["read", "operate"])
def test_nobody_but_an_admin_sees_who_has_access(app, browser, see, scope):
    mine = browser(scope)
    rules = [rule for rule in app.url_map.iter_rules() if "dashboard.access" in rule.endpoint]

    for rule in rules:
        path = rule.build(dict.fromkeys(rule.arguments, 1), append_unknown=False)[1]
        method = "GET" if "GET" in rule.methods else "POST"
        assert mine.open(path, method=method).status_code == 403, path
    assert "Access" not in see(mine, "/now").css_first("nav").text()


@SQLITE
def test_access_leads_to_the_tokens(admin, see):
    link = next(one for one in see(admin, "/now").css("nav a") if one.text() == "Access")

    answer = admin.get(link.attributes["href"], follow_redirects=True)

    assert answer.request.path == TOKENS
    assert LexborHTMLParser(answer.text).css_first("nav [aria-current]").text() == "Access"


@SQLITE
def test_a_form_of_another_site_mints_and_revokes_nothing(admin, see):
    for path in (TOKENS, f"{TOKENS}/1/revoke", f"{TOKENS}/revoke-others"):
        headers = {"Origin": "https://evil.example"}
        assert admin.post(path, data={"newest": "1"}, headers=headers).status_code == 403

    assert names(see(admin, TOKENS)) == ["token 1yours"]
