"""Bake the demo image, install the chart on a local Kubernetes cluster, and print the answer to a question."""

import argparse
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from tools.verb import ROOT, Verb

RELEASE = "phi3"
NAMESPACE = "phi3-demo"
QUESTION = "What is the capital of France?"
READY_SECONDS = 600

verb = Verb("scripts/demo")
phase_seconds: dict[str, float] = {}


def main() -> None:
    """Run the demo, and take down the cluster that it started unless --keep is given."""
    parser = argparse.ArgumentParser(prog=verb.name, description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave the release running and print how to reach it")
    keep = parser.parse_args().keep
    started_here = run_script("cluster", "env", quiet=True) is None
    try:
        run_demo(keep)
    except BaseException:
        if not keep and started_here:
            run_script("cluster", "down")
        raise
    if not keep and started_here:
        run_script("cluster", "down")


def run_demo(keep: bool) -> None:
    """Bake, install and ask."""
    with phase("building tools"):
        run_script("packages", "buildah") or exit_script_failed("packages")
        run_script("tools", "helm", "etcd", "containerd", "coredns", "kubernetes") or exit_script_failed("tools")
        run_script("setup", "images", "demo") or exit_script_failed("setup")
    with phase("starting the cluster"):
        run_script("cluster", "up") or exit_script_failed("cluster")
        use_cluster()
    with phase("baking the image"):
        destination = f"{os.environ['REGISTRY']}/phi-3-demo"
        image = run_script("bake", "demo", destination, "--plain-http") or exit_script_failed("bake")
    with phase("installing the chart"):
        install_chart(*image.strip().split("@"))
    with phase("running helm test"):
        run_in_cluster("helm", "test", RELEASE, "--namespace", NAMESPACE, "--logs")
    with phase("asking a question"), forwarded_port() as url:
        print(f"\n{QUESTION}\n{ask(url)}\n", flush=True)
    total = sum(phase_seconds.values())
    verb.log(f"{total:.0f} s: " + ", ".join(f"{name} {seconds:.0f} s" for name, seconds in phase_seconds.items()))
    if keep:
        verb.log("the release is running; these commands reach it and take it down:")
        print(
            f'  eval "$(scripts/cluster env)"\n'
            f"  kubectl --namespace {NAMESPACE} port-forward service/{RELEASE} 8000:80 &\n"
            "  curl http://127.0.0.1:8000/chat -H 'Content-Type: application/json' \\\n"
            f"    -d '{json.dumps(chat_body(QUESTION))}'\n"
            "  scripts/cluster down",
            flush=True,
        )


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Log a phase and its duration."""
    verb.log(f"== {name}")
    begin = time.monotonic()
    yield
    phase_seconds[name] = time.monotonic() - begin
    verb.log(f"== {name} took {phase_seconds[name]:.1f} s")


def run_script(name: str, *arguments: str, quiet: bool = False) -> str | None:
    """Run a script with its progress on stderr, and return its output, or None if it failed."""
    done = subprocess.run(
        [ROOT / "scripts" / name, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL if quiet else None,
        text=True,
    )
    return (done.stdout or "\n") if done.returncode == 0 else None


def exit_script_failed(name: str) -> str:
    """Exit because a script failed."""
    verb.fail(f"scripts/{name} failed: see its message above")


def use_cluster() -> None:
    """Export the variables that `scripts/cluster env` prints."""
    exports = run_script("cluster", "env") or exit_script_failed("cluster")
    for name, value in re.findall(r"^export (\w+)=(.*)$", exports, re.MULTILINE):
        os.environ[name] = value.strip("'")


def install_chart(image: str, digest: str) -> None:
    """Install the chart with an image, in a namespace that enforces the restricted pod security standard."""
    namespace = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
    }
    apply = ["kubectl", "apply", "--server-side", "--filename=-"]
    subprocess.run(apply, input=json.dumps(namespace), text=True, check=True, stdout=sys.stderr)
    registry, _, tag = image.partition("/phi-3-demo:")
    values = {"model": "demo", "image.registry": registry, "image.tag": tag, "image.digest": digest}
    settings = [f"--set-string={key}={value}" for key, value in values.items()]
    flags = ["--namespace", NAMESPACE, "--wait", f"--timeout={READY_SECONDS}s", *settings]
    run_in_cluster("helm", "upgrade", "--install", RELEASE, str(ROOT / "charts/phi3"), *flags)


def run_in_cluster(*command: str) -> None:
    """Run a client of the cluster; if it fails, print the pods and events and exit."""
    if verb.run(command, pod_status) != 0:
        kubectl = ["kubectl", "--namespace", NAMESPACE, "get"]
        for more in (["pods", "--output=wide"], ["events", "--sort-by=.lastTimestamp"]):
            subprocess.run([*kubectl, *more], stdout=sys.stderr)
        verb.fail(f"`{' '.join(command[:3])}` failed: see its message above, and the pods and events below it")


def pod_status() -> str:
    """Return the status of each pod on one line."""
    get_pods = ["kubectl", "--namespace", NAMESPACE, "get", "pods", "--no-headers"]
    lines = subprocess.run(get_pods, capture_output=True, text=True).stdout.splitlines()
    return "; ".join(" ".join(line.split()[:3]) for line in lines)


@contextmanager
def forwarded_port() -> Iterator[str]:
    """Forward a local port to the Service; yields its URL."""
    forward = ["kubectl", "--namespace", NAMESPACE, "port-forward", f"service/{RELEASE}", ":80"]
    with subprocess.Popen(forward, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline() if process.stdout else ""
            found = re.search(r"127\.0\.0\.1:(\d+)", line)
            if not found:
                verb.fail("`kubectl port-forward` failed: see its message above")
            yield f"http://127.0.0.1:{found[1]}"
        finally:
            process.kill()


def chat_body(question: str) -> dict[str, object]:
    """Return the body of a /chat request that asks a question."""
    return {"messages": [{"role": "user", "content": question}], "generate_kwargs": {"do_sample": False}}


def ask(url: str) -> str:
    """Return the server's answer to the question."""
    data = json.dumps(chat_body(QUESTION)).encode()
    request = urllib.request.Request(f"{url}/chat", data, {"Content-Type": "application/json"})  # noqa: S310
    with urllib.request.urlopen(request, timeout=120) as response:  # noqa: S310 - the URL is a local port
        return str(json.load(response)["Result"])


if __name__ == "__main__":
    verb.main(main)
