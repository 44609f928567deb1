"""Compares this server with others on the same weights, and writes what it found to docs/benchmarks.md.

The servers run one after another; each client of one sends its next question when its last one is answered. Every
answer is greedy and has the same number of tokens, so that all servers do the same work.
"""

import argparse
import itertools
import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import matplotlib as mpl
import numpy as np
import psutil
from matplotlib.figure import Figure
from prometheus_client.parser import text_string_to_metric_families

from scripts.benchmarks.machine import about
from scripts.benchmarks.page import PAGE, put

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / ".models/demo"
PLOT = ROOT / "docs/benchmarks/serving.svg"
START_SECONDS = 300
STOP_SECONDS = 10
ANSWER_SECONDS = 3600
SAMPLE_SECONDS = 0.5
WARM_UP_TOKENS = 8
SHARES = (0.5, 0.95)
DTYPES = ("float32", "bfloat16")

QUESTIONS = (
    "What is the capital of France?",
    "How to explain Internet for a medieval knight?",
    "Why is the sky blue?",
    "What does a compiler do?",
    "How do bees make honey?",
    "Who wrote Don Quixote?",
    "What is the largest ocean?",
    "How does a bicycle stay upright?",
    "Why do leaves change colour in autumn?",
    "What is a prime number?",
    "How is glass made?",
    "What causes the tides?",
    "Who painted the Mona Lisa?",
    "How far away is the Moon?",
    "What is the difference between weather and climate?",
    "Why does bread rise?",
    "How do vaccines work?",
    "What is a black hole?",
    "Which language has the most native speakers?",
    "How does a refrigerator cool?",
    "What is the speed of light?",
    "Why do cats purr?",
    "How old is the Earth?",
    "What is photosynthesis?",
    "Who invented the printing press?",
    "What are the primary colours?",
    "How does a battery store energy?",
    "Why is the sea salty?",
    "What is the tallest mountain?",
    "How do airplanes fly?",
    "What is inflation?",
    "How many bones has an adult?",
)
PROMPTS = [f"<|user|>\n{question}<|end|>\n<|assistant|>\n" for question in QUESTIONS]

NOTES = """\
One question of a client follows on the last one's answer. `generate alone` is transformers' `generate` without HTTP;
`generate` is the same behind HTTP, one request after another, as KAITO serves; `transformers serve` runs with
`--continuous-batching`, and gets a quarter of the memory for its cache, where its default is more than half. Memory is
the highest sum of the resident sets of a server's processes, where pages that they share count for each.

Time to the first token of `transformers serve` is what its client saw; of the others what the server measured, from
the request's arrival to the token. `phi3` is asked for whole answers: its figures are interpolated between the
buckets of its histogram `vllm:time_to_first_token_seconds`, so they are coarse, and it has none for the time per token,
which is the time from an answer's first token to its end, over the tokens after the first.

Each server has the environment that its users give it. `phi3` sets `OMP_WAIT_POLICY=PASSIVE` itself, and the others do
not: where other programs use the cores too, that alone makes them several times slower. With `OMP_WAIT_POLICY=PASSIVE`
before the command all have it.
"""


class PeerError(Exception):
    """A server did not start, or ended by itself; the text says why."""


@dataclass(frozen=True)
class Answer:
    """What was measured of one answer, in seconds; None where the server does not tell."""

    tokens: int
    first: float | None
    per_token: float | None


@dataclass(frozen=True)
class Result:
    """What was measured of one server with a number of clients: times in seconds as (p50, p95), memory in bytes."""

    peer: str
    dtype: str
    clients: int
    speed: float  # tokens per second, over all clients
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


def say(line: str) -> None:
    """Print a line of progress."""
    print(f"scripts/bench: {line}", file=sys.stderr, flush=True)


class Server:
    """A started server: its process, which leads a process group, and the end of its log."""

    def __init__(self, command: list[str | Path]) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CHAT_")}
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if "--lines" in command else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.url = ""
        self._log: deque[str] = deque(maxlen=20)
        self._listening = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stderr  # noqa: S101 - it is a pipe
        for line in self.process.stderr:
            if line.strip():
                self._log.append(line.strip())
            if found := re.search(r"(?:Listening at:|Uvicorn running on) (\S+)", line):
                self.url = found[1]
                self._listening.set()
        self._listening.set()

    def wait_until_ready(self) -> None:
        """Return once it listens and its model is loaded.

        Raises:
            PeerError: it ended, or took more than START_SECONDS.
        """
        end = time.monotonic() + START_SECONDS
        self._listening.wait(START_SECONDS)
        while not self._ready():
            self.check()
            if time.monotonic() > end:
                raise PeerError(f"not ready after {START_SECONDS} s: {self._last_words()}")
            time.sleep(0.1)

    def _ready(self) -> bool:
        if not self.url.startswith("http"):
            return bool(self.url)
        with suppress(httpx.TransportError):
            # Those that have no such route answer 404, and have loaded their model before they listened.
            return httpx.get(f"{self.url}/readyz", trust_env=False).status_code in (200, 404)
        return False

    def check(self) -> None:
        """Raise PeerError where it has ended."""
        if self.process.poll() is not None:
            raise PeerError(f"ended with status {self.process.returncode}: {self._last_words()}")

    def _last_words(self) -> str:
        return self._log[-1] if self._log else "it said nothing"

    def memory(self) -> int:
        """Return the resident memory of its processes in bytes."""
        total = 0
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.process.pid)
            for part in [process, *process.children(recursive=True)]:
                with suppress(psutil.NoSuchProcess):
                    total += part.memory_info().rss
        return total

    def stop(self) -> None:
        """End it and all that it started."""
        try:
            with suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(self.process.pid, signal.SIGTERM)
                self.process.wait(STOP_SECONDS)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@contextmanager
def running(command: list[str | Path]) -> Iterator[Server]:
    """Yield a server that is ready, stopped at the end; raises PeerError where it does not get ready."""
    server = Server(command)
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.stop()


def ask_phi3(server: Server, http: httpx.Client, prompt: str, tokens: int) -> Answer:
    """Ask this server."""
    fixed = {"do_sample": False, "min_new_tokens": tokens, "max_new_tokens": tokens, "return_dict_in_generate": True}
    body = {"prompt": prompt, "return_full_text": False, "generate_kwargs": fixed}
    answer = http.post(f"{server.url}/chat", json=body).raise_for_status().json()
    return Answer(answer["Details"][0]["completion_tokens"], None, None)


def ask_generate(server: Server, http: httpx.Client, prompt: str, tokens: int) -> Answer:
    """Ask serial_server.py."""
    begin = time.monotonic()
    reply = http.post(server.url, json={"prompt": prompt, "tokens": tokens}).raise_for_status().text
    return told(reply, time.monotonic() - begin)


def ask_lines(server: Server, _: httpx.Client, prompt: str, tokens: int) -> Answer:
    """Ask serial_server.py --lines."""
    assert server.process.stdin  # noqa: S101 - it is a pipe
    assert server.process.stdout  # noqa: S101 - it is a pipe
    begin = time.monotonic()
    server.process.stdin.write(json.dumps({"prompt": prompt, "tokens": tokens}) + "\n")
    server.process.stdin.flush()
    return told(server.process.stdout.readline(), time.monotonic() - begin)


def told(reply: str, seconds: float) -> Answer:
    """Return what serial_server.py tells in an answer that took a time as a whole."""
    answer = json.loads(reply)
    tokens, first = answer["tokens"], answer["first_token_seconds"]
    return Answer(tokens, first, per_token(seconds - first, tokens))


def ask_transformers(server: Server, http: httpx.Client, prompt: str, tokens: int) -> Answer:
    """Ask `transformers serve`, streaming."""
    # No token has the id -1, so that none ends an answer.
    fixed = json.dumps({"do_sample": False, "max_new_tokens": tokens, "eos_token_id": -1})
    body = {"model": str(MODEL), "prompt": prompt, "stream": True, "generation_config": fixed}
    begin = time.monotonic()
    first: float | None = None
    generated = 0
    with http.stream("POST", f"{server.url}/v1/completions", json=body) as response:
        response.raise_for_status()
        for line in response.iter_lines():
            if not line:
                continue
            event = json.loads(line.removeprefix("data: "))
            if "error" in event:
                raise ValueError(event["error"])
            if first is None and event["choices"][0]["text"]:
                first = time.monotonic() - begin
            generated = event.get("usage", {}).get("completion_tokens", 0)
    seconds = time.monotonic() - begin
    return Answer(generated, first, None if first is None else per_token(seconds - first, generated))


def per_token(seconds: float, tokens: int) -> float | None:
    """Return the seconds for each of `tokens` after the first, which `seconds` does not hold."""
    return seconds / (tokens - 1) if tokens > 1 else None


@dataclass(frozen=True)
class Peer:
    """A server to measure: its command for a dtype, and how it is asked for an answer of some tokens."""

    command: Callable[[str], list[str | Path]]
    ask: Callable[[Server, httpx.Client, str, int], Answer]
    most_clients: int = sys.maxsize
    histogram: str = ""  # of seconds to the first token, where answers do not tell them


def serial(dtype: str, *flags: str) -> list[str | Path]:
    """Return the command of serial_server.py."""
    program = Path(__file__).with_name("serial_server.py")
    return [sys.executable, program, "--model", MODEL, "--dtype", dtype, *flags]


def phi3(dtype: str) -> list[str | Path]:
    """Return the command of this server."""
    return [sys.executable, "-m", "app", "--model", MODEL, "--port", "0", "--dtype", dtype]


def transformers_serve(dtype: str) -> list[str | Path]:
    """Return the command of `transformers serve`."""
    program = Path(sys.executable).with_name("transformers")
    flags = ["--continuous-batching", "--cb-max-memory-percent", "0.25", "--dtype", dtype]
    return [program, "serve", MODEL, *flags, "--host", "127.0.0.1", "--port", "0"]


PEERS = {
    "generate-alone": Peer(lambda dtype: serial(dtype, "--lines"), ask_lines, most_clients=1),
    "phi3": Peer(phi3, ask_phi3, histogram="vllm:time_to_first_token_seconds"),
    "generate": Peer(serial, ask_generate),
    "transformers-serve": Peer(transformers_serve, ask_transformers),
}


@dataclass(frozen=True)
class Load:
    """The answers to a load, the seconds from its begin to its last answer, and the server's peak memory in bytes."""

    answers: list[Answer]
    errors: list[str]
    seconds: float
    memory: int


def load(peer: Peer, server: Server, clients: int, requests: int, tokens: int) -> Load:
    """Let each of `clients` send `requests`, one after another, for answers of exactly `tokens` tokens."""
    answers: list[Answer] = []
    errors: list[str] = []
    http = httpx.Client(timeout=ANSWER_SECONDS, trust_env=False)

    def client(number: int) -> None:
        for turn in range(requests):
            prompt = PROMPTS[(turn * clients + number) % len(PROMPTS)]
            try:
                answer = peer.ask(server, http, prompt, tokens)
                if answer.tokens == tokens:
                    answers.append(answer)
                else:
                    errors.append(f"{answer.tokens} tokens instead of {tokens}")
            except (httpx.HTTPError, OSError, ValueError, LookupError) as error:
                errors.append(f"{type(error).__name__}: {error}")

    # Daemons, since on Ctrl-C nobody waits for their answers.
    threads = [threading.Thread(target=client, args=[number], daemon=True) for number in range(clients)]
    begin = time.monotonic()
    memory = 0
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            memory = max(memory, server.memory())
            thread.join(SAMPLE_SECONDS)
    seconds = time.monotonic() - begin
    http.close()
    server.check()
    return Load(answers, errors, seconds, memory)


def buckets(server: Server, name: str) -> dict[float, float]:
    """Return a histogram of the server's, how many values there are up to each bound; raises PeerError without one."""
    text = httpx.get(f"{server.url}/metrics", trust_env=False).raise_for_status().text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    found = {float(sample.labels["le"]): sample.value for sample in samples if sample.name == f"{name}_bucket"}
    if math.inf not in found:
        raise PeerError(f"/metrics has no histogram {name}")
    return found


def quantile(counts: dict[float, float], share: float) -> float:
    """Return the value that `share` of a histogram's values do not exceed, interpolated within its bucket."""
    rank = share * counts[math.inf]
    for (low, below), (high, upto) in itertools.pairwise([(0.0, 0.0), *sorted(counts.items())]):
        if upto >= rank:
            return low if high == math.inf else low + (high - low) * (rank - below) / (upto - below)
    return math.nan


def quantiles(values: list[float | None]) -> list[float] | None:
    """Return the SHARES of the values, or None where there are none."""
    known = [value for value in values if value is not None]
    return [float(value) for value in np.quantile(known, SHARES)] if known else None


def measure(name: str, dtype: str, server: Server, clients: int, requests: int, tokens: int) -> Result:
    """Measure a running server with a number of clients, after a warm-up; raises PeerError where it ends meanwhile."""
    peer = PEERS[name]
    load(peer, server, clients, 1, min(tokens, WARM_UP_TOKENS))
    before = buckets(server, peer.histogram) if peer.histogram else {}
    done = load(peer, server, clients, requests, tokens)
    if peer.histogram:
        counts = {bound: count - before[bound] for bound, count in buckets(server, peer.histogram).items()}
        first = [quantile(counts, share) for share in SHARES] if counts[math.inf] else None
    else:
        first = quantiles([answer.first for answer in done.answers])
    result = Result(
        name,
        dtype,
        clients,
        sum(answer.tokens for answer in done.answers) / done.seconds,
        first,
        quantiles([answer.per_token for answer in done.answers]),
        len(done.errors),
        done.memory,
    )
    failed = f", {result.errors} errors, the first: {done.errors[0]}" if done.errors else ""
    say(f"{name}, {dtype}, clients: {clients}: {result.speed:.1f} tokens/s{failed}")
    return result


def bench(arguments: argparse.Namespace) -> tuple[list[Result], list[Failure]]:
    """Measure all that the flags ask for."""
    results: list[Result] = []
    failures: list[Failure] = []
    for dtype, name in itertools.product(arguments.dtypes, arguments.peers):
        say(f"starting {name}, {dtype}")
        peer = PEERS[name]
        steps = sorted({min(clients, peer.most_clients) for clients in arguments.clients})
        try:
            with running(peer.command(dtype)) as server:
                for clients in steps:
                    fixed = (arguments.requests_per_client, arguments.tokens)
                    results.append(measure(name, dtype, server, clients, *fixed))
        except (PeerError, httpx.HTTPError, OSError) as error:
            reason = str(error).replace(f"{ROOT}/", "")
            failures.append(Failure(name, dtype, reason))
            say(f"FAILED: {name}, {dtype}: {reason}")
    return results, failures


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
            f"{result.speed:.1f}",
            pair(result.first, 1, 2),
            pair(result.per_token, 1000, 0),
            f"**{result.errors}**" if result.errors else "0",
            f"{result.memory / 1e9:.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


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
            [point.speed for point in points],
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
