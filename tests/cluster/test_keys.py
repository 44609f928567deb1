"""API keys in a Secret that changes while the server runs."""

import json

import pytest

from tests.cluster.cluster import RELEASE, Namespace, wait_until


@pytest.mark.slow
def test_server_reloads_the_api_keys_of_a_secret_without_a_restart(namespace: Namespace) -> None:
    def keys(*lines: str) -> dict[str, object]:
        content = {"api-keys": "\n".join(lines)}
        return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"}, "stringData": content}

    def status(key: str) -> int:
        code = (
            "import sys, urllib.request, urllib.error\n"
            "request = urllib.request.Request('http://127.0.0.1:5000/v1/models', headers={'Authorization': "
            f"'Bearer {key}'}})\n"
            "try: print(urllib.request.urlopen(request).status)\n"
            "except urllib.error.HTTPError as error: print(error.code)"
        )
        return int(namespace.kubectl("exec", f"deployment/{RELEASE}", "--", "python3", "-c", code))

    namespace.apply(keys("first-key"))
    namespace.install(values={"model": "demo", "auth": {"existingSecret": "keys"}})
    assert (status("first-key"), status("second-key")) == (200, 401)
    (before,) = namespace.servers()
    namespace.apply(keys("first-key", "second-key"))
    # The kubelet updates a changed Secret in the pod within its sync period, a minute or more.
    wait_until(lambda: status("second-key") == 200, "the server does not accept the new key", 180)
    namespace.apply(keys("second-key"))
    wait_until(lambda: status("first-key") == 401, "the server still accepts the old key", 180)
    (after,) = namespace.servers()
    assert json.dumps(before["status"]["containerStatuses"]) == json.dumps(after["status"]["containerStatuses"])
