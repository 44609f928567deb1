"""Sends requests to a server at a constant rate, from inside the cluster. Uses only the standard library.

usage: traffic.py URL REQUESTS_PER_SECOND

Prints a line of JSON for each finished request. Every second request streams. After SIGTERM, the program waits for the
last response and exits.
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


def send(host: str, number: int) -> str:
    """Send a request on a new connection; return the error of the response, or ""."""
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
    complete = text.rstrip().endswith("data: [DONE]") if stream else text.startswith('{"Result"')
    return "" if response.status == 200 and complete else f"HTTP {response.status}: {text[-200:]}"


def send_and_print(host: str, number: int) -> None:
    """Send a request and print its result."""
    begin = time.time()
    error = send(host, number)
    line = json.dumps({"number": number, "begin": begin, "seconds": time.time() - begin, "error": error})
    with printing:
        print(line, flush=True)


def main() -> None:
    """Send requests at the given rate until SIGTERM, however long the responses take."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    host, rate = urlsplit(sys.argv[1]).netloc, float(sys.argv[2])
    begin, number = time.monotonic(), 0
    threads: list[threading.Thread] = []
    while not stop.wait(max(0.0, begin + number / rate - time.monotonic())):
        threads = [thread for thread in threads if thread.is_alive()]
        threads.append(threading.Thread(target=send_and_print, args=(host, number)))
        threads[-1].start()
        number += 1
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
