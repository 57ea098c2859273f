"""The API document, which must be valid, complete and true of the routes; and its pages."""

import re

import pytest
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import validate

import errors
import services
from app import create_app
from fields import NAME_RULE, VERSION_RULE
from openapi import ApiDocument
from schemas import PackageInSchema
from task_ends import error_codes

METHODS = {"get", "put", "post", "delete"}
PAGES = ("/docs", "/redoc")
# What Nix asks for, by a protocol of its own.
FILES = {"cache_files_info", "cache_files_nar", "cache_files_narinfo"}
ASSETS = ("redoc.js", "redocly.svg", "show-swagger-ui.js", "swagger-ui.css", "swagger-ui.js")


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    """The application; its document needs no database."""
    return create_app({"DATA_DIR": tmp_path_factory.mktemp("openapi")})


@pytest.fixture(scope="module")
def document(app):
    """The document, as the API serves it."""
    return app.test_client().get("/openapi.json").json


@pytest.fixture(scope="module")
def operations(document):
    """The operations by id, each with the parameters of its path."""
    return {
        operation["operationId"]: operation
        | {"parameters": path.get("parameters", []) + operation.get("parameters", [])}
        for path in document["paths"].values()
        for method, operation in path.items()
        if method in METHODS
    }


def resolved(document, part):
    """Return the part of the document that `part` refers to, or `part` itself."""
    for name in part.get("$ref", "").split("/")[1:]:
        document = document[name]
    return document if "$ref" in part else part


def answers(document, operation):
    """Return the answers of an operation, by status."""
    return {
        int(status): resolved(document, answer) for status, answer in operation["responses"].items()
    }


def examples(part):
    """Yield each example in a part of the document, with its schema."""
    if isinstance(part, list):
        for one in part:
            yield from examples(one)
    elif isinstance(part, dict):
        if "example" in part and "schema" in part:
            yield part["example"], part["schema"]
        for example in part.get("examples", ()) if "type" in part else ():
            yield example, part
        for one in part.values():
            yield from examples(one)


def conforms(document, value, schema):
    """Tell whether a value is valid under a schema of the document."""
    # The schema refers to the components.
    whole = schema | {"components": document["components"]}
    return OAS31Validator(whole, format_checker=OAS31Validator.FORMAT_CHECKER).is_valid(value)


def test_the_document_is_valid_openapi(document):
    assert document["openapi"] == "3.1.0"
    validate(document)


def test_every_route_is_in_the_document(app, operations):
    routes = {rule.endpoint.replace(".", "_") for rule in app.url_map.iter_rules()}
    routes = {route for route in routes if not route.startswith("dashboard_")}

    assert routes - operations.keys() - FILES == {"docs_asset"}
    assert operations.keys() <= routes


def test_every_operation_has_a_summary_and_a_tag(operations):
    assert all(operation["summary"] and operation["tags"] for operation in operations.values())


def test_every_parameter_has_a_description_and_an_example(operations):
    parameters = [one for operation in operations.values() for one in operation["parameters"]]

    assert all(one["description"] for one in parameters)
    assert all("example" in one or one["schema"]["examples"] for one in parameters)


def test_every_body_has_an_example_and_a_schema(document, operations):
    bodies = [
        operation["requestBody"] for operation in operations.values() if "requestBody" in operation
    ]
    bodies += [
        answer
        for operation in operations.values()
        for status, answer in answers(document, operation).items()
        if status != 304  # which has no body
    ]

    contents = [content for body in bodies for content in body["content"].values()]
    assert all(content["schema"] for content in contents)
    assert all(content.keys() & {"example", "examples"} for content in contents)


def test_every_example_is_valid_under_its_schema(document):
    found = list(examples(document))
    problem = document["components"]["schemas"]["Problem"]
    found += [(one["value"], problem) for one in document["components"]["examples"].values()]

    assert len(found) > 150
    assert [example for example, schema in found if not conforms(document, example, schema)] == []


def test_every_answer_documents_the_request_id(document, operations):
    for operation in operations.values():
        for answer in answers(document, operation).values():
            assert "X-Request-ID" in answer["headers"]


def test_every_success_with_a_token_documents_that_the_token_expires(document, operations):
    for operation in operations.values():
        for status, answer in answers(document, operation).items():
            if status < 300:
                assert ("X-Token-Expires" in answer["headers"]) == bool(operation["security"])


def test_every_error_is_a_problem_document(document, operations):
    for operation in operations.values():
        refusals = [one for status, one in answers(document, operation).items() if status >= 400]
        assert all(one["content"].keys() == {"application/problem+json"} for one in refusals)


@pytest.mark.parametrize(
    ("operation", "header"),
    [
        ("packages_create", "Location"),
        ("packages_index", "Link"),
        ("packages_index", "X-Total-Count"),
        ("tasks_log", "X-Next-Offset"),
        ("tasks_show", "Retry-After"),
    ],
)
def test_the_headers_of_a_success_are_documented(document, operations, operation, header):
    success = min(answers(document, operations[operation]))

    assert header in operations[operation]["responses"][str(success)]["headers"]


@pytest.mark.parametrize(
    ("status", "header"), [(401, "WWW-Authenticate"), (429, "Retry-After"), (503, "Retry-After")]
)
def test_the_headers_of_an_error_are_documented(document, operations, status, header):
    assert header in answers(document, operations["packages_create"])[status]["headers"]


def test_every_error_has_an_example_with_its_meaning_and_a_hint(document):
    examples = document["components"]["examples"]

    assert examples.keys() == errors.documented().keys()
    assert all(one["summary"] and one["description"] for one in examples.values())


def test_every_code_of_a_failed_task_is_documented(document):
    documented = document["components"]["schemas"]["TaskError"]["properties"]["code"]["description"]

    assert {code for code in error_codes() if f"`{code}`" in documented} == error_codes().keys()


@pytest.mark.parametrize(
    ("operation", "scope"),
    [("packages_index", "read"), ("packages_create", "operate"), ("tokens_index", "admin")],
)
def test_the_required_scope_is_documented(operations, operation, scope):
    assert f"scope `{scope}`" in operations[operation]["description"]
    assert operations[operation]["security"] == [{"bearer": []}, {"token": []}]


def test_the_operations_without_a_token_are_documented(operations):
    free = {name for name, operation in operations.items() if operation["security"] == []}

    assert free == {
        *("docs_openapi", "docs_redoc", "docs_swagger_ui"),
        *("health_hello", "health_index", "health_livez", "health_readyz"),
    }


def test_links_name_parameters_of_their_operations(document, operations):
    links = [
        link
        for operation in operations.values()
        for answer in answers(document, operation).values()
        for link in answer.get("links", {}).values()
    ]

    assert len(links) > 15
    for link in links:
        taken = {one["name"] for one in operations[link["operationId"]]["parameters"]}
        assert link["parameters"].keys() <= taken


@pytest.mark.parametrize(
    "name", ["hello", "a", "a" * 51, "_x", "1a", "a b", "a\n", "ab.c+d-e", "é" * 3]
)
def test_the_documented_rule_of_a_name_is_the_applied_one(app, name):
    documented = re.fullmatch(NAME_RULE.rstrip("$"), name) and 2 <= len(name) <= 50

    with app.app_context():
        assert bool(documented) == (
            PackageInSchema().validate({"name": name, "version": "1.0.0"}) == {}
        )


@pytest.mark.parametrize(
    "version",
    [
        *("1.2.3", "0.0.0", "1.2", "01.2.3", "1.2.3-", "1.2.3-rc.1", "1.2.3-01", "1.2.3-0a"),
        *("1.2.3+b", "1.2.3+", "1.2.3-a+b.0", "v1.2.3", "1.2.3\n", "1.2.3-é", "1.2.3-a..b"),
    ],
)
def test_the_documented_rule_of_a_version_is_the_applied_one(app, version):
    documented = re.fullmatch(VERSION_RULE.rstrip("$"), version)

    with app.app_context():
        assert bool(documented) == (
            PackageInSchema().validate({"name": "hello", "version": version}) == {}
        )


def test_the_documented_length_of_a_name_is_that_of_the_setting(make_app):
    document = make_app(NAME_LENGTH=100).test_client().get("/openapi.json").json

    name = document["components"]["schemas"]["PackageIn"]["properties"]["name"]
    assert (name["minLength"], name["maxLength"]) == (2, 100)


def test_the_document_is_built_once(tmp_path, monkeypatch):
    app = create_app({"DATA_DIR": tmp_path})
    first = app.test_client().get("/openapi.json")

    monkeypatch.setattr("openapi.build", None)
    second = app.test_client().get("/openapi.json")

    assert first.data == second.data == services.get(ApiDocument, app).text.encode()


def test_the_order_of_the_blueprints_changes_only_the_order_of_tags(document, tmp_path):
    app = create_app({"DATA_DIR": tmp_path})
    app.blueprints = dict(reversed(app.blueprints.items()))

    other = app.test_client().get("/openapi.json").json

    assert other.pop("tags") == document["tags"][::-1]
    assert other == {name: part for name, part in document.items() if name != "tags"}


@pytest.mark.parametrize("page", PAGES)
def test_a_page_needs_no_token(anonymous, page):
    answer = anonymous.get(page)

    assert (answer.status_code, answer.mimetype) == (200, "text/html")


@pytest.mark.parametrize("page", PAGES)
def test_a_page_may_load_scripts_from_the_service_alone(anonymous, page):
    policy = anonymous.get(page).headers["Content-Security-Policy"].split("; ")

    assert {"default-src 'none'", "script-src 'self'", "connect-src 'self'"} <= set(policy)


@pytest.mark.parametrize("name", ASSETS)
def test_an_asset_of_a_page_may_be_cached_for_a_day(anonymous, name):
    answer = anonymous.get(f"/docs/assets/{name}")

    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "max-age=86400"


def test_an_asset_that_the_browser_has_is_not_sent_again(anonymous):
    etag = anonymous.get("/docs/assets/swagger-ui.css").headers["ETag"]

    again = anonymous.get("/docs/assets/swagger-ui.css", headers={"If-None-Match": etag})

    assert (again.status_code, again.data) == (304, b"")


def test_the_logo_of_redoc_is_loaded_from_the_service(anonymous):
    script = anonymous.get("/docs/assets/redoc.js").data

    assert b"docs/assets/redocly.svg" in script
    assert b"https://cdn.redoc.ly" not in script


@pytest.mark.parametrize("name", ["scalar.js", "openapi.py", "swagger-ui.js.map", "..", "%2e%2e"])
def test_an_unknown_asset_is_not_found(anonymous, name):
    assert anonymous.get(f"/docs/assets/{name}").status_code == 404


@pytest.mark.parametrize("name", ["../openapi.py", "..%2fopenapi.py"])
def test_a_path_below_the_assets_is_an_unknown_url(anonymous, name):
    assert anonymous.get(f"/docs/assets/{name}").status_code == 401
