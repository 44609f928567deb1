"""Where an image keeps its weights."""

MODELS_DIRECTORY = "models"
"""At the root of the image; each model's files lie in a subdirectory with its name."""


def model_path(model: str) -> str:
    """Return the absolute path of a model's files in its image."""
    return f"/{MODELS_DIRECTORY}/{model}"
