"""Beam search, one request at a time."""
