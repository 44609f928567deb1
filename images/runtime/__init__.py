"""Builds and inspects the runtime image, which holds the server and its dependencies without weights."""
