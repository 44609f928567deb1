"""The model server and the loaded engine of the current request."""

from flask import Flask, current_app, g

from app.model_server import LoadedEngine, ModelServer

_EXTENSION = "phi3"


def attach_model_server(app: Flask, model_server: ModelServer) -> None:
    """Make `model_server` available to all requests of `app`."""
    app.extensions[_EXTENSION] = model_server


def model_server() -> ModelServer:
    """Return the model server of the current application."""
    server: ModelServer = current_app.extensions[_EXTENSION]
    return server


def loaded_engine() -> LoadedEngine:
    """Return the loaded engine, which stays the same for the whole request.

    Raises:
        NotReadyError: the model is loading, or the server is shutting down.
    """
    if "loaded_engine" not in g:
        g.loaded_engine = model_server().ready()
    engine: LoadedEngine = g.loaded_engine
    return engine
