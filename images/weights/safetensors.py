"""The header of a safetensors file, checked before the rest is sent anywhere.

The format: https://github.com/huggingface/safetensors#format
"""

import json
import math
from collections.abc import Iterator

from images.errors import ImageError
from images.weights.source import File

LARGEST_HEADER = 8 << 20
"""Bytes; Phi-3's headers have some 20,000."""
BITS = {"BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16}
BITS |= {"I32": 32, "U32": 32, "F32": 32, "F64": 64, "I64": 64, "U64": 64}


def checked(file: File, content: Iterator[bytes], place: str) -> Iterator[bytes]:
    """Pass on a file's bytes once its header is read and sound; raises ImageError where it is not."""
    start = b""
    for piece in content:
        start += piece
        size = int.from_bytes(start[:8], "little")
        if len(start) < 8 or (len(start) < 8 + size and size <= LARGEST_HEADER):
            continue
        problem = _problem(start[8 : 8 + size], size, file.size)
        if problem:
            raise ImageError(f"{file.name} from {place} is not a sound safetensors file: {problem}")
        yield start
        break
    else:
        yield start  # too short: its size tells
    yield from content


def _problem(header: bytes, size: int, file_size: int) -> str:
    """Say what is wrong with a header, or return ""."""
    if size > LARGEST_HEADER:
        return f"its header should have {size:,} bytes, and at most {LARGEST_HEADER:,} are accepted"
    try:
        tensors = json.loads(header)
        tensors.pop("__metadata__", None)
        parts = sorted((*map(int, tensor["data_offsets"]), name, tensor) for name, tensor in tensors.items())
        end = 0
        for begin, stop, name, tensor in parts:
            if begin != end or (stop - begin) * 8 != math.prod(tensor["shape"]) * BITS[tensor["dtype"]]:
                return f"the place of {name} in it does not fit its shape and type"
            end = stop
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        return f"its header cannot be read ({error!r})"
    if 8 + size + end != file_size:
        return f"its header describes {8 + size + end:,} bytes, and the file has {file_size:,}"
    return ""
