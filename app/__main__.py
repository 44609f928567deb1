"""`python -m app`: serve the model in a directory."""

import sys

from app.exceptions import KeysError, SettingsError
from app.server import run_server
from app.settings import read_settings


def main() -> None:
    """Read the settings and serve."""
    try:
        run_server(read_settings(sys.argv[1:]))
    except (SettingsError, KeysError) as error:
        sys.exit(f"python -m app: {error}")


if __name__ == "__main__":
    main()
