"""weights.lock.json: what each model's files and layers are, so that every byte can be held against it.

A layer's digest has to be known before it is sent, since a registry takes it at once and whole only then. It follows
from the files alone: anyone who has them can compute the lock again.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from images.catalogue import Model
from images.errors import ImageError
from images.io.progress import Progress
from images.io.retry import retried
from images.weights.layer import Layer, plan
from images.weights.source import File, Source

PATH = Path(__file__).with_name("weights.lock.json")


@dataclass(frozen=True)
class LockedLayer:
    """A layer with its digest ("sha256:…")."""

    layer: Layer
    digest: str


@dataclass(frozen=True)
class Entry:
    """A model's files at one revision, and the layers made of them."""

    model: str
    repository: str
    revision: str
    licence: str
    layers: tuple[LockedLayer, ...]

    @property
    def tag(self) -> str:
        """The tag of an image that holds the weights alone."""
        return f"weights-{self.model}-{self.revision[:12]}"

    @property
    def files(self) -> list[File]:
        """All files."""
        return [file for locked in self.layers for file in locked.layer.files]


def read(path: Path) -> dict[str, dict[str, Any]]:
    """Return what a lock file holds, nothing where there is none; raises ImageError where it cannot be read."""
    try:
        content = json.loads(path.read_text())
        if isinstance(content, dict) and all(isinstance(value, dict) for value in content.values()):
            return content
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ImageError(f"{path} cannot be read as a lock ({error}): restore it, or remove it") from error
    raise ImageError(f"{path} is not a lock: it should hold an object by model; restore it, or remove it")


def find(path: Path, model: Model) -> Entry | None:
    """Return a model's entry, or None where there is none for its revision.

    Raises ImageError where the entry does not agree with itself.
    """
    content = read(path).get(model.name, {})
    if "layers" not in content or (model.revision and content.get("revision") != model.revision):
        return None
    try:
        layers = tuple(
            LockedLayer(Layer(model.name, tuple(File(**file) for file in layer["files"])), layer["digest"])
            for layer in content["layers"]
        )
        sizes = [layer["size"] for layer in content["layers"]]
        entry = Entry(model.name, content["repository"], content["revision"], content["licence"], layers)
        if sizes == [locked.layer.size for locked in layers]:
            return entry
    except (LookupError, TypeError) as error:
        raise ImageError(f"{path}: the entry of {model.name} cannot be read ({error!r}): restore it") from error
    raise ImageError(f"{path}: the sizes of the layers of {model.name} do not fit their files: restore it")


def write(path: Path, entry: Entry) -> None:
    """Put an entry into a lock file, whole or not at all."""
    content = read(path)
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


def make(model: Model, source: Source, connections: int) -> Entry:
    """Read every file once, and return the entry; nothing is kept.

    Raises ImageError where a file is not what the source itself says.
    """
    revision, files = retried(source.files, Progress.say)
    layers = plan(model.name, files)
    progress = Progress(model.name, "hashed")
    with ThreadPoolExecutor(connections) as executor:
        try:
            results = list(executor.map(lambda layer: _hash(layer, source, progress), layers))
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            raise
    return Entry(model.name, model.repository, revision, model.licence, tuple(results))


def differences(entry: Entry, source: Source) -> list[str]:
    """Return what a source's own list of files says otherwise than a lock, a line each; no file is read."""
    revision, files = retried(source.files, Progress.say)
    locked, found = {file.name: file for file in entry.files}, {file.name: file for file in files}
    lines = [] if revision == entry.revision else [f"revision {revision}, and the lock has {entry.revision}"]
    lines += [f"{name} is missing from {source.place}" for name in locked.keys() - found.keys()]
    lines += [f"{name} is not in the lock" for name in found.keys() - locked.keys()]
    for name in locked.keys() & found.keys():
        for key in ("size", "sha256", "git_sha1"):
            ours, theirs = getattr(locked[name], key), getattr(found[name], key)
            if theirs is not None and ours != theirs:
                lines.append(f"{name} has the {key} {theirs}, and the lock has {ours}")
    return sorted(lines)


def _hash(layer: Layer, source: Source, progress: Progress) -> LockedLayer:
    """Compute a layer's digest, and the SHA-256 of every file in it."""

    def once() -> LockedLayer:
        digest, hashes = hashlib.sha256(), {file.name: hashlib.sha256() for file in layer.files if not file.sha256}

        def read(file: File) -> Iterator[bytes]:
            for piece in source.read(file):
                if file.name in hashes:
                    hashes[file.name].update(piece)
                yield piece

        with progress.part(layer.name, layer.size) as add:
            for piece in layer.stream(read, source.place):
                digest.update(piece)
                add(len(piece))
        files = tuple(
            dataclasses.replace(file, sha256=hashes[file.name].hexdigest()) if file.name in hashes else file
            for file in layer.files
        )
        return LockedLayer(Layer(layer.model, files), f"sha256:{digest.hexdigest()}")

    return retried(once, Progress.say)
