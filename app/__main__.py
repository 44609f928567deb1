"""`python -m app`: serves the model in a folder."""

import sys

from app.server import run
from app.settings import SettingsError, read


def main() -> None:
    """Read the settings and serve."""
    try:
        settings = read(sys.argv[1:])
    except SettingsError as error:
        sys.exit(f"python -m app: {error}")
    run(settings)


if __name__ == "__main__":
    main()
