"""`phi3 serve` and `phi3 bake`."""

import sys

from phi3 import bake, serve

USAGE = """\
usage: phi3 serve [MODEL] [--port N] [FLAG...]
       phi3 bake MODEL DESTINATION [--runtime IMAGE] [--plain-http]

serve  serves a model over HTTP; it downloads or creates the model first if needed
bake   makes an image of the server with a model's weights, and prints its name and digest

`phi3 serve --help` and `phi3 bake --help` list the flags.
"""
COMMANDS = {"serve": serve.main, "bake": bake.main}


def main() -> None:
    """Run the command named on the command line."""
    name, *arguments = sys.argv[1:] or [""]
    if name in ("-h", "--help"):
        print(USAGE, end="")
    elif name not in COMMANDS:
        print(f"{USAGE}\nphi3: unknown command {name!r}: choose serve or bake", file=sys.stderr)
        sys.exit(2)
    else:
        try:
            COMMANDS[name](arguments)
        except KeyboardInterrupt:
            sys.exit(130)


if __name__ == "__main__":
    main()
