"""The HTTP APIs: KAITO's `/chat`, OpenAI's API, and the routes for operators."""
