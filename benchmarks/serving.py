"""Compares this server with others on the same weights, and writes what it found to docs/benchmarks.md.

The servers run one after another, in several rounds; each client of one sends its next question when its last one is
answered. Every answer is greedy and has the same number of tokens, so that all servers do the same work.
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

from benchmarks.load import Load, load
from benchmarks.machine import about
from benchmarks.page import PAGE, put
from benchmarks.peers import PEERS, ROOT, PeerError, running
from benchmarks.progress import say

PLOT = ROOT / "docs/benchmarks/serving.svg"
WARM_UP_TOKENS = 8
SHARES = (0.5, 0.95)
DTYPES = ("float32", "bfloat16")

NOTES = """\
One question of a client follows on the last one's answer. The servers take turns, and begin anew in each round;
tokens/s is the median of the rounds with the least and the most, the other times are those of all answers, as their
clients saw them, since both `phi3` and `transformers serve` stream. `generate alone` is transformers' `generate`
without HTTP; `generate` is the same behind HTTP, one request after another, as KAITO serves, and tells itself when the
first token was there; `transformers serve` runs with `--continuous-batching`, and gets a quarter of the memory for its
cache, where its default is more than half. Memory is the highest sum of the resident sets of a server's processes,
where pages that they share count for each.

Each server has the environment that its users give it. `phi3` lets threads of torch spin for a moment only while they
wait (`GOMP_SPINCOUNT=1000`), the others for milliseconds: where other programs use the cores too, that alone makes them
several times slower. With `GOMP_SPINCOUNT=1000` before the command all have it.
"""


@dataclass(frozen=True)
class Result:
    """What was measured of one server with a number of clients.

    Attributes:
        peer: name of the server.
        dtype: of the weights.
        clients: at once.
        speeds: tokens per second of all clients together, in each round.
        first: seconds to the first token, (p50, p95).
        per_token: seconds for each further one, likewise.
        errors: requests that failed.
        memory: bytes, at most.
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
    """A server that gave no results, and why."""

    peer: str
    dtype: str
    reason: str


def quantiles(values: list[float | None]) -> list[float] | None:
    """Return the SHARES of the values, or None where there are none."""
    known = [value for value in values if value is not None]
    return [float(value) for value in np.quantile(known, SHARES)] if known else None


def result(name: str, dtype: str, clients: int, loads: list[Load]) -> Result:
    """Put together what the rounds of one server found."""
    answers = [answer for done in loads for answer in done.answers]
    return Result(
        name,
        dtype,
        clients,
        [done.speed for done in loads],
        quantiles([answer.first for answer in answers]),
        quantiles([answer.per_token for answer in answers]),
        sum(len(done.errors) for done in loads),
        max(done.memory for done in loads),
    )


def bench(arguments: argparse.Namespace) -> tuple[list[Result], list[Failure]]:
    """Measure all that the flags ask for."""
    loads: dict[tuple[str, str, int], list[Load]] = {}
    failures: list[Failure] = []
    for turn, dtype, name in itertools.product(range(arguments.rounds), arguments.dtypes, arguments.peers):
        say(f"round {turn + 1} of {arguments.rounds}: starting {name}, {dtype}")
        peer = PEERS[name]
        try:
            with running(peer.command(dtype)) as server:
                for clients in sorted({min(clients, peer.most_clients) for clients in arguments.clients}):
                    load(peer, server, clients, 1, min(arguments.tokens, WARM_UP_TOKENS))
                    done = load(peer, server, clients, arguments.requests_per_client, arguments.tokens)
                    loads.setdefault((dtype, name, clients), []).append(done)
                    failed = f", {len(done.errors)} errors, the first: {done.errors[0]}" if done.errors else ""
                    say(f"{name}, {dtype}, clients: {clients}: {done.speed:.1f} tokens/s{failed}")
        except (PeerError, httpx.HTTPError, OSError) as error:
            reason = str(error).replace(f"{ROOT}/", "")
            failures.append(Failure(name, dtype, reason))
            say(f"FAILED: {name}, {dtype}: {reason}")
    return [result(name, dtype, clients, done) for (dtype, name, clients), done in loads.items()], failures


def pair(times: list[float] | None, scale: float, digits: int) -> str:
    """Return p50 and p95 for the table."""
    return " / ".join(f"{scale * value:.{digits}f}" for value in times) if times else "-"


def table(results: list[Result], failures: list[Failure]) -> str:
    """Return the results in Markdown, failures first."""
    lines = [
        "| weights | server | clients | tokens/s | first token, s (p50 / p95) | per token, ms (p50 / p95) | errors "
        "| memory, GB |",
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
            speed(result.speeds),
            pair(result.first, 1, 2),
            pair(result.per_token, 1000, 0),
            f"**{result.errors}**" if result.errors else "0",
            f"{result.memory / 1e9:.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def speed(rounds: list[float]) -> str:
    """Return the median for the table, and between what it lies."""
    return f"{statistics.median(rounds):.1f} ({min(rounds):.1f} to {max(rounds):.1f})"


def label(peer: str) -> str:
    """Return a server's name for readers."""
    return peer.replace("-", " ")


def draw(results: list[Result]) -> None:
    """Plot tokens per second over clients: a colour for each server, a stroke for each dtype."""
    mpl.rcParams["svg.hashsalt"] = "serving"  # the same results are the same file
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot(xlabel="clients", ylabel="tokens/s, all clients together", xscale="log")
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
    figure.savefig(PLOT, metadata={"Date": None})


def positive(text: str) -> int:
    """Parse a positive integer."""
    if int(text) < 1:
        raise ValueError
    return int(text)


def numbers(text: str) -> list[int]:
    """Parse positive integers with commas between."""
    return [positive(number) for number in text.split(",")]


def names(allowed: tuple[str, ...]) -> Callable[[str], list[str]]:
    """Return a parser of some of the `allowed` names, with commas between."""

    def parse(text: str) -> list[str]:
        chosen = text.split(",")
        if not set(chosen) <= set(allowed):
            raise argparse.ArgumentTypeError(f"it is some of {','.join(allowed)}")
        return chosen

    return parse


def main() -> None:
    """Measure, and write the results; exit code 1 where a server or a request failed."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    parser = argparse.ArgumentParser(
        prog="scripts/bench serving", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--clients", type=numbers, default="1,4,16,32", help="numbers of clients at once")
    parser.add_argument("--tokens", type=positive, default=48, help="tokens of each answer")
    parser.add_argument("--requests-per-client", type=positive, default=2, help="questions of each client")
    parser.add_argument("--peers", type=names(tuple(PEERS)), default=",".join(PEERS), help="servers to measure")
    parser.add_argument("--dtypes", type=names(DTYPES), default=",".join(DTYPES), help="types of the weights")
    parser.add_argument("--rounds", type=positive, default=3, help="turns of each server")
    arguments = parser.parse_args()
    where = f"{about('serving')} Each answer has {arguments.tokens} tokens."
    results, failures = bench(arguments)
    print(table(results, failures))
    draw(results)
    plot = f"![Tokens per second over clients]({PLOT.relative_to(PAGE.parent)})"
    put("serving", f"{where}\n\n{table(results, failures)}\n\n{NOTES}\n{plot}")
    sys.exit(1 if failures or any(result.errors for result in results) else 0)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
