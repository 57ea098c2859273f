"""The API document (OpenAPI 3.1), made of the decorators and the schemas that the routes serve by.

What those don't tell is added here for all routes at once: who may call them, the ways to refuse
that they have in common, what is in URLs and headers, what leads where, an example of everything.
"""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from flask import Flask
from flask_smorest.spec.plugins import FlaskPlugin
from werkzeug.http import HTTP_STATUS_CODES

import auth
import schemas
from blueprints import REFUSALS, Blueprint, headers
from models import Scope
from problems import CONTENT_TYPE
from schemas import NAME_LENGTH, NAME_RULE, TASK_ID
from version import VERSION

Part = dict[str, Any]

DESCRIPTION = """\
Takes a software package from a name and a version to something that runs: register it, have Nix
build or fetch it in the background, activate it in a profile, roll back.

**Tokens.** All of `/api/v1` wants `Authorization: Bearer SECRET`, or `Token SECRET`. A token has a
scope: `read`, `operate` (which may change packages, tasks and the profile) or `admin` (tokens too).
In development, the first token needs none: `POST /api/v1/tokens`.

**Problems.** Whatever isn't a success is a problem document (RFC 9457), `application/problem+json`.
Unknown query parameters and unknown fields are errors. A method that a path doesn't have is
answered by 405, with the header `Allow`. `HEAD` goes wherever `GET` does, `OPTIONS` everywhere.
What is no proper HTTP is answered by 400, too long a header by 431.

**Lists** come in pages, with the header `Link` to the next one.

**Requests** have an id, in the header `X-Request-ID` of each answer: your own, if you send one of
up to 64 letters, digits, `-` and `_`.
"""

SECURITY = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "A token's secret: `pkgd_…`"},
    "token": {
        "type": "apiKey",
        "in": "header",
        "name": "Authorization",
        "description": "The word Token and a token's secret: `Token pkgd_…`",
    },
}

# what each is, and an example
HEADERS = {
    "Link": (
        "The next page, if there is one (RFC 8288).",
        '</api/v1/packages?after=7>; rel="next"',
    ),
    "Location": ("Where the new package is.", "/api/v1/package/1"),
    "Retry-After": ("Try again after this many seconds.", 2),
    "WWW-Authenticate": ("How to say who you are.", 'Bearer realm="pkgd", Token realm="pkgd"'),
    "X-Next-Offset": ("The `offset` of what isn't written yet.", 8192),
    "X-Request-ID": ("The id of the request.", TASK_ID),
    "X-Total-Count": ("How many there are on all pages.", 250),
}
REFUSAL_HEADERS = {401: ["WWW-Authenticate"], 429: ["Retry-After"], 503: ["Retry-After"]}

# what a path has: what it is, an example, and what the URL's converter doesn't know of it
PARAMETERS: dict[str, tuple[str, Any, Part]] = {
    "name": ("A name.", "hello", {"pattern": NAME_RULE, "maxLength": NAME_LENGTH}),
    "number": ("The number of a generation.", 3, {}),
    "package_id": ("The id of a package.", 1, {}),
    "task_id": ("The id of a task.", TASK_ID, {}),
    "token_id": ("The id of a token.", 2, {}),
}

# where an operation's success leads: the parameter, what it is to be, and the next operation
LINKS = {
    "packages_index": [("package_id", "$response.body#/0/id", "packages_show")],
    "packages_create": [
        ("package_id", "$response.body#/id", "packages_show"),
        ("package_id", "$response.body#/id", "packages_download"),
        ("package_id", "$response.body#/id", "packages_activate"),
        ("package_id", "$response.body#/id", "packages_deactivate"),
        ("package_id", "$response.body#/id", "packages_forget"),
        ("name", "$response.body#/name", "catalog_show"),
    ],
    "packages_download": [
        ("task_id", "$response.body#/task_id", "tasks_show"),
        ("task_id", "$response.body#/task_id", "tasks_log"),
        ("task_id", "$response.body#/task_id", "tasks_cancel"),
        ("package_id", "$request.path.package_id", "packages_activate"),
    ],
    "packages_activate": [("package_id", "$request.path.package_id", "packages_deactivate")],
    "packages_deactivate": [("package_id", "$request.path.package_id", "packages_forget")],
    "tasks_index": [
        ("task_id", "$response.body#/0/id", "tasks_show"),
        ("task_id", "$response.body#/0/id", "tasks_log"),
    ],
    "tasks_cancel": [("task_id", "$request.path.task_id", "tasks_show")],
    "generations_index": [("number", "$response.body#/0/number", "generations_activate")],
    "tokens_create": [("token_id", "$response.body#/id", "tokens_revoke")],
}


class Conventions:
    """What flask-smorest wants to know of the whole API."""

    DEFAULT_ERROR_RESPONSE_NAME = None
    DEFAULT_RESPONSE_CONTENT_TYPE = "application/json"


def build(app: Flask) -> Part:
    """Return the document of all the routes of `app`."""
    document = collect(app)
    for endpoint, method, operation in operations(app, document):
        operation["operationId"] = endpoint.replace(".", "_")
        operation["summary"] = operation["summary"].rstrip(".")
        add_security(operation, endpoint, method)
        add_refusals(operation, endpoint, method)
        add_links(operation)
    for path in document["paths"].values():
        for parameter in path.get("parameters", []):
            add_words(parameter)
    document["components"] |= {
        "examples": {kind: {"value": problem(kind)} for kind in REFUSALS},
        "headers": {name: header(*said) for name, said in HEADERS.items()},
        "responses": {kind: refusal(kind) for kind in REFUSALS},
        "securitySchemes": SECURITY,
    }
    add_examples(document["paths"], document["components"]["schemas"])
    return document


def collect(app: Flask) -> Part:
    """Return what the decorators and the schemas tell."""
    spec = APISpec(
        title="pkgd",
        version=VERSION,
        openapi_version="3.1.0",
        plugins=[FlaskPlugin(), MarshmallowPlugin()],
        info={"description": DESCRIPTION, "license": {"name": "MIT", "identifier": "MIT"}},
        servers=[{"url": "/", "description": "This server"}],
    )
    spec.components.schema("Problem", schema=schemas.ProblemSchema)
    for blueprint in [one for one in app.blueprints.values() if isinstance(one, Blueprint)]:
        name = blueprint.name
        spec.tag({"name": name, "description": blueprint.description})
        blueprint.register_views_in_doc(Conventions, app, spec, name=name, parameters=None)

    document: Part = spec.to_dict()
    for name, schema in document["components"]["schemas"].items():
        schema["description"] = getattr(schemas, f"{name}Schema").__doc__
    return document


def operations(app: Flask, document: Part) -> Iterator[tuple[str, str, Part]]:
    """Yield each operation of the document, with its endpoint and its method."""
    for rule in app.url_map.iter_rules():
        path = document["paths"].get(FlaskPlugin.flaskpath2openapi(rule.rule), {})
        for method in rule.methods or ():
            if method.lower() in path:
                yield rule.endpoint, method, path[method.lower()]


def add_security(operation: Part, endpoint: str, method: str) -> None:
    """Tell who may call."""
    if endpoint in auth.OPEN_ENDPOINTS:
        operation["security"] = []
        return
    operation["security"] = [{scheme: []} for scheme in SECURITY]
    said = f"Needs a token of scope `{scope(endpoint, method)}`."
    operation["description"] = f"{operation.get('description', '')}\n\n{said}".strip()


def scope(endpoint: str, method: str) -> Scope:
    """Return the scope that a token needs."""
    return auth.required_scope(endpoint.partition(".")[0], method)


def add_refusals(operation: Part, endpoint: str, method: str) -> None:
    """Tell in which ways the route may refuse: its own, and those that come with what it is."""
    kinds = operation.pop("refusals", [])
    if endpoint not in auth.OPEN_ENDPOINTS:
        kinds += ["no-token", "too-many-failures", "database-unavailable"]
        kinds += ["small-scope"] * (scope(endpoint, method) != Scope.READ)
    if "requestBody" in operation:
        kinds += ["no-json", "no-length", "large-body", "other-body"]
    # flask-smorest notes the status by itself where there are arguments
    if operation["responses"].pop("422", None):
        kinds += ["invalid"] if "requestBody" in operation else ["invalid", "long-url"]

    by_status = defaultdict(list)
    for kind in kinds:
        by_status[REFUSALS[kind].status].append(kind)
    for response in operation["responses"].values():
        response["headers"] = headers("X-Request-ID") | response.get("headers", {})
    for status, same in sorted(by_status.items()):
        known = {"$ref": f"#/components/responses/{same[0]}"}
        operation["responses"][str(status)] = known if len(same) == 1 else refusal(*same)


def refusal(*kinds: str) -> Part:
    """Return an answer with an example for each kind of problem that it may be."""
    status = REFUSALS[kinds[0]].status
    examples = {kind: {"$ref": f"#/components/examples/{kind}"} for kind in kinds}
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        "description": f"{HTTP_STATUS_CODES[status]}: {', '.join(kinds)}",
        "headers": headers("X-Request-ID", *REFUSAL_HEADERS.get(status, [])),
        "content": {CONTENT_TYPE: {"schema": schema, "examples": examples}},
    }


def problem(kind: str) -> Part:
    """Return an example of a problem document."""
    said = REFUSALS[kind]
    document = {
        "type": f"urn:pkgd:problem:{kind}" if said.has_kind else "about:blank",
        "title": HTTP_STATUS_CODES[said.status],
        "status": said.status,
        "detail": said.detail,
        "instance": TASK_ID,
    }
    more = {"errors": said.errors, "near": said.near}
    return document | {name: value for name, value in more.items() if value is not None}


def header(description: str, example: Any) -> Part:
    """Return a header, whose type is its example's."""
    kind = "integer" if isinstance(example, int) else "string"
    return {"description": description, "schema": {"type": kind}, "example": example}


def add_links(operation: Part) -> None:
    """Tell where a success leads."""
    for parameter, place, target in LINKS.get(operation["operationId"], []):
        for status, response in operation["responses"].items():
            if int(status) < 400:
                link = {"operationId": target, "parameters": {parameter: place}}
                response.setdefault("links", {})[target] = link


def add_words(parameter: Part) -> None:
    """Tell what a part of a path is."""
    parameter["description"], parameter["example"], rules = PARAMETERS[parameter["name"]]
    parameter["schema"] |= rules


def add_examples(part: Any, known: Part) -> None:
    """Give everything that has a schema an example, made of those of the fields.

    Not the parts of a query, which are optional: Swagger UI would fill them all in.
    """
    if isinstance(part, list):
        for one in part:
            add_examples(one, known)
    elif isinstance(part, dict):
        if "schema" in part and not part.keys() & {"example", "examples", "in"}:
            part["example"] = example(part["schema"], known)
        for one in part.values():
            add_examples(one, known)


def example(schema: Part, known: Part) -> Any:
    """Return an example of what a schema describes; `known` are those that it may refer to."""
    if "examples" in schema:
        return schema["examples"][0]
    if "$ref" in schema:
        return example(known[schema["$ref"].rpartition("/")[2]], known)
    if "anyOf" in schema:
        return example(schema["anyOf"][0], known)
    if schema["type"] == "array":
        return [example(schema["items"], known)]
    return {name: example(one, known) for name, one in schema.get("properties", {}).items()}
