"""Which pkgd this is."""

VERSION = "1.0.0"
BUILD = "20261122"
