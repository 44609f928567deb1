"""Sends requests to a server and checks the responses.

usage: smoke_test.py URL [KEYS_FILE]
"""

import json
import sys
import urllib.error
import urllib.request
from pathlib import Path

url, *files = sys.argv[1:]
key = Path(files[0]).read_text().split()[0] if files else ""


def send(path, body=None, key=key):
    """Send a POST request if there is a body, else a GET request; return the status and the text of the response."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    headers |= {"Content-Type": "application/json"} if body else {}
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(url + path, data, headers)  # noqa: S310 - the chart sets the URL
    try:
        with urllib.request.urlopen(request, timeout=300) as response:  # noqa: S310
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def check(name, passed, text):
    """Print the result of a check; exit with the text of the response if it failed."""
    print("passed:" if passed else "FAILED:", name, flush=True)
    if not passed:
        sys.exit(text[:2000])


question = {
    "prompt": "<|user|>\nWhat is the capital of France?<|end|>\n<|assistant|>\n",
    "return_full_text": False,
    "generate_kwargs": {"do_sample": False, "max_new_tokens": 16},
}
status, text = send("/chat", question)
check("POST /chat returns a completion", status == 200 and json.loads(text)["Result"], text)
print(json.loads(text)["Result"])

status, text = send("/openapi.json")
check("GET /openapi.json describes the API", status == 200, text)
if "/v1/chat/completions" in json.loads(text)["paths"]:
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    model = json.loads(send("/v1/models")[1])["data"][0]["id"]
    body = {"model": model, "messages": messages, "stream": True, "max_tokens": 16}
    status, text = send("/v1/chat/completions", body)
    chunks = [line for line in text.splitlines() if line.startswith("data: ")]
    check("POST /v1/chat/completions streams", len(chunks) > 2 and chunks[-1] == "data: [DONE]", text)
else:
    print("skipped: streaming, which this image does not support")

status, text = send("/metrics")
check("GET /metrics returns metrics", status == 200 and text, text)

if key:
    status, text = send("/chat", question, key="")
    check("POST /chat rejects a request without a key", status == 401, text)
    status, text = send("/chat", question, key="wrong")
    check("POST /chat rejects a wrong key", status == 401, text)
