"""Loads the model and starts the engine."""
