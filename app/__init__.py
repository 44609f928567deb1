"""Serves a Phi-3 model over HTTP: Flask under gunicorn, one process per model."""

__version__ = "0.1.0"
