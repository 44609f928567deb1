"""Packs a model's files into layers, and pushes them to a store."""
