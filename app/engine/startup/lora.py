"""Merges LoRA adapters into a model, as PEFT's own merge_and_unload does."""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from transformers import Phi3ForCausalLM

from app.engine.exceptions import LoadError
from app.logs import logger

# Importing PEFT takes seconds, so functions import it only for adapters.
if TYPE_CHECKING:
    import peft

log = logger(__name__)

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"

# Supported fields. All others that PEFT knows are more than a sum of weights, run other code, or are for training.
_SUPPORTED = {
    "alpha_pattern",
    "exclude_modules",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_dropout",
    "r",
    "rank_pattern",
    "target_modules",
    "use_rslora",
    # No effect on a model without biases whose layers are all nn.Linear.
    "bias",
    # Metadata.
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "peft_type",
    "peft_version",
    "revision",
    "task_type",
}
# Initializations that leave the model's own weights unchanged.
_PLAIN_INITIALIZATIONS = (True, False, "gaussian", "orthogonal")


def find_adapters(directory: Path | None, weights: Mapping[str, float]) -> dict[str, float]:
    """Find the adapters in `directory` and return the scale of each, by name.

    Args:
        directory: contains a directory for each adapter, with adapter_config.json and adapter_model.safetensors.
        weights: scale by adapter; 1 unless given.

    Raises:
        LoadError: there is no adapter, a weight names an unknown one, or an adapter needs an unsupported feature.
    """
    if directory is None:
        if weights:
            raise LoadError("CHAT_ADAPTER_WEIGHTS needs CHAT_ADAPTERS_DIR, the directory with the adapters.")
        return {}
    if (directory / CONFIG).is_file():
        raise LoadError(f"{directory} is itself an adapter. Set CHAT_ADAPTERS_DIR to its parent directory.")
    names = sorted(config.parent.name for config in directory.glob(f"*/{CONFIG}"))
    if not names:
        raise LoadError(f"{directory} has no adapters. Add a directory with {CONFIG} and {WEIGHTS} for each.")
    if unknown := sorted(weights.keys() - set(names)):
        raise LoadError(
            f"CHAT_ADAPTER_WEIGHTS names {', '.join(unknown)}; the adapters in {directory} are: {', '.join(names)}."
        )
    for name in names:
        _config(directory / name)
    return {name: weights.get(name, 1.0) for name in names}


def merge_adapter(model: Phi3ForCausalLM, directory: Path, weight: float) -> Phi3ForCausalLM:
    """Add the weights of an adapter, times `weight`, to those of `model`.

    Args:
        model: is modified.
        directory: of the adapter.
        weight: scale; the adapter was trained for 1.

    Returns:
        the plain model, without adapter modules.

    Raises:
        LoadError: it is no LoRA adapter for this model, or needs an unsupported feature.
    """
    import peft
    from peft.tuners.lora import LoraLayer

    config = _config(directory)
    try:
        wrapped = peft.PeftModel(model, config)
        result = wrapped.load_adapter(str(directory), "default", torch_device=str(model.device))
    except (ValueError, RuntimeError, SafetensorError) as error:
        raise LoadError(f"The adapter {directory} cannot be merged into this model: {error}") from error
    if wrong := [*result.missing_keys, *result.unexpected_keys]:
        raise LoadError(
            f"The weights of the adapter {directory} do not match its {CONFIG}: "
            f"{', '.join(wrong[:3])}{' …' if len(wrong) > 3 else ''}."
        )
    for module in wrapped.modules():
        if isinstance(module, LoraLayer):
            module.set_scale("default", weight)
    # PEFT's safe_merge would round twice.
    merged: Phi3ForCausalLM = wrapped.merge_and_unload()
    if not all(torch.isfinite(parameter).all() for parameter in merged.parameters()):
        raise LoadError(f"Merging the adapter {directory} with weight {weight} gives weights that are not finite.")
    log.info("adapter merged", adapter=directory.name, weight=weight, rank=config.r)
    return merged


def _config(directory: Path) -> "peft.LoraConfig":
    """Read the configuration of an adapter; raises LoadError if it needs an unsupported feature."""
    import peft

    try:
        # PEFT writes files that only their owner can read, and reports unreadable ones as missing.
        (directory / WEIGHTS).open("rb").close()
    except FileNotFoundError:
        raise LoadError(
            f"The adapter {directory} has no {WEIGHTS}. Convert other formats, such as pickle, to safetensors."
        ) from None
    except OSError as error:
        raise LoadError(f"{directory / WEIGHTS} is not readable for user {os.geteuid()}: {error.strerror}.") from None
    try:
        fields = json.loads((directory / CONFIG).read_text())
        kind = fields.get("peft_type")
        known = {each.name for each in dataclasses.fields(peft.LoraConfig)}
        config = peft.LoraConfig(**{key: value for key, value in fields.items() if key in known})
    except (AttributeError, OSError, TypeError, ValueError) as error:
        raise LoadError(f"{directory / CONFIG} is not a valid adapter configuration: {error}") from error
    if kind != "LORA":
        raise LoadError(f"The adapter {directory} has the type {kind}; only LORA is supported.")
    plain = vars(peft.LoraConfig())
    # A field that this PEFT version does not know counts too, unless it is switched off.
    odd = sorted(
        key for key in fields.keys() - _SUPPORTED if fields[key] != plain.get(key) and fields[key] not in (None, False)
    )
    if "init_lora_weights" in odd and fields["init_lora_weights"] in _PLAIN_INITIALIZATIONS:
        odd.remove("init_lora_weights")
    if odd:
        raise LoadError(
            f"The adapter {directory} sets {', '.join(f'{key}={fields[key]!r}' for key in odd)} in its {CONFIG}, "
            "which is not supported. Merge the adapter into a checkpoint with PEFT, and serve that checkpoint."
        )
    return config
