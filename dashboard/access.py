"""Access: who may do what, who is told, and what was done; for admins."""

from flask import Blueprint, redirect, url_for
from werkzeug.wrappers import Response

from dashboard import events, tokens, webhooks
from dashboard.rendering import Entry

pages = Blueprint("access", __name__)
entry = Entry("Access", "dashboard.access.index")

MODULES = (tokens, webhooks, events)  # in the order of the tabs
TABS = [module.entry for module in MODULES]
for module in MODULES:
    pages.register_blueprint(module.pages)
pages.context_processor(lambda: {"tabs": TABS})


@pages.get("/access")
def index() -> Response:
    """Go on to the tokens."""
    return redirect(url_for("dashboard.access.tokens.index"), 303)
