"""Run a Kubernetes cluster on this machine: the command line behind scripts/cluster."""

import argparse
import shlex
import subprocess
import sys

from devcluster import lifecycle
from devcluster.layout import verb


def main() -> None:
    """Run the subcommand named on the command line."""
    parser = argparse.ArgumentParser(prog=verb.name, description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="up | down | env")
    commands.add_parser("up", help="start the cluster, unless it is running").add_argument(
        "--nodes", type=int, choices=(1, 2), default=1, help="number of real nodes (default: 1)"
    )
    commands.add_parser("down", help="stop the cluster")
    commands.add_parser("env", help='print the variables to export: eval "$(scripts/cluster env)"')
    arguments = parser.parse_args()
    try:
        if arguments.command == "up":
            lifecycle.up(arguments.nodes)
        elif arguments.command == "down":
            lifecycle.down()
        else:
            for name, value in lifecycle.environment().items():
                print(f"export {name}={shlex.quote(value)}")
    except subprocess.CalledProcessError as error:  # a script that printed its own message
        sys.exit(error.returncode)


if __name__ == "__main__":
    verb.main(main)
