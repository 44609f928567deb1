"""Compare this server with others on the same weights, and write the results to docs/benchmarks.md.

The servers run one after another, in several rounds. Each client sends its next request when its last response is
complete. Every response is greedy and has the same number of tokens, so that all servers do the same work.
"""

import argparse
import itertools
import signal
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass

import httpx
import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from benchmarks.load import Load, run_load
from benchmarks.machine import describe_run
from benchmarks.page import PAGE, write_section
from benchmarks.peers import PEERS, ROOT, PeerError, running
from benchmarks.progress import log_progress

PLOT = ROOT / "docs/benchmarks/serving.svg"
WARM_UP_TOKENS = 8
QUANTILES = (0.5, 0.95)
DTYPES = ("float32", "bfloat16")

NOTES = """\
Each client sends its next request when its last response is complete. The servers run in turn, and start again in each
round. tokens/s is the median of the rounds, with the minimum and the maximum in parentheses. The other times are those
of all responses, as their clients observe them: `phi3` and `transformers serve` stream. `generate alone` is
transformers' `generate` without HTTP. `generate` is the same function behind HTTP, one request at a time, which is how
KAITO serves; it measures the first token itself. `transformers serve` runs with `--continuous-batching`, and with a
quarter of the memory for its cache instead of its default of more than half. Peak memory is the maximum of the summed
resident sets of a server's processes, which counts shared pages once for each process.

Each server has the environment that its users give it. `phi3` limits how long waiting torch threads spin
(`GOMP_SPINCOUNT=1000`); the other servers spin for milliseconds, which makes them several times slower when other
programs use the same cores. Set `GOMP_SPINCOUNT=1000` before the command to run all servers with this limit.
"""


@dataclass(frozen=True)
class Result:
    """Measurements of one server with a number of clients.

    Attributes:
        peer: name of the server.
        dtype: type of the weights.
        clients: concurrent clients.
        speeds: tokens per second of all clients together, in each round.
        first: seconds to the first token, (p50, p95).
        per_token: seconds for each further token, (p50, p95).
        errors: number of failed requests.
        memory: peak memory in bytes.
    """

    peer: str
    dtype: str
    clients: int
    speeds: list[float]
    first: list[float] | None
    per_token: list[float] | None
    errors: int
    memory: int


@dataclass(frozen=True)
class Failure:
    """A server without results, and the reason."""

    peer: str
    dtype: str
    reason: str


def quantiles(values: list[float | None]) -> list[float] | None:
    """Return the QUANTILES of the known values, or None if there are none."""
    known = [value for value in values if value is not None]
    return [float(value) for value in np.quantile(known, QUANTILES)] if known else None


def combine(name: str, dtype: str, clients: int, loads: list[Load]) -> Result:
    """Combine the rounds of one server."""
    timings = [timing for load in loads for timing in load.timings]
    return Result(
        name,
        dtype,
        clients,
        [load.speed for load in loads],
        quantiles([timing.first for timing in timings]),
        quantiles([timing.per_token for timing in timings]),
        sum(len(load.errors) for load in loads),
        max(load.memory for load in loads),
    )


def measure(arguments: argparse.Namespace) -> tuple[list[Result], list[Failure]]:
    """Measure the servers, dtypes and numbers of clients that the flags name."""
    loads: dict[tuple[str, str, int], list[Load]] = {}
    failures: list[Failure] = []
    for number, dtype, name in itertools.product(range(arguments.rounds), arguments.dtypes, arguments.peers):
        log_progress(f"round {number + 1} of {arguments.rounds}: starting {name}, {dtype}")
        peer = PEERS[name]
        try:
            with running(peer.command(dtype)) as server:
                for clients in sorted({min(clients, peer.max_clients) for clients in arguments.clients}):
                    run_load(peer, server, clients, 1, min(arguments.tokens, WARM_UP_TOKENS))
                    load = run_load(peer, server, clients, arguments.requests_per_client, arguments.tokens)
                    loads.setdefault((dtype, name, clients), []).append(load)
                    failed = f", {len(load.errors)} errors, the first: {load.errors[0]}" if load.errors else ""
                    log_progress(f"{name}, {dtype}, clients: {clients}: {load.speed:.1f} tokens/s{failed}")
        except (PeerError, httpx.HTTPError, OSError) as error:
            reason = str(error).replace(f"{ROOT}/", "")
            failures.append(Failure(name, dtype, reason))
            log_progress(f"FAILED: {name}, {dtype}: {reason}")
    return [combine(name, dtype, clients, rounds) for (dtype, name, clients), rounds in loads.items()], failures


def format_quantiles(times: list[float] | None, scale: float, digits: int) -> str:
    """Format p50 and p95."""
    return " / ".join(f"{scale * value:.{digits}f}" for value in times) if times else "-"


def results_table(results: list[Result], failures: list[Failure]) -> str:
    """Return the results in Markdown, failures first."""
    lines = [
        "| dtype | server | clients | tokens/s | time to first token, s (p50 / p95) "
        "| time per output token, ms (p50 / p95) | errors | peak memory, GB |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for failure in failures:
        reason = " ".join(failure.reason.split()).replace("|", "\\|")
        lines.append(f"| {failure.dtype} | {label(failure.peer)} | **FAILED: {reason}** | | | | | |")
    for result in results:
        cells = [
            result.dtype,
            label(result.peer),
            f"{result.clients}",
            format_speed(result.speeds),
            format_quantiles(result.first, 1, 2),
            format_quantiles(result.per_token, 1000, 0),
            f"**{result.errors}**" if result.errors else "0",
            f"{result.memory / 1e9:.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def format_speed(rounds: list[float]) -> str:
    """Format the median, the minimum and the maximum."""
    return f"{statistics.median(rounds):.1f} ({min(rounds):.1f} to {max(rounds):.1f})"


def label(peer: str) -> str:
    """Return the name of a server in the table."""
    return peer.replace("-", " ")


def draw_plot(results: list[Result]) -> None:
    """Plot tokens per second over clients, with a colour for each server and a line style for each dtype."""
    mpl.rcParams["svg.hashsalt"] = "serving"  # makes the file reproducible
    mpl.rcParams["svg.fonttype"] = "none"  # text stays text instead of glyph paths
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot(xlabel="clients", ylabel="tokens/s of all clients together", xscale="log")
    for (peer, dtype), group in itertools.groupby(results, lambda result: (result.peer, result.dtype)):
        points = list(group)
        axes.plot(
            [point.clients for point in points],
            [statistics.median(point.speeds) for point in points],
            color=f"C{list(PEERS).index(peer)}",
            linestyle="-" if dtype == "float32" else "--",
            marker="o" if dtype == "float32" else "s",
            label=f"{label(peer)}, {dtype}",
        )
    clients = sorted({result.clients for result in results})
    axes.set_xticks(clients, [f"{number}" for number in clients], minor=False)
    axes.set_xticks([], minor=True)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    if results:
        axes.legend()
    PLOT.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PLOT, metadata=dict.fromkeys(["Creator", "Date", "Format", "Type"]))


def positive(text: str) -> int:
    """Parse a positive integer."""
    if int(text) < 1:
        raise ValueError
    return int(text)


def numbers(text: str) -> list[int]:
    """Parse positive integers, separated by commas."""
    return [positive(number) for number in text.split(",")]


def names(allowed: tuple[str, ...]) -> Callable[[str], list[str]]:
    """Return a parser of names, separated by commas, out of those allowed."""

    def parse(text: str) -> list[str]:
        chosen = text.split(",")
        if not set(chosen) <= set(allowed):
            raise argparse.ArgumentTypeError(f"unknown name: choose from {','.join(allowed)}")
        return chosen

    return parse


def main() -> None:
    """Measure, write the results, and exit with status 1 if a server or a request failed."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    parser = argparse.ArgumentParser(
        prog="scripts/bench serving", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--clients", type=numbers, default="1,4,16,32", help="numbers of concurrent clients")
    parser.add_argument("--tokens", type=positive, default=48, help="tokens of each response")
    parser.add_argument("--requests-per-client", type=positive, default=2, help="requests of each client")
    parser.add_argument("--peers", type=names(tuple(PEERS)), default=",".join(PEERS), help="servers to measure")
    parser.add_argument("--dtypes", type=names(DTYPES), default=",".join(DTYPES), help="types of the weights")
    parser.add_argument("--rounds", type=positive, default=3, help="rounds of each server")
    arguments = parser.parse_args()
    description = f"{describe_run('serving')} Each response has {arguments.tokens} tokens."
    results, failures = measure(arguments)
    print(results_table(results, failures))
    draw_plot(results)
    plot = f"![Tokens per second over clients]({PLOT.relative_to(PAGE.parent)})"
    write_section("serving", f"{description}\n\n{results_table(results, failures)}\n\n{NOTES}\n{plot}")
    sys.exit(1 if failures or any(result.errors for result in results) else 0)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
