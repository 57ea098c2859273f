"""The binary cache: what is published in it, how it is served, and to whom."""
