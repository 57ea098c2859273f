"""The dashboard: pages for people, beside the API, signed in to with a token.

A page shows what routes of the API answer, by the same functions, and its buttons do what those
routes do. It works without JavaScript; app.js only asks anew for the parts that change.

To add a page:

1. A module dashboard/NOUN.py with `pages = flask.Blueprint("NOUN", __name__)`, and
   `entry = Entry("Title", "dashboard.NOUN.index")` for its place in the navigation; the entry's
   `is_shown` tells whether there is anything to show. Add the module to MODULES below.
2. A view gathers values by functions that the API's routes use, too, and returns
   `page("NOUN.html", **values)`. GET needs scope `read`, every other method `operate`, and a
   blueprint in auth.ADMIN_BLUEPRINTS `admin`. `may("operate")` tells a template what the caller's
   scope allows: leave out what it does not.
3. A template that extends base.html and fills the blocks `title` and `main`; macros.html has
   tables' parts, states, times, errors, buttons (`action`) and pagers. All that a template prints
   is escaped, and its control characters are made visible (rendering.visible): never use `|safe`.
4. What changes by itself is a `Fragment`: a function that returns `fragment(endpoint, template,
   gather, seconds=2, **arguments)`, a view of that endpoint that returns `send(that())`, and
   `{{ live(that) }}` in the page. What `gather` returns may depend on the arguments and on the
   caller's scope alone, since fragments are shared for a second. No relative time in it: the page
   makes `<time>` relative, so that what has not changed keeps its ETag.
5. A button is a form: `{{ action(url, "Roll back") }}`. Its view calls what the API's route calls,
   and returns `redirect(url_for(...), 303)`. An ApiError that it raises becomes a page by itself.
   Where a plan comes first, the button leads to a page (GET) that shows it, with the form.
"""

import flask

import auth
import services
from dashboard import (
    access,
    assets,
    catalogs,
    machines,
    now,
    offers,
    packages,
    profiles,
    rendering,
    sessions,
    tasks,
)
from dashboard.manifests import CHOOSING_AT_ONCE, ChoosingSlots
from dashboard.rendering import Fragments, Navigation

# In the order of the navigation.
MODULES = (now, packages, profiles, machines, catalogs, access)
OTHERS = (assets, offers, sessions, tasks)  # without a place in it

blueprint = flask.Blueprint(auth.DASHBOARD, __name__, template_folder="templates")
blueprint.before_request(sessions.check_origin)
blueprint.after_request(rendering.restrict)
for module in (*MODULES, *OTHERS):
    blueprint.register_blueprint(module.pages)


def init_app(app: flask.Flask) -> None:
    """Attach what the pages need to the application."""
    services.add(app, auth.Gate(sessions.caller))
    services.add(app, Fragments())
    services.add(app, ChoosingSlots(CHOOSING_AT_ONCE))
    services.add(app, Navigation([module.entry for module in MODULES]))
    rendering.init_app(app)
