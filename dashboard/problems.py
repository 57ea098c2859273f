"""The page of what went wrong: the same title, detail and hint that the API tells."""

from flask import Response, g, render_template, request
from werkzeug.wrappers import Response as WerkzeugResponse

from dashboard import rendering, sessions
from errors import ApiError, SignInNeeded


def show(error: ApiError) -> WerkzeugResponse:
    """Send an error as a page; as a fragment where htmx asks; the form where nobody is signed in.

    No query is needed for it: the database may be what is away.
    """
    if isinstance(error, SignInNeeded):
        return sessions.ask(error)
    values = {"error": error, "request_id": g.request_id}
    if "HX-Request" in request.headers:
        text = render_template("problem_part.html", **values)
        response = Response(text, error.status, content_type=rendering.HTML)
    else:
        response = rendering.bare_page("problem.html", error.status, **values)
    response.headers.extend(error.headers())
    return response
