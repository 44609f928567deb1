"""API keys of a Secret, changed while the server runs."""

import json

import pytest

from tests.cluster.cluster import RELEASE, Namespace, wait


@pytest.mark.slow
def test_keys_of_a_secret_are_asked_for_and_can_be_changed_without_a_restart(namespace: Namespace) -> None:
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
    # The kubelet writes a changed Secret into the pod within its sync period, a minute and more.
    wait(lambda: status("second-key") == 200, "the new key is not known", 180)
    namespace.apply(keys("second-key"))
    wait(lambda: status("first-key") == 401, "the old key is still known", 180)
    (after,) = namespace.servers()
    assert json.dumps(before["status"]["containerStatuses"]) == json.dumps(after["status"]["containerStatuses"])
