"""Chooses each sequence's next token from logits."""
