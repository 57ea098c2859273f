"""What goes out of the binary cache's route, in JSON."""

from marshmallow import fields

from fields import OutputSchema, always, nullable

URL = "https://pkgd.example.org/cache"
KEY = "pkgd.example.org-1:uKuqWTsnRaK7x4oekJfLGr3HAWZDHW383KUXmk4z1DI="


class CacheSchema(OutputSchema):
    """How a machine uses the binary cache."""

    url = fields.String(**always("Where it is, for Nix.", URL))
    public_key = fields.String(**always("Whose signatures to trust.", KEY))
    nix_conf = fields.String(
        **always(
            "Lines for nix.conf.",
            f"extra-substituters = {URL}\nextra-trusted-public-keys = {KEY}\n"
            "netrc-file = /etc/nix/netrc\n",
        )
    )
    netrc = fields.String(
        **nullable(
            "A line for the netrc file, with a token's secret in place of TOKEN; null for a cache "
            "that has logins of its own.",
            "machine pkgd.example.org login token-2 password TOKEN\n",
        )
    )
