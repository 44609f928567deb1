"""Certificates of a cluster, made by openssl, and the kubeconfig files that hold them."""

import base64
import json
import subprocess
from pathlib import Path

KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
DAYS = ("-days", "365")


def make_authority(directory: Path) -> None:
    """Make the certificate authority and the key that signs service account tokens."""
    _openssl(
        "req", "-x509", *KEY, *DAYS, "-subj", "/CN=phi3", "-keyout", directory / "ca.key", "-out", directory / "ca.crt"
    )
    _openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", directory / "accounts.key")
    _openssl("pkey", "-in", directory / "accounts.key", "-pubout", "-out", directory / "accounts.pub")


def make_certificate(directory: Path, name: str, user: str, group: str = "", sans: str = "") -> None:
    """Make NAME.key and NAME.crt for a user of a group, or for a server.

    `sans` are the subject alternative names of a server, such as "DNS:localhost,IP:127.0.0.1".
    """
    subject = f"/O={group}/CN={user}" if group else f"/CN={user}"
    names: list[str | Path] = ["-addext", f"subjectAltName={sans}"] if sans else []
    request = directory / f"{name}.csr"
    _openssl("req", "-new", *KEY, "-subj", subject, *names, "-keyout", directory / f"{name}.key", "-out", request)
    signed: list[str | Path] = [
        "-CA",
        directory / "ca.crt",
        "-CAkey",
        directory / "ca.key",
        "-copy_extensions",
        "copyall",
        *DAYS,
    ]
    _openssl("x509", "-req", "-in", request, *signed, "-out", directory / f"{name}.crt")
    request.unlink()


def kubeconfig(directory: Path, name: str, server: str) -> str:
    """Return a kubeconfig for the API server at `server` with the certificate NAME.crt."""

    def data(file: str) -> str:
        return base64.b64encode((directory / file).read_bytes()).decode()

    cluster = {"server": server, "certificate-authority-data": data("ca.crt")}
    user = {"client-certificate-data": data(f"{name}.crt"), "client-key-data": data(f"{name}.key")}
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "phi3", "cluster": cluster}],
        "users": [{"name": name, "user": user}],
        "contexts": [{"name": "phi3", "context": {"cluster": "phi3", "user": name}}],
        "current-context": "phi3",
    }
    return json.dumps(content, indent=2) + "\n"


def _openssl(*arguments: str | Path) -> None:
    command = ["openssl", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise OSError(f"`openssl {arguments[0]}` failed: {done.stderr.strip()}")
