"""Turn the engine's stream of tokens into text."""
