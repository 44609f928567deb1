"""Validation of a safetensors file by its header, before the rest of the file is sent anywhere.

Source of the format: https://github.com/huggingface/safetensors#format
"""

import json
import math
from collections.abc import Iterator

from checkpoints.files import ModelFile
from images.errors import ImageError

MAX_HEADER_BYTES = 8 << 20
"""Phi-3's headers have about 20,000 bytes."""
BITS = {"BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16}
BITS |= {"I32": 32, "U32": 32, "F32": 32, "F64": 64, "I64": 64, "U64": 64}
"""The size of an element by dtype."""


def verify_header(file: ModelFile, blocks: Iterator[bytes], location: str) -> Iterator[bytes]:
    """Yield the blocks of a file once its header is complete and valid; raises ImageError if it is not."""
    start = b""
    for block in blocks:
        start += block
        size = int.from_bytes(start[:8], "little")
        if len(start) < 8 or (len(start) < 8 + size and size <= MAX_HEADER_BYTES):
            continue
        problem = _find_problem(start[8 : 8 + size], size, file.size)
        if problem:
            raise ImageError(f"{file.name} from {location} is not a valid safetensors file: {problem}")
        yield start
        break
    else:
        yield start  # shorter than its header: the caller's check of the size rejects it
    yield from blocks


def _find_problem(header: bytes, size: int, file_size: int) -> str:
    """Return the defect of a header, or ""."""
    if size > MAX_HEADER_BYTES:
        return f"its header claims {size:,} bytes, and the limit is {MAX_HEADER_BYTES:,}"
    try:
        tensors = json.loads(header)
        tensors.pop("__metadata__", None)
        parts = sorted((*map(int, tensor["data_offsets"]), name, tensor) for name, tensor in tensors.items())
        end = 0
        for begin, stop, name, tensor in parts:
            if begin != end or (stop - begin) * 8 != math.prod(tensor["shape"]) * BITS[tensor["dtype"]]:
                return f"the offsets of {name} do not match its shape and dtype"
            end = stop
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        return f"its header cannot be read ({error!r})"
    if 8 + size + end != file_size:
        return f"its header describes {8 + size + end:,} bytes, and the file has {file_size:,}"
    return ""
