"""The server's settings: read once, from flags and the environment, then passed on."""

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, ValidationError

from app.engine.config import CPU_CONCURRENCY, GPU_CONCURRENCY, Dtype


def _adapter_weights(given: object) -> object:
    """Read `NAME=WEIGHT,…`, the weights as text; raises ValueError."""
    if not isinstance(given, str):
        return given
    weights: dict[str, str] = {}
    for pair in given.split(","):
        name, _, weight = pair.strip().rpartition("=")
        if not name or name in weights:
            raise ValueError("write it like french=0.5,polite=1, each adapter once")
        weights[name] = weight
    return weights


AdapterWeights = Annotated[dict[str, FiniteFloat], BeforeValidator(_adapter_weights)]


class SettingsError(ValueError):
    """A setting is missing or out of range; the text names it and says what is allowed."""


class Settings(BaseModel):
    """Everything an operator can set.

    Each field is a flag (`--max-queue`) and an environment variable (`CHAT_MAX_QUEUE`); the flag wins.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    model: Path = Field(description="folder with the checkpoint")
    name: str = Field("", description="name of the model in metrics and logs; default: the folder's name")
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(5000, ge=0, le=65535, description="port to listen on; 0 picks a free one")
    adapters_dir: Path | None = Field(
        None, description="folder that holds a folder for each LoRA adapter to merge into the weights; default: none"
    )
    adapter_weights: AdapterWeights = Field(
        {}, description="how much of an adapter is merged, such as french=0.5,polite=1; default: 1 of each"
    )
    dtype: Dtype = Field("auto", description="type of the weights; auto: bfloat16 on a GPU, the faster one on a CPU")
    max_context: int | None = Field(
        None, ge=1, description="tokens of prompt and answer together; default: the model's context"
    )
    max_concurrency: int | None = Field(
        None,
        ge=1,
        le=256,
        description=f"sequences that generate at once; default: {GPU_CONCURRENCY} on a GPU, {CPU_CONCURRENCY} on a CPU",
    )
    max_queue: int = Field(64, ge=0, le=1024, description="requests that wait beyond those")
    max_queue_tokens: int | None = Field(
        None, ge=1, description="tokens that those ask for, prompts included; default: four times what the cache holds"
    )
    max_sequences: int = Field(
        16,
        ge=1,
        le=256,
        description="sequences computed side by side for one request (beams, or returned ones)",
    )
    max_beam_tokens: int = Field(
        131_072, ge=1, description="beams times their length, for one request; less where memory is short"
    )
    max_scored_tokens: int = Field(
        2_048, ge=1, description="sequences times new tokens of one request with output_scores"
    )
    memory_share: float | None = Field(
        None, gt=0, le=1, description="share of the free memory that is used; default: 0.9 of a GPU's, 0.25 of a CPU's"
    )
    deterministic: bool = Field(
        False,
        description="gives every answer the same bits in any company, one sequence a pass where the machine needs it",
    )
    stall_seconds: float = Field(
        300, gt=0, description="seconds without a step, while there is work, after which /livez asks for a restart"
    )
    max_list: int = Field(1_024, ge=1, description="token ids in one list of a request")
    max_messages: int = Field(1_024, ge=1, description="messages in one request")
    max_body: int = Field(2 * 1024 * 1024, ge=1024, description="bytes of one request's body")
    max_request_seconds: float = Field(
        3600, gt=0, description="seconds that one request may take, waiting included; X-Request-Timeout asks for less"
    )
    api_keys_file: Path | None = Field(
        None, description="file of API keys, one a line, read again when it changes; default: none are asked for"
    )
    cors_origins: str = Field(
        "", description="origins whose pages may ask from a browser, separated by commas; * is any; default: none"
    )
    drain_seconds: int = Field(30, ge=0, le=3600, description="seconds that running requests get to finish on SIGTERM")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level that is logged")


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


def read(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> Settings:
    """Build the settings from command line `arguments` and CHAT_… variables.

    Raises:
        SettingsError: a value is missing or not allowed; the text names the flag and the variable.
    """
    parser = argparse.ArgumentParser("python -m app", description="Serves a Phi-3 model over HTTP.", allow_abbrev=False)
    flags = _flags()
    for flag in flags:
        parser.add_argument(f"--{flag.name.replace('_', '-')}", metavar="…", help=f"{flag.help} [{flag.variable}]")
    given = vars(parser.parse_args(arguments))
    values: dict[str, Any] = {flag.name: environment[flag.variable] for flag in flags if environment.get(flag.variable)}
    values |= {name: value for name, value in given.items() if value is not None}
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
