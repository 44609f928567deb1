"""Turns the engine's token stream into text."""
