"""The API document: it is valid, tells of everything, and its pages come from the service alone."""

import re

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

import docs
from blueprints import REFUSALS

PARAMETER = re.compile(r"<(?:\w+:)?(\w+)>")


@pytest.fixture
def document(anonymous):
    """The document as it is served, to anybody."""
    answer = anonymous.get("/openapi.json")
    assert answer.status_code == 200
    return answer.json


def operations(document):
    """Return every operation by its method and path."""
    return {
        (method.upper(), path): operation
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if method != "parameters"
    }


def test_the_document_is_valid(document):
    assert document["openapi"] == "3.1.0"
    assert list(OpenAPIV31SpecValidator(document).iter_errors()) == []


def test_every_route_is_in_the_document(app, document):
    routes = {
        (method, PARAMETER.sub(r"{\1}", rule.rule))
        for rule in app.url_map.iter_rules()
        for method in rule.methods - {"HEAD", "OPTIONS"}
        if rule.endpoint != "docs.asset"
    }

    assert set(operations(document)) == routes


def test_every_operation_tells_what_it_is_and_who_may_call(document):
    ids = set()
    for operation in operations(document).values():
        ids.add(operation["operationId"])
        assert operation["summary"]
        assert operation["security"] in ([], [{"bearer": []}, {"token": []}])

    assert len(ids) == len(operations(document))


def test_everything_with_a_schema_has_an_example(document):
    def look(part, place):
        if isinstance(part, dict):
            if "schema" in part:
                assert (part | part["schema"]).keys() & {"example", "examples"}, place
            for name, one in part.items():
                look(one, f"{place}/{name}")
        elif isinstance(part, list):
            for one in part:
                look(one, place)

    look(document["paths"], "")


def test_every_kind_of_problem_is_told(document):
    assert set(document["components"]["responses"]) == set(REFUSALS)
    for kind, response in document["components"]["responses"].items():
        (media,) = response["content"]
        assert media == "application/problem+json", kind
        assert "X-Request-ID" in response["headers"]


def test_links_lead_to_operations_that_there_are(document):
    ids = {operation["operationId"] for operation in operations(document).values()}
    links = [
        link["operationId"]
        for operation in operations(document).values()
        for response in operation["responses"].values()
        for link in response.get("links", {}).values()
    ]

    assert "tasks_show" in links
    assert set(links) <= ids


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_a_page_loads_from_the_service_alone(anonymous, path):
    page = anonymous.get(path)

    assert page.status_code == 200
    assert page.headers["Content-Security-Policy"] == docs.POLICY
    assert "http" not in re.sub("http-equiv", "", page.text)
    for asset in re.findall(r'(?:src|href)="/?(docs/assets/[^"]+)"', page.text):
        assert anonymous.get(f"/{asset}").status_code == 200


@pytest.mark.parametrize("name", docs.ASSETS)
def test_an_asset_may_be_kept_for_a_day(anonymous, name):
    answer = anonymous.get(f"/docs/assets/{name}")

    assert answer.cache_control.max_age == docs.ASSETS_SECONDS
    again = anonymous.get(f"/docs/assets/{name}", headers={"If-None-Match": answer.headers["ETag"]})
    assert again.status_code == 304
    assert b"cdn.redoc.ly" not in answer.data


@pytest.mark.parametrize("name", ["app.py", "..%2fapp.py", "nothing.js"])
def test_no_other_file_is_sent(client, name):
    assert client.get(f"/docs/assets/{name}").status_code == 404


def test_the_document_is_made_once(anonymous):
    first, second = anonymous.get("/openapi.json"), anonymous.get("/openapi.json")

    assert first.data == second.data
    assert first.headers["ETag"] == second.headers["ETag"]
