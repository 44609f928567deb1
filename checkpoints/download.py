"""Catalogue models from the Hugging Face hub, with every file verified before anything can load it.

The list of files, addresses, authorization and errors are the official client's. The transfer is not, because
its `hf_hub_download` (version 2.4) starts a file anew when its process was killed, compares sizes but never
hashes, and leaves plain HTTP for Xet where it can. This one goes on where it stopped and trusts hashes alone.

HF_ENDPOINT and HF_TOKEN mean what they mean to the client.
"""

import hashlib
import json
import re
import shutil
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from http import HTTPStatus
from pathlib import Path
from typing import Any, Self

import httpx2  # the client's own HTTP library, whose errors it passes on
from huggingface_hub import HfApi, constants, get_session, hf_hub_url, hf_raise_for_status
from huggingface_hub.errors import (
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoSibling
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]
from tqdm import tqdm

from checkpoints.atomic import building
from checkpoints.catalogue import INDEX, MANIFEST, CatalogueModel, ModelError, check, read_object, shards

WANTED = (
    "*.safetensors",
    INDEX,
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "LICENSE*",
    "NOTICE*",
)
"""Names of the files fetched, none of which can carry code. Pickles and Python are never asked for."""

CONNECTIONS = 3
RETRIES = 5  # in a row without a single new byte
LONGEST_WAIT = 8  # seconds between two tries
LINE_EVERY = 5  # seconds, where stderr is not a terminal
TRANSIENT = (408, 429, 500, 502, 503, 504)


def fetch(model: CatalogueModel, folder: Path) -> None:
    """Download `model` into `folder`, or return at once where it is there already.

    `folder` appears when every file has the hash that the hub states: SHA-256 for files in LFS, git's blob
    SHA-1 for the others. Until then all is kept beside it, and whatever ends the download, kill -9 included,
    the next call goes on from there. Where `folder` holds another revision, that is replaced when the new one
    is complete. Several processes may call this at once: one downloads, the others wait.

    Progress goes to stderr, as a bar on a terminal and as lines elsewhere.

    Raises ModelError, or OSError where a file cannot be written.
    """
    if folder.exists() and check(folder) == model.revision:
        return
    with _set_aside(folder), building(folder, keep_partial=True) as partial:
        if partial:
            with _explained(model):
                _download(model, partial)
    if check(folder) != model.revision:
        raise ModelError(f"{folder} holds another revision of {model.name}, put there meanwhile: run this again")


@contextmanager
def _set_aside(folder: Path) -> Iterator[None]:
    """Move a folder away for as long as its successor takes, and back if there is none in the end."""
    previous = folder.with_name(f".{folder.name}.previous")
    if folder.exists():
        shutil.rmtree(previous, ignore_errors=True)
        folder.rename(previous)
    try:
        yield
    finally:
        if folder.exists():
            shutil.rmtree(previous, ignore_errors=True)
        elif previous.exists():
            previous.rename(folder)


@contextmanager
def _explained(model: CatalogueModel) -> Iterator[None]:
    """Turn what the client raises into a sentence that says what to do."""
    try:
        yield
    except RevisionNotFoundError as error:
        raise ModelError(
            f"{_endpoint()} has no revision {model.revision} of {model.repository}: "
            "check that HF_ENDPOINT, if it is set, is a complete mirror"
        ) from error
    except HfHubHTTPError as error:
        status, host = error.response.status_code, error.response.url.host
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN) or isinstance(error, RepositoryNotFoundError):
            raise ModelError(
                f"{host} does not give out {model.repository} (HTTP {status}): it is missing, or not for "
                "everybody. Set HF_TOKEN to the token of an account that may read it"
            ) from error
        raise ModelError(
            f"{host} answered HTTP {status} when asked for {model.repository}. "
            "Run this again later, and it goes on where it stopped"
        ) from error
    except OfflineModeIsEnabled as error:
        raise ModelError(
            f"{model.name} is not on this machine, and HF_HUB_OFFLINE forbids downloads: unset HF_HUB_OFFLINE"
        ) from error
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise ModelError(
            f"{_endpoint()} cannot be reached ({error}): check the network, or set HF_ENDPOINT to a "
            "mirror. Run this again, and it goes on where it stopped"
        ) from error


@dataclass(frozen=True)
class _File:
    """A file as the hub describes it: `digest` is a SHA-256 if `lfs`, else the SHA-1 of a git blob."""

    name: str
    size: int
    lfs: bool
    digest: str


def _download(model: CatalogueModel, folder: Path) -> None:
    """Fill `folder`, which may hold what an earlier call left."""
    # Telemetry would tell the hub which packages are installed, with a request of its own.
    constants.HF_HUB_DISABLE_TELEMETRY = True
    files = _choose(model)
    _empty_unless_of_revision(folder, model)
    total = sum(file.size for file in files)
    present = sum(min(_size(folder / file.name), file.size) for file in files)
    free = shutil.disk_usage(folder).free
    if free < total - present:
        raise ModelError(
            f"{model.name} takes {_bytes(total - present)} more in {folder.parent}, where {_bytes(free)} are "
            "free: make room, or choose another disk with --directory"
        )
    _say(f"{model.name}: downloading {len(files)} files, {_bytes(total)}, from {_endpoint()}")
    with _Progress(model.name, total, present) as progress:
        transfer = _Transfer(model, folder, progress)
        hashes = transfer.run(file for file in files if not file.name.endswith(".safetensors"))
        _require(model, files, shards(folder))  # now, before gigabytes follow
        hashes |= transfer.run(file for file in files if file.name.endswith(".safetensors"))
    _write_manifest(folder, model, {file.name: {"size": file.size, "sha256": hashes[file.name]} for file in files})


def _choose(model: CatalogueModel) -> list[_File]:
    """Ask the hub in one request what the revision holds, and choose."""
    try:
        info = HfApi().model_info(
            model.repository,
            revision=model.revision,
            files_metadata=True,
            timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
        )
        files = [_describe(entry) for entry in info.siblings or []]
    except (ValueError, LookupError, TypeError) as error:
        raise ModelError(
            f"{_endpoint()} cannot be asked as a Hugging Face hub can: check HF_ENDPOINT and HF_TOKEN"
        ) from error
    if info.sha != model.revision:
        raise ModelError(
            f"{_endpoint()} answered with revision {info.sha} of {model.repository} where "
            f"{model.revision} was asked for: check HF_ENDPOINT"
        )
    wanted = [file for file in files if _is_wanted(file.name)]
    left_out = [file.name for file in files if not _is_wanted(file.name)]
    if left_out:
        _say(f"{model.name}: leaving out {', '.join(left_out)}")
    has_index = any(file.name == INDEX for file in wanted)
    _require(model, wanted, ["config.json", "tokenizer.json", *([] if has_index else ["model.safetensors"])])
    return wanted


def _describe(entry: RepoSibling) -> _File:
    if entry.lfs:
        return _File(entry.rfilename, entry.lfs.size, True, entry.lfs.sha256)
    if entry.size is None or entry.blob_id is None:
        raise LookupError(entry.rfilename)
    return _File(entry.rfilename, entry.size, False, entry.blob_id)


def _is_wanted(name: str) -> bool:
    return "/" not in name and any(fnmatchcase(name, pattern) for pattern in WANTED)


def _require(model: CatalogueModel, files: list[_File], names: Iterable[str]) -> None:
    missing = sorted(set(names) - {file.name for file in files})
    if missing:
        raise ModelError(
            f"{_endpoint()} has no {', '.join(missing)} in revision {model.revision} of "
            f"{model.repository}, which cannot be loaded without: check that HF_ENDPOINT, if it is set, is a "
            "complete mirror"
        )


def _empty_unless_of_revision(folder: Path, model: CatalogueModel) -> None:
    """Forget an unfinished download of another revision: a file may only go on with bytes of its own."""
    try:
        revision = read_object(folder / MANIFEST).get("revision")
    except ModelError:
        revision = None
    if revision != model.revision:
        for path in folder.iterdir():
            path.unlink()
        _write_manifest(folder, model, {})


def _write_manifest(folder: Path, model: CatalogueModel, files: dict[str, dict[str, Any]]) -> None:
    content = {"repository": model.repository, "revision": model.revision, "files": files}
    (folder / MANIFEST).write_text(json.dumps(content, indent=2) + "\n")


class _Transfer:
    """Brings files of one model into one folder, several at a time."""

    def __init__(self, model: CatalogueModel, folder: Path, progress: "_Progress") -> None:
        self._model = model
        self._folder = folder
        self._progress = progress
        self._stopped = threading.Event()

    def run(self, files: Iterable[_File]) -> dict[str, str]:
        """Fetch and verify files, and return the SHA-256 of each by name. The first failure stops all."""
        with ThreadPoolExecutor(CONNECTIONS) as executor:
            futures = {executor.submit(self._fetch, file): file.name for file in files}
            try:
                return {futures[future]: future.result() for future in as_completed(futures)}
            except BaseException:
                self._stopped.set()
                executor.shutdown(wait=False, cancel_futures=True)
                raise

    def _fetch(self, file: _File) -> str:
        path = self._folder / file.name
        self._receive(file, path)
        with path.open("rb") as content:
            sha256 = hashlib.file_digest(content, "sha256").hexdigest()
        actual = sha256 if file.lfs else _git_sha1(path)
        if actual != file.digest:
            path.unlink()
            kind = "SHA-256" if file.lfs else "git SHA-1"
            raise ModelError(
                f"{file.name} of {self._model.name} arrived damaged: its {kind} is {actual} and should be "
                f"{file.digest}. It was removed; run this again to download it anew. If that ends the same, "
                f"{_endpoint()} or a proxy on the way alters it"
            )
        self._progress.say(f"{file.name} verified")
        return sha256

    def _receive(self, file: _File, path: Path) -> None:
        """Append to `path` what it lacks, over as many requests as that takes."""
        path.touch()
        failures = 0
        while (start := _size(path)) < file.size:
            try:
                self._request(file, path, start)
            except (httpx2.TransportError, HfHubHTTPError) as error:
                failures = 0 if _size(path) > start else failures + 1
                lasting = isinstance(error, HfHubHTTPError) and error.response.status_code not in TRANSIENT
                if lasting or failures > RETRIES or self._stopped.is_set():
                    raise
                self._progress.say(
                    f"{file.name} interrupted at {_bytes(_size(path))} ({type(error).__name__}), going on"
                )
                if self._stopped.wait(min(2**failures, LONGEST_WAIT)):
                    raise

    def _request(self, file: _File, path: Path, start: int) -> None:
        """Ask for a file from byte `start` on; raises httpx2.TransportError where less comes."""
        url = hf_hub_url(self._model.repository, file.name, revision=self._model.revision)
        headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        with get_session().stream("GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT) as response:
            hf_raise_for_status(response)
            resumed = response.status_code == HTTPStatus.PARTIAL_CONTENT
            if start and not resumed:
                self._progress.add(-start)
            with path.open("ab" if resumed else "wb") as output:
                for block in response.iter_bytes():
                    if self._stopped.is_set():
                        raise CancelledError
                    output.write(block)
                    self._progress.add(len(block))
        if _size(path) < file.size:
            raise httpx2.RemoteProtocolError("the answer ended early")


class _Progress:
    """Bytes received so far, shown on stderr: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self, name: str, total: int, present: int) -> None:
        self._name = name
        self._total = total
        self._missing = total - present
        self._received = 0
        self._began = self._spoke = time.monotonic()
        self._lock = threading.Lock()
        self._bar = tqdm(
            desc=name,
            total=total,
            initial=present,
            unit="B",
            unit_scale=True,
            disable=not sys.stderr.isatty(),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def add(self, count: int) -> None:
        """Note bytes received; a negative number, where they have to come again."""
        with self._lock:
            self._received += count
            self._bar.update(count)
            now = time.monotonic()
            if self._bar.disable and now - self._spoke >= LINE_EVERY:
                self._spoke = now
                _say(f"{self._name}: {self._state(now - self._began)}")

    def say(self, text: str) -> None:
        """Write a line without breaking the bar."""
        with self._lock:
            _say(f"{self._name}: {text}")

    def _state(self, seconds: float) -> str:
        rate = max(self._received, 1) / seconds
        left = self._missing - self._received
        return (
            f"{_bytes(self._total - left)} of {_bytes(self._total)}, {_bytes(rate)}/s, "
            f"{tqdm.format_interval(left / rate)} left"
        )


def _endpoint() -> str:
    """Return the hub's address without the password that may stand in it."""
    return re.sub("//[^/@]*@", "//", constants.ENDPOINT)


def _say(text: str) -> None:
    tqdm.write(text, file=sys.stderr)


def _bytes(count: float) -> str:
    return tqdm.format_sizeof(count, "B")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _git_sha1(path: Path) -> str:
    """Hash a file as git does: https://git-scm.com/book/en/v2/Git-Internals-Git-Objects."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
