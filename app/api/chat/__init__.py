"""KAITO's `/chat`."""
