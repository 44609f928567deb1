"""The Hugging Face Hub client: lists the files of a revision, and streams them with resume and retry.

Listing, addresses, authorization and errors come from the official client. The transfer does not, because
`hf_hub_download` (huggingface-hub 2.4) restarts a file if its process was killed, compares sizes but never hashes, and
prefers Xet over plain HTTP. This client reads ranges over plain HTTP; its callers verify the hashes.

HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE have the same meaning as for the official client.
"""

import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus

import httpx2  # the official client's own HTTP library, whose errors it raises
from huggingface_hub import HfApi, constants, get_session, hf_hub_url, hf_raise_for_status
from huggingface_hub.errors import (
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoSibling
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

from checkpoints.catalogue import CatalogueModel
from checkpoints.errors import HubError, TransientHubError
from checkpoints.files import INDEX, ModelFile, is_wanted, is_weights
from checkpoints.retry import TRANSIENT_STATUSES, backoff_seconds, parse_retry_after

MAX_RETRIES = 5
"""Reconnections in a row without a single new byte."""


@dataclass(frozen=True)
class Listing:
    """The files of a revision, by name in order, and the names of those that serving does not need."""

    files: list[ModelFile]
    skipped: list[str]


@dataclass(frozen=True)
class Block:
    """Bytes of a file; `offset` is the position of the first one."""

    offset: int
    content: bytes


class HubClient:
    """Reads one model at its pinned revision.

    `log_line` gets a line for each resumed connection. `cancelled`, once set, ends every stream with CancelledError.
    """

    def __init__(
        self,
        model: CatalogueModel,
        log_line: Callable[[str], None],
        cancelled: threading.Event | None = None,
    ) -> None:
        # Telemetry sends a request of its own with the installed packages.
        constants.HF_HUB_DISABLE_TELEMETRY = True
        self.model = model
        self._log_line = log_line
        self._cancelled = cancelled or threading.Event()
        self.endpoint = re.sub("//[^/@]*@", "//", constants.ENDPOINT)
        """The hub's address without a password."""

    def list_files(self) -> Listing:
        """Return the files of the revision, in one request.

        Raises HubError if the hub has another revision or lacks a file that every model needs, or TransientHubError.
        """
        model = self.model
        with self._translate_errors(model.repository):
            try:
                info = HfApi().model_info(
                    model.repository,
                    revision=model.revision,
                    files_metadata=True,
                    timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
                )
                files = sorted(map(_to_file, info.siblings or []), key=lambda file: file.name)
            except (ValueError, LookupError, TypeError) as error:
                raise HubError(
                    f"{self.endpoint} does not respond like a Hugging Face hub: check HF_ENDPOINT and HF_TOKEN"
                ) from error
        if info.sha != model.revision:
            raise HubError(
                f"{self.endpoint} returned revision {info.sha} of {model.repository} instead of {model.revision}: "
                "the revision has moved, or HF_ENDPOINT is not a faithful mirror"
            )
        wanted = [file for file in files if is_wanted(file.name)]
        self._verify_complete({file.name for file in wanted})
        return Listing(wanted, [file.name for file in files if not is_wanted(file.name)])

    def stream(self, file: ModelFile, start: int = 0, block_size: int | None = None) -> Iterator[Block]:
        """Yield a file from byte `start`, and resume after a dropped connection.

        Blocks have `block_size` bytes, or the size in which they arrive. A hub that does not support ranges sends the
        file from its beginning, so a block's offset can lie before the end of the previous one.

        Raises HubError if the hub refuses the file, or TransientHubError after several attempts without a new byte.
        """
        position, failures = start, 0
        while position < file.size:
            resumed_at = position
            try:
                for block in self._read_range(file, position, block_size):
                    position = block.offset + len(block.content)
                    yield block
            except TransientHubError as error:
                failures = 1 if position > resumed_at else failures + 1
                if failures > MAX_RETRIES:
                    raise
                if not self._cancelled.is_set():
                    self._log_line(f"{file.name} was interrupted at {position:,} bytes, resuming")
                if self._cancelled.wait(backoff_seconds(failures, error.wait)):
                    raise CancelledError from error

    def _read_range(self, file: ModelFile, start: int, block_size: int | None) -> Iterator[Block]:
        """Yield a file from byte `start`, or from 0 if the hub does not support ranges, in one request."""
        url = hf_hub_url(self.model.repository, file.name, revision=self.model.revision)
        headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
        with (
            self._translate_errors(f"{file.name} of {self.model.repository}"),
            get_session().stream("GET", url, headers=headers, timeout=timeout) as response,
        ):
            hf_raise_for_status(response)
            offset = start if response.status_code == HTTPStatus.PARTIAL_CONTENT else 0
            self._verify_length(file, offset, response)
            for content in response.iter_bytes(block_size):
                if self._cancelled.is_set():
                    raise CancelledError
                yield Block(offset, content)
                offset += len(content)
            if offset < file.size:
                raise httpx2.RemoteProtocolError("the response ended early")

    def _verify_length(self, file: ModelFile, offset: int, response: httpx2.Response) -> None:
        """Raise HubError before the first byte if the response announces another size than the listing."""
        announced = response.headers.get("Content-Length")
        if "Content-Encoding" in response.headers:
            return  # the length is that of the encoded body
        if announced is not None and offset + int(announced) != file.size:
            raise HubError(
                f"{self.endpoint} announces {offset + int(announced):,} bytes for {file.name} instead of "
                f"{file.size:,}: the file has changed, or HF_ENDPOINT is not a faithful mirror"
            )

    def _verify_complete(self, names: set[str]) -> None:
        """Raise HubError if a file is missing without which no model can be loaded."""
        missing = {"config.json", "tokenizer.json"} - names
        if INDEX not in names:
            missing |= {"model.safetensors"} - names
        elif not any(map(is_weights, names)):
            missing.add("*.safetensors")
        if missing:
            raise HubError(self.missing_files_message(missing))

    def missing_files_message(self, names: set[str]) -> str:
        """Return the error message for files that the revision lacks."""
        return (
            f"{self.endpoint} has no {', '.join(sorted(names))} in revision {self.model.revision} of "
            f"{self.model.repository}: if HF_ENDPOINT is set, check that it is a complete mirror"
        )

    @contextmanager
    def _translate_errors(self, subject: str) -> Iterator[None]:
        """Turn the official client's exceptions for a request for `subject` into HubError or TransientHubError."""
        model = self.model
        try:
            yield
        except RevisionNotFoundError as error:
            raise HubError(
                f"{self.endpoint} has no revision {model.revision} of {model.repository}: "
                "if HF_ENDPOINT is set, check that it is a complete mirror"
            ) from error
        except HfHubHTTPError as error:
            status, host = error.response.status_code, error.response.url.host
            if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN) or isinstance(error, RepositoryNotFoundError):
                raise HubError(
                    f"{host} denies access to {subject} (HTTP {status}): the repository does not exist or is "
                    "restricted. Set HF_TOKEN to the token of an account that may read it"
                ) from error
            if status in TRANSIENT_STATUSES:
                raise TransientHubError(
                    f"{host} returned HTTP {status} for {subject}: try again later",
                    parse_retry_after(error.response.headers),
                ) from error
            raise HubError(f"{host} returned HTTP {status} for {subject}: check HF_ENDPOINT") from error
        except OfflineModeIsEnabled as error:
            raise HubError(
                f"{subject} is not on this machine, and HF_HUB_OFFLINE forbids downloads: unset HF_HUB_OFFLINE"
            ) from error
        except httpx2.InvalidURL as error:
            raise HubError(f"{self.endpoint} is not a valid address ({error}): check HF_ENDPOINT") from error
        except httpx2.HTTPError as error:
            raise TransientHubError(
                f"{self.endpoint} cannot be reached, or the connection for {subject} was dropped "
                f"({type(error).__name__}: {error}): check the network, or set HF_ENDPOINT to a mirror"
            ) from error


def _to_file(entry: RepoSibling) -> ModelFile:
    if entry.lfs:
        return ModelFile(entry.rfilename, entry.lfs.size, sha256=entry.lfs.sha256)
    if entry.size is None or entry.blob_id is None:
        raise LookupError(entry.rfilename)
    return ModelFile(entry.rfilename, entry.size, git_sha1=entry.blob_id)
