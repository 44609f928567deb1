"""Loads a checkpoint: safetensors only, no remote code, with progress in the log."""

import contextlib
import io
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from tqdm import tqdm
from transformers import AutoTokenizer, Phi3Config, Phi3ForCausalLM

from app.engine.config import Dtype, EngineConfig
from app.engine.exceptions import LoadError
from app.engine.model_runner.packed_linear import benchmark_gemm
from app.engine.startup.lora import find_adapters, merge_adapter
from app.logs import logger
from app.tokenizer import Tokenizer

log = logger(__name__)

PROGRESS_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A loaded model and its properties.

    Attributes:
        model: in evaluation mode, on its device.
        tokenizer: the checkpoint's.
        context: maximum tokens of prompt and output together.
        vocab_size: number of token ids.
        eos_token_ids: all tokens that end an output.
        pad_token_id: pads outputs.
        adapters: scale of each merged adapter, by name.
    """

    model: Phi3ForCausalLM
    tokenizer: Tokenizer
    context: int
    vocab_size: int
    eos_token_ids: tuple[int, ...]
    pad_token_id: int
    adapters: Mapping[str, float]


def load_model(engine_config: EngineConfig) -> LoadedModel:
    """Load the checkpoint onto the GPU, or onto the CPU if there is no GPU, and merge the adapters.

    Args:
        engine_config: `model` names a directory with config.json, tokenizer.json and safetensors, as `save_pretrained`
            writes them.

    Raises:
        LoadError: the directory has no Phi-3 checkpoint, the context is too large, or an adapter cannot be merged.
    """
    started = time.monotonic()
    directory, max_context = engine_config.model, engine_config.max_context
    try:
        config = Phi3Config.from_pretrained(directory, local_files_only=True)
        tokenizer = Tokenizer(AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False))
    except (OSError, ValueError) as error:
        raise LoadError(f"{directory} has no supported checkpoint: {error}") from error
    if config.model_type != "phi3":
        raise LoadError(f"{directory} has a {config.model_type} model; only phi3 models are supported.")
    if max_context is not None and max_context > config.max_position_embeddings:
        raise LoadError(
            f"CHAT_MAX_CONTEXT is {max_context}, but the model's maximum is {config.max_position_embeddings} tokens. "
            "Set it to that or less."
        )
    adapters = find_adapters(engine_config.adapters_dir, engine_config.adapter_weights)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = _dtype(engine_config.dtype, device, config)
    log.info("loading model", path=str(directory), device=str(device), dtype=str(dtype).removeprefix("torch."))
    with _logged_progress():
        try:
            model = Phi3ForCausalLM.from_pretrained(
                directory,
                config=config,
                dtype=dtype,
                device_map={"": device},
                attn_implementation="sdpa",
                use_safetensors=True,
                local_files_only=True,
            ).eval()
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise LoadError(f"The weights in {directory} cannot be loaded: {error}") from error
    if engine_config.adapters_dir is not None:
        for name, weight in adapters.items():
            model = merge_adapter(model, engine_config.adapters_dir / name, weight)
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
        tokenizer=tokenizer,
        context=max_context or config.max_position_embeddings,
        vocab_size=config.vocab_size,
        eos_token_ids=eos_token_ids,
        pad_token_id=pad if pad is not None else (eos_token_ids or (0,))[0],
        adapters=adapters,
    )


def _dtype(dtype: Dtype, device: torch.device, config: Phi3Config) -> torch.dtype:
    if dtype == "float32":
        return torch.float32
    if dtype == "bfloat16" or device.type == "cuda":
        return torch.bfloat16
    seconds = {candidate: benchmark_gemm(candidate, config) for candidate in (torch.float32, torch.bfloat16)}
    log.info("compared dtypes", **{str(k).removeprefix("torch."): round(v, 6) for k, v in seconds.items()})
    return min(seconds, key=lambda candidate: seconds[candidate])


class _LoggedTqdm(tqdm):  # type: ignore[type-arg]
    """A progress bar that writes log lines instead of drawing."""

    monitor_interval = 0

    def display(self, *_: Any, **__: Any) -> None:
        """Log the progress."""
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
