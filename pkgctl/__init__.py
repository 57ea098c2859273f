"""pkgctl: the command for people, robots and pipes that use a pkgd server, near or far."""
