"""A baseline server: transformers' `generate`, one request at a time, behind POST /.

A request is {"prompt": text, "tokens": N}. The response is {"text", "prompt_tokens", "tokens", "first_token_seconds"}
and always has N tokens. With --lines requests are lines of stdin and responses are lines of stdout, without HTTP.
"""

import argparse
import json
import sys
import threading
import time
from typing import Any

import torch
from flask import Flask, request
from transformers import AutoModelForCausalLM, AutoTokenizer
from werkzeug.serving import make_server


class FirstToken:
    """A streamer that records the time of the first token, by time.monotonic."""

    def __init__(self) -> None:
        self.at = 0.0
        self._puts = 0

    def put(self, _: torch.Tensor) -> None:
        """Receive the prompt in the first call, and a token in each later call."""
        self._puts += 1
        if self._puts == 2:
            self.at = time.monotonic()

    def end(self) -> None:
        """Receive the end of the output."""


class Generator:
    """The model in `directory`, with weights of type `dtype` (the name of a torch.dtype)."""

    def __init__(self, directory: str, dtype: str) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(directory)
        self._model = AutoModelForCausalLM.from_pretrained(directory, dtype=getattr(torch, dtype))
        self._lock = threading.Lock()

    def complete(self, prompt: str, tokens: int) -> dict[str, Any]:
        """Generate greedily after the requests before this one; the time to the first token includes the wait."""
        arrived = time.monotonic()
        with self._lock:
            first = FirstToken()
            inputs = self._tokenizer(prompt, return_tensors="pt")
            length = inputs["input_ids"].shape[1]
            output = self._model.generate(
                **inputs, do_sample=False, min_new_tokens=tokens, max_new_tokens=tokens, streamer=first
            )[0, length:]
        return {
            "text": self._tokenizer.decode(output, skip_special_tokens=True),
            "prompt_tokens": length,
            "tokens": len(output),
            "first_token_seconds": first.at - arrived,
        }


def main() -> None:
    """Serve until killed, or with --lines until stdin ends; prints the address to stderr."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="directory with the checkpoint")
    parser.add_argument("--dtype", required=True, choices=["float32", "bfloat16"], help="type of the weights")
    parser.add_argument("--lines", action="store_true", help="read requests from stdin and write responses to stdout")
    arguments = parser.parse_args()
    generator = Generator(arguments.model, arguments.dtype)
    if arguments.lines:
        print("Listening at: stdin", file=sys.stderr, flush=True)
        for line in sys.stdin:
            print(json.dumps(generator.complete(**json.loads(line))), flush=True)
        return
    app = Flask("serial_server")
    app.post("/")(lambda: generator.complete(**request.get_json()))
    server = make_server("127.0.0.1", 0, app, threaded=True)
    print(f"Listening at: http://127.0.0.1:{server.server_port}", file=sys.stderr, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
