"""Where packages come from: the catalogs, pins among them, and indexes of what they offer."""
