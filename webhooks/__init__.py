"""Receivers of events: their registration, and the delivery of each event to each of them."""
