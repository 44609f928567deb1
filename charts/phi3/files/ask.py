"""Asks a server a question and checks the answer, streaming, the metrics and the key: its URL, and a file of keys."""

import json
import sys
import urllib.error
import urllib.request
from pathlib import Path

url, *files = sys.argv[1:]
key = Path(files[0]).read_text().split()[0] if files else ""


def ask(path, body=None, key=key):
    """Return the status and the text of an answer to GET, or to POST where there is a body."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    headers |= {"Content-Type": "application/json"} if body else {}
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(url + path, data, headers)  # noqa: S310 - the chart names the URL
    try:
        with urllib.request.urlopen(request, timeout=300) as answer:  # noqa: S310
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def check(what, holds, text):
    """Say that something holds, or end."""
    print("passed:" if holds else "FAILED:", what, flush=True)
    if not holds:
        sys.exit(text[:2000])


question = {
    "prompt": "<|user|>\nWhat is the capital of France?<|end|>\n<|assistant|>\n",
    "return_full_text": False,
    "generate_kwargs": {"do_sample": False, "max_new_tokens": 16},
}
status, text = ask("/chat", question)
check("POST /chat answers", status == 200 and json.loads(text)["Result"], text)
print(json.loads(text)["Result"])

status, text = ask("/openapi.json")
check("GET /openapi.json describes the API", status == 200, text)
if "/v1/chat/completions" in json.loads(text)["paths"]:
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    model = json.loads(ask("/v1/models")[1])["data"][0]["id"]
    body = {"model": model, "messages": messages, "stream": True, "max_tokens": 16}
    status, text = ask("/v1/chat/completions", body)
    parts = [line for line in text.splitlines() if line.startswith("data: ")]
    check("POST /v1/chat/completions streams", len(parts) > 2 and parts[-1] == "data: [DONE]", text)
else:
    print("not checked: streaming, which this image does not offer")

status, text = ask("/metrics")
check("GET /metrics answers", status == 200 and text, text)

if key:
    status, text = ask("/chat", question, key="")
    check("POST /chat without a key is refused", status == 401, text)
    status, text = ask("/chat", question, key="wrong")
    check("POST /chat with a wrong key is refused", status == 401, text)
