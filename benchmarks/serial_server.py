"""A plain server to compare with: transformers' `generate`, one request after another, behind POST /.

A request is {"prompt": text, "tokens": N}; the answer, which always has N tokens, is {"text", "prompt_tokens",
"tokens", "first_token_seconds"}. With --lines the requests are lines of stdin and the answers lines of stdout, no HTTP.
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
    """A streamer that notes when the first token came, on time.monotonic's clock."""

    def __init__(self) -> None:
        self.at = 0.0
        self._puts = 0

    def put(self, _: torch.Tensor) -> None:
        """Take the prompt in the first call, then a token in each."""
        self._puts += 1
        if self._puts == 2:
            self.at = time.monotonic()

    def end(self) -> None:
        """Do nothing at the end."""


class Generator:
    """The model in `folder`, with weights of type `dtype` (the name of a torch.dtype)."""

    def __init__(self, folder: str, dtype: str) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
        self._one = threading.Lock()

    def answer(self, prompt: str, tokens: int) -> dict[str, Any]:
        """Answer greedily once the requests before are done; the seconds to the first token count that wait."""
        arrived = time.monotonic()
        with self._one:
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
    """Serve until killed, or with --lines until stdin ends; says on stderr where it listens."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder with the checkpoint")
    parser.add_argument("--dtype", required=True, choices=["float32", "bfloat16"], help="type of the weights")
    parser.add_argument("--lines", action="store_true", help="answer lines of stdin on stdout")
    arguments = parser.parse_args()
    generator = Generator(arguments.model, arguments.dtype)
    if arguments.lines:
        print("Listening at: stdin", file=sys.stderr, flush=True)
        for line in sys.stdin:
            print(json.dumps(generator.answer(**json.loads(line))), flush=True)
        return
    app = Flask("serial_server")
    app.post("/")(lambda: generator.answer(**request.get_json()))
    server = make_server("127.0.0.1", 0, app, threaded=True)
    print(f"Listening at: http://127.0.0.1:{server.server_port}", file=sys.stderr, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
