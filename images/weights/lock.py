"""weights.lock.json: the files and layers of each model, against which every byte is verified.

A registry accepts a blob in one request only if its digest is known beforehand, so the digests of the layers are
computed first. They follow from the files alone: anyone who has the files can compute the lock file again.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkpoints.catalogue import CatalogueModel
from checkpoints.files import ModelFile
from images import ROOT
from images.errors import ImageError
from images.io.progress import Progress
from images.io.retry import retry_transient
from images.weights.layer import Layer, plan_layers
from images.weights.source import Source

LOCK_PATH = ROOT / "images/weights.lock.json"


@dataclass(frozen=True)
class LockedLayer:
    """A layer with its digest ("sha256:…")."""

    layer: Layer
    digest: str


@dataclass(frozen=True)
class LockEntry:
    """A model's files at one revision, and the layers made of them."""

    model: str
    repository: str
    revision: str
    licence: str
    layers: tuple[LockedLayer, ...]

    @property
    def tag(self) -> str:
        """The tag of the image that holds only the weights."""
        return f"weights-{self.model}-{self.revision[:12]}"

    @property
    def files(self) -> list[ModelFile]:
        """The files of all layers."""
        return [file for locked in self.layers for file in locked.layer.files]


def read_lock(path: Path) -> dict[str, dict[str, Any]]:
    """Return the content of a lock file, empty if there is none; raises ImageError if it cannot be read."""
    try:
        content = json.loads(path.read_text())
        if isinstance(content, dict) and all(isinstance(value, dict) for value in content.values()):
            return content
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ImageError(f"{path} cannot be read as a lock file ({error}): restore or remove it") from error
    raise ImageError(f"{path} is not a lock file, which holds an object for each model: restore or remove it")


def read_entry(path: Path, model: CatalogueModel) -> LockEntry | None:
    """Return a model's entry, or None if there is none for its revision.

    Raises ImageError if the entry is malformed or contradicts itself.
    """
    content = read_lock(path).get(model.name, {})
    if "layers" not in content or (model.revision and content.get("revision") != model.revision):
        return None
    try:
        layers = tuple(
            LockedLayer(Layer(model.name, tuple(ModelFile(**file) for file in layer["files"])), layer["digest"])
            for layer in content["layers"]
        )
        sizes = [layer["size"] for layer in content["layers"]]
        entry = LockEntry(model.name, content["repository"], content["revision"], content["licence"], layers)
        if sizes == [locked.layer.size for locked in layers]:
            return entry
    except (LookupError, TypeError) as error:
        raise ImageError(f"{path}: the entry of {model.name} cannot be read ({error!r}): restore it") from error
    raise ImageError(f"{path}: the sizes of the layers of {model.name} do not match their files: restore the entry")


def write_entry(path: Path, entry: LockEntry) -> None:
    """Add or replace an entry in a lock file, atomically."""
    content = read_lock(path)
    content[entry.model] = {
        "repository": entry.repository,
        "revision": entry.revision,
        "licence": entry.licence,
        "layers": [
            {
                "digest": locked.digest,
                "size": locked.layer.size,
                "files": [
                    {key: value for key, value in dataclasses.asdict(file).items() if value is not None}
                    for file in locked.layer.files
                ],
            }
            for locked in entry.layers
        ],
    }
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(dict(sorted(content.items())), indent=2) + "\n")
    part.replace(path)


def lock_model(model: CatalogueModel, source: Source, connections: int) -> LockEntry:
    """Read every file of a model once, and return its entry.

    Raises ImageError if a file does not match the hash that the source publishes.
    """
    revision, files = retry_transient(source.list_files, Progress.log_line)
    layers = plan_layers(model.name, files)
    progress = Progress(model.name, "hashed")
    with ThreadPoolExecutor(connections) as executor:
        try:
            locked = list(executor.map(lambda layer: _hash_layer(layer, source, progress), layers))
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            raise
    return LockEntry(model.name, model.repository, revision, model.licence, tuple(locked))


def compare_with_source(entry: LockEntry, source: Source) -> list[str]:
    """Return the differences between an entry and a source's list of files, a line each; this reads no file."""
    revision, files = retry_transient(source.list_files, Progress.log_line)
    locked, found = {file.name: file for file in entry.files}, {file.name: file for file in files}
    lines = [] if revision == entry.revision else [f"the revision is {revision}, and {entry.revision} in the lock file"]
    lines += [f"{name} is missing from {source.location}" for name in locked.keys() - found.keys()]
    lines += [f"{name} is not in the lock file" for name in found.keys() - locked.keys()]
    for name in locked.keys() & found.keys():
        for key in ("size", "sha256", "git_sha1"):
            ours, theirs = getattr(locked[name], key), getattr(found[name], key)
            if theirs is not None and ours != theirs:
                lines.append(f"{name} has the {key} {theirs}, and {ours} in the lock file")
    return sorted(lines)


def _hash_layer(layer: Layer, source: Source, progress: Progress) -> LockedLayer:
    """Compute the digest of a layer, and the SHA-256 of every file in it."""

    def attempt() -> LockedLayer:
        digest, hashes = hashlib.sha256(), {file.name: hashlib.sha256() for file in layer.files if not file.sha256}

        def read(file: ModelFile) -> Iterator[bytes]:
            for block in source.read(file):
                if file.name in hashes:
                    hashes[file.name].update(block)
                yield block

        with progress.part(layer.name, layer.size) as add:
            for block in layer.stream(read, source.location):
                digest.update(block)
                add(len(block))
        files = tuple(
            dataclasses.replace(file, sha256=hashes[file.name].hexdigest()) if file.name in hashes else file
            for file in layer.files
        )
        return LockedLayer(Layer(layer.model, files), f"sha256:{digest.hexdigest()}")

    return retry_transient(attempt, Progress.log_line)
