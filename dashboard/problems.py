"""The page of what went wrong: the same title, detail and hint that the API tells."""

from flask import Response, g, render_template, request
from werkzeug.wrappers import Response as WerkzeugResponse

from dashboard import rendering, sessions
from errors import ApiError, SignInNeeded

OWN_FAULT = 500


def show(error: ApiError) -> WerkzeugResponse:
    """Send an error as a page; as a fragment where htmx asks; the form where nobody is signed in.

    For a fault of the service it asks nothing of the database, which may be what is away.
    """
    if isinstance(error, SignInNeeded):
        return sessions.ask(error)
    values = {"error": error, "request_id": g.request_id}
    if "HX-Request" in request.headers:
        text = render_template("problem_part.html", **values)
        response = Response(text, error.status, content_type=rendering.HTML)
    elif error.status < OWN_FAULT and g.get("caller"):
        response = rendering.page("problem.html", status=error.status, **values)
    else:
        response = rendering.bare_page("problem.html", error.status, **values)
    response.headers.extend(error.headers())
    return response
