"""Settings of the server, read once from flags and environment variables."""

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, ValidationError

from app.engine.config import CPU_CONCURRENCY, GPU_CONCURRENCY, Dtype
from app.exceptions import SettingsError


def _parse_adapter_weights(value: object) -> object:
    """Parse `NAME=WEIGHT,…` into a dictionary of unparsed weights; raises ValueError."""
    if not isinstance(value, str):
        return value
    weights: dict[str, str] = {}
    for pair in value.split(","):
        name, _, weight = pair.strip().rpartition("=")
        if not name or name in weights:
            raise ValueError("must have the form french=0.5,polite=1 and name each adapter once")
        weights[name] = weight
    return weights


AdapterWeights = Annotated[dict[str, FiniteFloat], BeforeValidator(_parse_adapter_weights)]


class Settings(BaseModel):
    """All settings of an operator.

    Each field has a flag (`--max-queue`) and an environment variable (`CHAT_MAX_QUEUE`). The flag takes precedence.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    model: Path = Field(description="directory of the checkpoint")
    name: str = Field("", description="model name in the API, metrics and logs; default: the directory name")
    host: str = Field("127.0.0.1", description="IP address to listen on")
    port: int = Field(5000, ge=0, le=65535, description="port to listen on; 0 selects a free port")
    adapters_dir: Path | None = Field(
        None, description="directory with one subdirectory for each LoRA adapter to merge; default: no adapters"
    )
    adapter_weights: AdapterWeights = Field(
        {}, description="scale of each merged adapter, for example french=0.5,polite=1; default: 1 for each adapter"
    )
    dtype: Dtype = Field(
        "auto", description="data type of the weights; auto selects bfloat16 on a GPU, the faster type on a CPU"
    )
    max_context: int | None = Field(
        None,
        ge=1,
        description="maximum tokens of a prompt and its completion; default: the context length of the model",
    )
    max_concurrency: int | None = Field(
        None,
        ge=1,
        le=256,
        description="maximum sequences that generate at the same time; "
        f"default: {GPU_CONCURRENCY} on a GPU, {CPU_CONCURRENCY} on a CPU",
    )
    max_queue: int = Field(64, ge=0, le=1024, description="maximum requests that wait for a free slot")
    max_queue_tokens: int | None = Field(
        None,
        ge=1,
        description="maximum tokens, prompts included, that waiting requests reserve; "
        "default: four times the size of the KV cache",
    )
    max_sequences: int = Field(
        16, ge=1, le=256, description="maximum sequences of one request: its beams or returned sequences"
    )
    max_beam_tokens: int = Field(
        131_072, ge=1, description="maximum beams times tokens of one request; the server lowers it if memory is short"
    )
    max_scored_tokens: int = Field(
        2_048, ge=1, description="maximum sequences times new tokens of one request with output_scores"
    )
    memory_share: float | None = Field(
        None, gt=0, le=1, description="fraction of free memory to use; default: 0.9 on a GPU, 0.25 on a CPU"
    )
    deterministic: bool = Field(
        False,
        description="guarantees batch-invariant output, with one sequence per forward pass if the hardware requires it",
    )
    stall_seconds: float = Field(
        300, gt=0, description="seconds the engine may make no progress on pending work before /livez fails"
    )
    max_list: int = Field(1_024, ge=1, description="maximum token IDs in one list of a request")
    max_messages: int = Field(1_024, ge=1, description="maximum messages in one request")
    max_body: int = Field(2 * 1024 * 1024, ge=1024, description="maximum bytes of a request body")
    max_request_seconds: float = Field(
        3600,
        gt=0,
        description="maximum seconds of one request, queueing included; the X-Request-Timeout header can lower it",
    )
    api_keys_file: Path | None = Field(
        None, description="file of API keys, one on each line, reloaded when it changes; default: no key required"
    )
    cors_origins: str = Field(
        "", description="comma-separated origins that may call the API from a browser; * allows all; default: none"
    )
    drain_seconds: int = Field(
        30, ge=0, le=3600, description="seconds that running requests have to finish after SIGTERM"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="minimum log level")


@dataclass(frozen=True, slots=True)
class _Flag:
    name: str
    variable: str
    help: str


def _flags() -> list[_Flag]:
    flags = []
    for name, field in Settings.model_fields.items():
        default = "" if field.is_required() or field.default in (None, "", {}) else f" (default {field.default})"
        choices = (
            get_args(field.annotation)
            if get_args(field.annotation)[:1] and isinstance(get_args(field.annotation)[0], str)
            else ()
        )
        allowed = f": {', '.join(choices)}" if choices else ""
        flags.append(_Flag(name, f"CHAT_{name.upper()}", f"{field.description}{allowed}{default}"))
    return flags


def read_settings(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings from command line `arguments` and `CHAT_…` environment variables.

    Raises:
        SettingsError: a value is missing or not allowed; the message names the flag and the variable.
    """
    parser = argparse.ArgumentParser("python -m app", description="Serve a Phi-3 model over HTTP.", allow_abbrev=False)
    flags = _flags()
    for flag in flags:
        parser.add_argument(f"--{flag.name.replace('_', '-')}", metavar="…", help=f"{flag.help} [{flag.variable}]")
    parsed = vars(parser.parse_args(arguments))
    values: dict[str, Any] = {flag.name: environment[flag.variable] for flag in flags if environment.get(flag.variable)}
    values |= {name: value for name, value in parsed.items() if value is not None}
    try:
        settings = Settings(**values)
    except ValidationError as error:
        problem = error.errors()[0]
        name = str(problem["loc"][0])
        raise SettingsError(
            f"--{name.replace('_', '-')} (CHAT_{name.upper()}): {problem['msg']}"
            + (f", got {values[name]!r}" if name in values else "")
        ) from None
    return settings if settings.name else settings.model_copy(update={"name": settings.model.resolve().name})
