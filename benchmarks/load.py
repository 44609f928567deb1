"""Load a server with questions, and collect the measurements."""

import threading
import time
from dataclasses import dataclass

import httpx

from benchmarks.peers import Peer, Server, Timing

TIMEOUT_SECONDS = 3600
SAMPLE_SECONDS = 0.5

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


@dataclass(frozen=True)
class Load:
    """The responses to a load, the seconds until the last of them, and the server's peak memory in bytes."""

    timings: list[Timing]
    errors: list[str]
    seconds: float
    memory: int

    @property
    def speed(self) -> float:
        """Tokens per second of all clients together."""
        return sum(timing.num_tokens for timing in self.timings) / self.seconds


def run_load(peer: Peer, server: Server, clients: int, requests: int, tokens: int) -> Load:
    """Run clients that each send `requests` one after another, for responses of exactly `tokens` tokens."""
    timings: list[Timing] = []
    errors: list[str] = []
    http = httpx.Client(timeout=TIMEOUT_SECONDS, trust_env=False)

    def client(number: int) -> None:
        for turn in range(requests):
            prompt = PROMPTS[(turn * clients + number) % len(PROMPTS)]
            try:
                timing = peer.complete(server, http, prompt, tokens)
                if timing.num_tokens == tokens:
                    timings.append(timing)
                else:
                    errors.append(f"{timing.num_tokens} tokens instead of {tokens}")
            except (httpx.HTTPError, OSError, ValueError, LookupError) as error:
                errors.append(f"{type(error).__name__}: {error}")

    # Daemons, so that Ctrl-C does not wait for their responses.
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
    return Load(timings, errors, seconds, memory)
