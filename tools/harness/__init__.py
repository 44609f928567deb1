"""Real servers and registries that tests and benchmarks run against."""
