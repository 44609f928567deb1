"""The certificates of a cluster, made by openssl, and the kubeconfig files that hold them."""

import base64
import json
import subprocess
from pathlib import Path

KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
DAYS = ("-days", "365")


def authority(folder: Path) -> None:
    """Make the authority that signs all others, and the key that signs the tokens of service accounts."""
    _openssl("req", "-x509", *KEY, *DAYS, "-subj", "/CN=phi3", "-keyout", folder / "ca.key", "-out", folder / "ca.crt")
    _openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", folder / "accounts.key")
    _openssl("pkey", "-in", folder / "accounts.key", "-pubout", "-out", folder / "accounts.pub")


def certificate(folder: Path, name: str, user: str, group: str = "", addresses: str = "") -> None:
    """Make NAME.key and NAME.crt for a user of a group, or for a server with names ("DNS:localhost,IP:127.0.0.1")."""
    subject = f"/O={group}/CN={user}" if group else f"/CN={user}"
    names: list[str | Path] = ["-addext", f"subjectAltName={addresses}"] if addresses else []
    request = folder / f"{name}.csr"
    _openssl("req", "-new", *KEY, "-subj", subject, *names, "-keyout", folder / f"{name}.key", "-out", request)
    signed: list[str | Path] = [
        "-CA",
        folder / "ca.crt",
        "-CAkey",
        folder / "ca.key",
        "-copy_extensions",
        "copyall",
        *DAYS,
    ]
    _openssl("x509", "-req", "-in", request, *signed, "-out", folder / f"{name}.crt")
    request.unlink()


def kubeconfig(folder: Path, name: str, server: str) -> str:
    """Return a kubeconfig with which the holder of a certificate asks the API server at `server`."""

    def data(file: str) -> str:
        return base64.b64encode((folder / file).read_bytes()).decode()

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
