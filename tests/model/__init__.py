"""Explicit-state models of ownership and of both journals' protocols: README.md. `python -m tests.model` runs them."""
