"""The API document (OpenAPI 3.1), which api_docs.py sends and shows.

The document is made of the decorators and schemas that the routes work by. What these don't know is
added for all routes at once: who may call, the errors that all have in common, the parameters of
paths, headers, links from one operation to the next, and an example of everything.
"""

from collections import defaultdict
from collections.abc import Iterator
from functools import cached_property
from typing import Any

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from flask import Flask, current_app, jsonify
from flask_smorest.spec.plugins import FlaskPlugin
from marshmallow import class_registry

import auth
import errors
from api import Blueprint, headers, is_in_api
from config import VERSION
from errors import CONTENT_TYPE, EXAMPLE_TASK, ApiError
from fields import MACHINE_NAME_RULE, MAX_NAME_LENGTH, NAME_RULE, PROFILE_NAME_RULE
from models import Scope
from schemas import ProblemSchema

Part = dict[str, Any]

DESCRIPTION = """\
Installs software packages with Nix: register a name and a version, have Nix build or fetch it in
the background, activate it in a profile, roll back.

**Tokens.** All of `/api/v1` wants `Authorization: Bearer SECRET`, or `Token SECRET`. A token has a
scope: `read`, `operate` (which may change packages, tasks and profiles) or `admin` (tokens and
events too). A machine's is `sync`: it may read profiles and the binary cache, and report what the
machine holds. In development, the first token needs none: `POST /api/v1/tokens`.

**Problems.** Every answer but a success is a problem document (RFC 9457), of the media type
`application/problem+json`. Unknown query parameters and unknown fields are errors, and so is a body
that is no JSON; where none is taken, `{}` is the only one that is accepted. A method that a
path doesn't have is answered by 405, with the header `Allow`. `HEAD` works wherever `GET` does, and
`OPTIONS` everywhere. Malformed HTTP is answered by 400, and too long a header by 431.

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

# The headers of answers: what each is, and an example.
HEADERS = {
    "ETag": ("Stands for this state, in If-None-Match and If-Match.", '"1.7.0"'),
    "Link": (
        "The next page, if there is one (RFC 8288).",
        '</api/v1/packages?after=7>; rel="next"',
    ),
    "Location": ("Where the new package is, or what was asked for.", "/api/v1/package/1"),
    "Retry-After": ("Try again after this many seconds.", 2),
    "WWW-Authenticate": ("How to say who you are.", 'Bearer realm="pkgd", Token realm="pkgd"'),
    "X-Next-Offset": ("The `offset` of what isn't written yet.", 8192),
    "X-Request-ID": ("The id of the request.", EXAMPLE_TASK),
    "X-Token-Expires": ("When the token expires, if that is soon.", "2024-05-05T10:30:00.000Z"),
    "X-Total-Count": ("How many there are on all pages.", 250),
}
ERROR_HEADERS = {401: ["WWW-Authenticate"], 429: ["Retry-After"], 503: ["Retry-After"]}

# The parameters of paths: what each is, an example, and rules that URL converters don't have.
PARAMETERS: dict[str, tuple[str, Any, Part]] = {
    "machine_name": ("The name of a machine.", "web-1.example.org", {"pattern": MACHINE_NAME_RULE}),
    "name": ("A name.", "hello", {"pattern": NAME_RULE, "maxLength": MAX_NAME_LENGTH}),
    "number": ("The number of a generation.", 3, {}),
    "package_id": ("The id of a package.", 1, {}),
    "profile_name": ("The name of a profile.", "staging", {"pattern": PROFILE_NAME_RULE}),
    "task_id": (
        "The id of a task, or its first digits: 4 or more, with or without hyphens.",
        EXAMPLE_TASK,
        {"pattern": "^[0-9A-Fa-f]{4}[0-9A-Fa-f-]{0,32}$"},
    ),
    "token_id": ("The id of a token.", 2, {}),
    "webhook_id": ("The id of a webhook.", 1, {}),
}

# For an operation that succeeds: a parameter, where to find its value, and the next operation.
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
    "profiles_apply": [
        ("task_id", "$response.body#/task_id", "tasks_show"),
        ("task_id", "$response.body#/task_id", "tasks_cancel"),
        ("profile_name", "$request.path.profile_name", "profiles_show"),
    ],
    "machines_index": [("machine_name", "$response.body#/0/name", "machines_show")],
    "machines_report": [
        ("machine_name", "$request.path.machine_name", "machines_show"),
        ("profile_name", "$response.body#/profile", "profiles_show"),
    ],
    "generations_index": [("number", "$response.body#/0/number", "generations_activate")],
    "tokens_create": [("token_id", "$response.body#/id", "tokens_revoke")],
    "webhooks_create": [
        ("webhook_id", "$response.body#/id", "webhooks_test"),
        ("webhook_id", "$response.body#/id", "webhooks_show"),
    ],
}


class ApiDocument:
    """The API document of the current application, made when it is first asked for."""

    @cached_property
    def text(self) -> str:
        """The document as JSON text."""
        return as_text(self._document)

    def below(self, prefix: str) -> str:
        """Return the text for clients that reach the service below a prefix, or "" for none."""
        if not prefix:
            return self.text
        # Not kept: where a proxy passes the header on, clients could fill the memory.
        return as_text(self._document | {"servers": [server(prefix)]})

    @cached_property
    def _document(self) -> Part:
        return build(current_app)


def as_text(document: Part) -> str:
    """Return the document in the form of all JSON that the service sends."""
    return jsonify(document).get_data(as_text=True)


def server(url: str) -> Part:
    """Return an entry of the document's list of servers."""
    return {"url": url, "description": "This server"}


class Conventions:
    """What flask-smorest asks about the API as a whole."""

    DEFAULT_ERROR_RESPONSE_NAME = None
    DEFAULT_RESPONSE_CONTENT_TYPE = "application/json"


def build(app: Flask) -> Part:
    """Return the document of all the routes of `app`."""
    document = collect(app)
    for endpoint, method, operation in operations(app, document):
        operation["operationId"] = endpoint.replace(".", "_")
        operation["summary"] = operation["summary"].rstrip(".")
        add_security(operation, endpoint, method)
        add_errors(operation, endpoint, method)
        add_links(operation)
    for path in document["paths"].values():
        for parameter in path.get("parameters", []):
            add_words(parameter)

    documented = errors.documented()
    document["components"] |= {
        "examples": {code: problem(error) for code, error in documented.items()},
        "headers": {name: header(*facts) for name, facts in HEADERS.items()},
        "responses": {code: error_answer(error) for code, error in documented.items()},
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
        servers=[server("/")],
    )
    spec.components.schema("Problem", schema=ProblemSchema)
    for blueprint in [one for one in app.blueprints.values() if isinstance(one, Blueprint)]:
        name = blueprint.name
        spec.tag({"name": name, "description": blueprint.description})
        blueprint.register_views_in_doc(Conventions, app, spec, name=name, parameters=None)

    document: Part = spec.to_dict()
    package = document["components"]["schemas"]["PackageIn"]["properties"]
    package["name"]["maxLength"] = app.config["NAME_LENGTH"]
    for name, schema in document["components"]["schemas"].items():
        schema["description"] = class_registry.get_class(f"{name}Schema").__doc__
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
    or_sync = " or `sync`" if auth.is_for_machines(endpoint, method) else ""
    said = f"Needs a token of scope `{auth.required_scope(endpoint, method)}`{or_sync}."
    operation["description"] = f"{operation.get('description', '')}\n\n{said}".strip()


def add_errors(operation: Part, endpoint: str, method: str) -> None:
    """Tell which errors the route may answer with: its own, and those of all routes of its kind.

    The headers that all answers have are added, too.
    """
    possible: list[type[ApiError]] = operation.pop("errors", [])
    own = ["X-Request-ID"]
    if endpoint not in auth.OPEN_ENDPOINTS:
        own += ["X-Token-Expires"]
        possible += [errors.Unauthorized, errors.TooManyFailures, errors.DatabaseUnavailable]
        possible += [errors.ReadOnly] * (auth.required_scope(endpoint, method) != Scope.READ)
        possible += [errors.ScopeTooSmall] * (not auth.is_for_machines(endpoint, method))
    if "requestBody" in operation:
        possible += [errors.InvalidJson, errors.LengthRequired]
        possible += [errors.BodyTooLarge, errors.BodyNotJson]
    if is_in_api(endpoint):
        possible += [errors.InvalidInput]
    # flask-smorest notes a 422 by itself where a route has arguments.
    if operation["responses"].pop("422", None):
        possible += [errors.UrlTooLong] * ("requestBody" not in operation)

    by_status = defaultdict(list)
    for error in possible:
        by_status[error.status].append(error)
    for response in operation["responses"].values():
        response["headers"] = headers(*own) | response.get("headers", {})
    for status, same in sorted(by_status.items()):
        known = {"$ref": f"#/components/responses/{same[0].code}"}
        operation["responses"][str(status)] = known if len(same) == 1 else error_answer(*same)


def error_answer(*same: type[ApiError]) -> Part:
    """Return the answer for errors of one status, with an example of each."""
    status = same[0].status
    examples = {error.code: {"$ref": f"#/components/examples/{error.code}"} for error in same}
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        "description": f"{same[0].title}: {', '.join(examples)}",
        "headers": headers("X-Request-ID", *ERROR_HEADERS.get(status, [])),
        "content": {CONTENT_TYPE: {"schema": schema, "examples": examples}},
    }


def problem(error: type[ApiError]) -> Part:
    """Return an error's example: what it means, what to do, and its problem document."""
    return {
        "summary": error.__doc__,
        "description": error.hint,
        "value": error(**error.example).document(EXAMPLE_TASK),
    }


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
    """Describe a parameter of a path."""
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
