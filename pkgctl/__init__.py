"""pkgctl: the command-line client of pkgd, for people, scripts and pipes."""
