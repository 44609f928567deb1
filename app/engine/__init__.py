"""Turns validated requests into tokens; knows nothing of HTTP."""
