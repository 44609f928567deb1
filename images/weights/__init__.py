"""Streams weights from the hub into layers."""
