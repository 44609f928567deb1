"""Runs the model's forward pass over a batch."""
