"""Retries, parallel work and progress."""
