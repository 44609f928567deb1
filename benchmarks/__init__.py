"""Benchmarks, which `scripts/bench` runs."""
