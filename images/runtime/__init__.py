"""Builds and inspects the runtime image."""
