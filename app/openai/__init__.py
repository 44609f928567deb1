"""OpenAI's API over the same engine."""
