"""`python -m app`: serves the model in a folder."""

import sys

from app.api.auth import KeysError
from app.server import run
from app.settings import SettingsError, read


def main() -> None:
    """Read the settings and serve."""
    try:
        run(read(sys.argv[1:]))
    except (SettingsError, KeysError) as error:
        sys.exit(f"python -m app: {error}")


if __name__ == "__main__":
    main()
