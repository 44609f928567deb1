"""Reads and writes OCI registries and layouts."""
