"""A model's files from the Hugging Face hub, as a stream that never touches the disk.

The list of files, addresses, authorization and errors are the official client's; the transfer is not, since the client
writes files, and compares sizes but never hashes. HF_ENDPOINT and HF_TOKEN mean what they mean to the client.
"""

import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus

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

from images.catalogue import Model
from images.errors import ImageError, TransientError
from images.io.retry import TRANSIENT, delay, retry_after
from images.weights.source import INDEX, WEIGHTS, File, is_wanted

BLOCK = 1 << 18
TRIES = 5  # in a row without a single new byte


class Hub:
    """A source that reads one model at its pinned revision."""

    def __init__(self, model: Model) -> None:
        # Telemetry would tell the hub which packages are installed, with a request of its own.
        constants.HF_HUB_DISABLE_TELEMETRY = True
        self._model = model
        self.place = re.sub("//[^/@]*@", "//", constants.ENDPOINT)  # without a password

    def files(self) -> tuple[str, list[File]]:
        """Ask the hub in one request what the revision holds, and choose."""
        model = self._model
        with self._explained(f"asked for {model.repository}"):
            try:
                info = HfApi().model_info(
                    model.repository,
                    revision=model.revision,
                    files_metadata=True,
                    timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
                )
                files = [_describe(entry) for entry in info.siblings or []]
            except (ValueError, LookupError, TypeError) as error:
                raise ImageError(
                    f"{self.place} cannot be asked as a Hugging Face hub can: check HF_ENDPOINT and HF_TOKEN"
                ) from error
        if info.sha != model.revision:
            raise ImageError(
                f"{self.place} answered with revision {info.sha} of {model.repository} where {model.revision} was "
                "asked for: the revision has moved, or HF_ENDPOINT is not a true mirror"
            )
        left_out = [file.name for file in files if not is_wanted(file.name)]
        if left_out:
            print(f"{model.name}: leaving out {', '.join(left_out)}", file=sys.stderr)
        wanted = sorted((file for file in files if is_wanted(file.name)), key=lambda file: file.name)
        self._require(wanted)
        return model.revision, wanted

    def read(self, file: File) -> Iterator[bytes]:
        """Yield a file's bytes, going on where a connection was cut."""
        received = failures = 0
        while received < file.size or not received:
            began = received
            try:
                with self._explained(f"asked for {file.name} of {self._model.repository}"):
                    for piece in self._request(file, received):
                        received += len(piece)
                        yield piece
                return
            except TransientError as error:
                failures = 1 if received > began else failures + 1
                if failures > TRIES or not file.size:
                    raise
                print(f"{self._model.name}: {file.name} cut at {received:,} bytes, going on", file=sys.stderr)
                time.sleep(delay(failures, error.wait))

    def _request(self, file: File, start: int) -> Iterator[bytes]:
        """Yield a file from byte `start` on; raises httpx2.TransportError where less comes."""
        url = hf_hub_url(self._model.repository, file.name, revision=self._model.revision)
        headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        with get_session().stream("GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT) as response:
            hf_raise_for_status(response)
            present = start if response.status_code == HTTPStatus.PARTIAL_CONTENT else 0
            promised = int(response.headers.get("Content-Length", file.size - present))
            if present + promised != file.size:
                raise ImageError(
                    f"{self.place} promises {present + promised:,} bytes of {file.name}, which should have "
                    f"{file.size:,}: the file has changed, or HF_ENDPOINT is not a true mirror"
                )
            for piece in response.iter_bytes(BLOCK):
                skipped = min(start - present, len(piece))
                present += skipped
                if skipped < len(piece):
                    yield piece[skipped:] if skipped else piece

    @contextmanager
    def _explained(self, when: str) -> Iterator[None]:
        """Turn what the client raises into a sentence that says what to do."""
        model = self._model
        try:
            yield
        except RevisionNotFoundError as error:
            raise ImageError(
                f"{self.place} has no revision {model.revision} of {model.repository}: "
                "check that HF_ENDPOINT, if it is set, is a complete mirror"
            ) from error
        except HfHubHTTPError as error:
            status, host = error.response.status_code, error.response.url.host
            if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN) or isinstance(error, RepositoryNotFoundError):
                raise ImageError(
                    f"{host} does not give out {model.repository} (HTTP {status}, {when}): it is missing, or not for "
                    "everybody. Set HF_TOKEN to the token of an account that may read it"
                ) from error
            if status in TRANSIENT:
                wait = retry_after(error.response.headers)
                raise TransientError(f"{host} answered HTTP {status} when {when}: try again later", wait) from error
            raise ImageError(f"{host} answered HTTP {status} when {when}: check HF_ENDPOINT") from error
        except OfflineModeIsEnabled as error:
            raise ImageError("HF_HUB_OFFLINE forbids to ask the hub: unset HF_HUB_OFFLINE") from error
        except httpx2.InvalidURL as error:
            raise ImageError(f"{self.place} is no address ({error}): check HF_ENDPOINT") from error
        except httpx2.HTTPError as error:
            raise TransientError(
                f"{self.place} cannot be reached, or broke off, when {when} ({type(error).__name__} {error}): "
                "check the network, or set HF_ENDPOINT to a mirror"
            ) from error

    def _require(self, files: list[File]) -> None:
        """Refuse a revision without what no model can be loaded without."""
        names = {file.name for file in files}
        missing = {"config.json", "tokenizer.json"} - names
        if INDEX not in names:
            missing |= {"model.safetensors"} - names
        elif not any(name.endswith(WEIGHTS) for name in names):
            missing.add(f"*{WEIGHTS}")
        if missing:
            raise ImageError(
                f"{self.place} has no {', '.join(sorted(missing))} in revision {self._model.revision} of "
                f"{self._model.repository}: check that HF_ENDPOINT, if it is set, is a complete mirror"
            )


def _describe(entry: RepoSibling) -> File:
    if entry.lfs:
        return File(entry.rfilename, entry.lfs.size, sha256=entry.lfs.sha256)
    if entry.size is None or entry.blob_id is None:
        raise LookupError(entry.rfilename)
    return File(entry.rfilename, entry.size, git_sha1=entry.blob_id)
