"""Loads a checkpoint: safetensors only, no remote code, progress in the log."""

import contextlib
import io
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from tqdm import tqdm
from transformers import AutoTokenizer, Phi3Config, Phi3ForCausalLM

from app.engine.model_runner.packed_linear import seconds_per_step
from app.engine.request import LoadError
from app.engine.startup.lora import find, merge
from app.logs import logger
from app.settings import Dtype
from app.tokenizer import Tokenizer

log = logger(__name__)

PROGRESS_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to generate, and the facts about it that requests are checked against.

    Attributes:
        model: in evaluation mode, on its device.
        tokenizer: the checkpoint's own.
        context: tokens of prompt and answer together.
        vocabulary: number of token ids.
        eos_token_ids: tokens that end an answer, all of them.
        pad_token_id: fills up.
        adapters: merged into the weights: how much of each, by name.
    """

    model: Phi3ForCausalLM
    tokenizer: Tokenizer
    context: int
    vocabulary: int
    eos_token_ids: tuple[int, ...]
    pad_token_id: int
    adapters: Mapping[str, float]


def load(
    folder: Path,
    dtype: Dtype,
    max_context: int | None,
    adapters_dir: Path | None = None,
    adapter_weights: Mapping[str, float] = MappingProxyType({}),
) -> LoadedModel:
    """Load the checkpoint in `folder` onto the GPU, or the CPU where there is none.

    Args:
        folder: config.json, tokenizer.json and safetensors, as `save_pretrained` writes them.
        dtype: of the weights.
        max_context: tokens; at most the model's own context, which is meant by None.
        adapters_dir: holds a folder for each LoRA adapter that is merged into the weights; None is none.
        adapter_weights: how much of it, by adapter; 1 where none is given.

    Raises:
        LoadError: the folder is not a Phi-3 checkpoint, `max_context` is too large, or an adapter cannot be merged.
    """
    started = time.monotonic()
    try:
        config = Phi3Config.from_pretrained(folder, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise LoadError(f"{folder} is not a checkpoint that can be served: {error}") from error
    if config.model_type != "phi3":
        raise LoadError(f"{folder} holds a {config.model_type} model; phi3 is what is served.")
    if max_context is not None and max_context > config.max_position_embeddings:
        raise LoadError(
            f"CHAT_MAX_CONTEXT is {max_context}, and the model's context {config.max_position_embeddings} tokens: "
            "set it to that, or less."
        )
    adapters = find(adapters_dir, adapter_weights)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    chosen = _dtype(dtype, device, config)
    log.info("loading model", folder=str(folder), device=str(device), dtype=str(chosen).removeprefix("torch."))
    with _logged_progress():
        try:
            model = Phi3ForCausalLM.from_pretrained(
                folder,
                config=config,
                dtype=chosen,
                device_map={"": device},
                attn_implementation="sdpa",
                use_safetensors=True,
                local_files_only=True,
            ).eval()
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise LoadError(f"The weights in {folder} cannot be loaded: {error}") from error
    if adapters_dir is not None:
        for name, weight in adapters.items():
            model = merge(model, adapters_dir / name, weight)
    eos = model.generation_config.eos_token_id
    eos_token_ids = tuple(eos) if isinstance(eos, list) else () if eos is None else (eos,)
    pad = model.generation_config.pad_token_id
    log.info(
        "model loaded",
        seconds=round(time.monotonic() - started, 1),
        parameters=model.num_parameters(),
        context=max_context or config.max_position_embeddings,
    )
    return LoadedModel(
        model=model,
        tokenizer=Tokenizer(tokenizer),
        context=max_context or config.max_position_embeddings,
        vocabulary=config.vocab_size,
        eos_token_ids=eos_token_ids,
        pad_token_id=pad if pad is not None else (eos_token_ids or (0,))[0],
        adapters=adapters,
    )


def _dtype(dtype: Dtype, device: torch.device, config: Phi3Config) -> torch.dtype:
    if dtype == "float32":
        return torch.float32
    if dtype == "bfloat16" or device.type == "cuda":
        return torch.bfloat16
    seconds = {candidate: seconds_per_step(candidate, config) for candidate in (torch.float32, torch.bfloat16)}
    log.info("measured types", **{str(k).removeprefix("torch."): round(v, 6) for k, v in seconds.items()})
    return min(seconds, key=lambda candidate: seconds[candidate])


class _LoggedTqdm(tqdm):  # type: ignore[type-arg]
    """A progress bar that writes log lines."""

    monitor_interval = 0

    def display(self, *_: Any, **__: Any) -> None:
        """Log how far it is."""
        log.info("loading weights", done=self.n, total=self.total)


@contextlib.contextmanager
def _logged_progress() -> Iterator[None]:
    def hook(_: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return _LoggedTqdm(*args, **{**kwargs, "mininterval": PROGRESS_SECONDS, "file": io.StringIO()})

    previous = transformers.logging.set_tqdm_hook(hook)
    try:
        yield
    finally:
        transformers.logging.set_tqdm_hook(previous)
