"""Asks a server at a constant rate, from inside the cluster: its URL, and the requests a second. Needs Python alone.

Prints a line of JSON for each request as it ends. Every second one is a stream. SIGTERM ends it, after the last answer.
"""

import http.client
import json
import signal
import sys
import threading
import time
from urllib.parse import urlsplit

QUESTION = [{"role": "user", "content": "Hi"}]
TIMEOUT = 120
printing = threading.Lock()


def ask(host: str, number: int) -> str:
    """Ask once, on a connection of its own; returns what was wrong with the answer, or ""."""
    stream = number % 2 == 1
    if stream:
        path, body = "/v1/chat/completions", {"model": "demo", "messages": QUESTION, "max_tokens": 2, "stream": True}
    else:
        path, body = "/chat", {"messages": QUESTION, "generate_kwargs": {"max_new_tokens": 2}}
    connection = http.client.HTTPConnection(host, timeout=TIMEOUT)
    try:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        text = response.read().decode()
    except (OSError, http.client.HTTPException) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        connection.close()
    whole = text.rstrip().endswith("data: [DONE]") if stream else text.startswith('{"Result"')
    return "" if response.status == 200 and whole else f"HTTP {response.status}: {text[-200:]}"


def one(host: str, number: int) -> None:
    """Ask once and print how it went."""
    begin = time.time()
    wrong = ask(host, number)
    line = json.dumps({"number": number, "begin": begin, "seconds": time.time() - begin, "wrong": wrong})
    with printing:
        print(line, flush=True)


def main() -> None:
    """Ask until SIGTERM, at the given rate however long answers take."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    host, rate = urlsplit(sys.argv[1]).netloc, float(sys.argv[2])
    begin, number = time.monotonic(), 0
    threads: list[threading.Thread] = []
    while not stop.wait(max(0.0, begin + number / rate - time.monotonic())):
        threads = [thread for thread in threads if thread.is_alive()]
        threads.append(threading.Thread(target=one, args=(host, number)))
        threads[-1].start()
        number += 1
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
