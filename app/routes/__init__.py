"""HTTP: one blueprint per surface."""
