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

from app.engine.request import LoadError
from app.logs import logger

# PEFT is imported where it is used: that takes seconds, which only adapters are worth.
if TYPE_CHECKING:
    import peft

log = logger(__name__)

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"

# What an adapter may set; all else that PEFT knows is more than a sum of weights, runs other code, or is for training.
_SERVED = {
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
    # Without effect on a model without biases whose layers are all nn.Linear.
    "bias",
    # What every configuration says of itself.
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "peft_type",
    "peft_version",
    "revision",
    "task_type",
}
# Beginnings of training that leave the model's own weights as they are.
_PLAIN_BEGINNINGS = (True, False, "gaussian", "orthogonal")


def find(folder: Path | None, weights: Mapping[str, float]) -> dict[str, float]:
    """Return the adapters in `folder`, by name, and how much of each is merged.

    Args:
        folder: holds a folder for each adapter, with adapter_config.json and adapter_model.safetensors; None is none.
        weights: by adapter; 1 where none is given.

    Raises:
        LoadError: there is no adapter, none of a name that has a weight, or one asks for what is not served.
    """
    if folder is None:
        if weights:
            raise LoadError("CHAT_ADAPTER_WEIGHTS is set without CHAT_ADAPTERS_DIR, the folder that holds adapters.")
        return {}
    if (folder / CONFIG).is_file():
        raise LoadError(
            f"{folder} is an adapter itself: CHAT_ADAPTERS_DIR is a folder that holds a folder for each adapter."
        )
    names = sorted(config.parent.name for config in folder.glob(f"*/{CONFIG}"))
    if not names:
        raise LoadError(f"{folder} holds no adapter: a folder with {CONFIG} and {WEIGHTS} for each is expected.")
    if unknown := sorted(weights.keys() - set(names)):
        raise LoadError(
            f"CHAT_ADAPTER_WEIGHTS names {', '.join(unknown)}; the adapters in {folder} are {', '.join(names)}."
        )
    for name in names:
        _config(folder / name)
    return {name: weights.get(name, 1.0) for name in names}


def merge(model: Phi3ForCausalLM, folder: Path, weight: float) -> Phi3ForCausalLM:
    """Add the weights of the adapter in `folder` to those of `model`, `weight` times.

    Args:
        model: it is changed.
        folder: holds adapter_config.json and adapter_model.safetensors.
        weight: 1 is what the adapter was trained for.

    Returns:
        the model, which knows of no adapter any more.

    Raises:
        LoadError: it is not a LoRA adapter for this model, or asks for what is not served.
    """
    import peft
    from peft.tuners.lora import LoraLayer

    config = _config(folder)
    try:
        wrapped = peft.PeftModel(model, config)
        result = wrapped.load_adapter(str(folder), "default", torch_device=str(model.device))
    except (ValueError, RuntimeError, SafetensorError) as error:
        raise LoadError(f"The adapter {folder} cannot be merged into this model: {error}") from error
    if wrong := [*result.missing_keys, *result.unexpected_keys]:
        raise LoadError(
            f"The adapter {folder} does not hold exactly the weights that its {CONFIG} speaks of: "
            f"{', '.join(wrong[:3])}{' …' if len(wrong) > 3 else ''}."
        )
    for module in wrapped.modules():
        if isinstance(module, LoraLayer):
            module.set_scale("default", weight)
    # PEFT's safe_merge would round twice.
    merged: Phi3ForCausalLM = wrapped.merge_and_unload()
    if not all(torch.isfinite(parameter).all() for parameter in merged.parameters()):
        raise LoadError(f"Merging the adapter {folder}, {weight} times, gives weights that are no finite numbers.")
    log.info("adapter merged", adapter=folder.name, weight=weight, rank=config.r)
    return merged


def _config(folder: Path) -> "peft.LoraConfig":
    """Read what an adapter says of itself; raises LoadError for what is not served."""
    import peft

    try:
        # PEFT saves files that their owner alone may read, and then says that there are none.
        (folder / WEIGHTS).open("rb").close()
    except FileNotFoundError:
        raise LoadError(
            f"The adapter {folder} has no {WEIGHTS}: other formats, such as pickle, are not read."
        ) from None
    except OSError as error:
        raise LoadError(f"{folder / WEIGHTS} cannot be read by user {os.geteuid()}: {error.strerror}.") from None
    try:
        asked = json.loads((folder / CONFIG).read_text())
        kind = asked.get("peft_type")
        known = {field.name for field in dataclasses.fields(peft.LoraConfig)}
        config = peft.LoraConfig(**{key: value for key, value in asked.items() if key in known})
    except (AttributeError, OSError, TypeError, ValueError) as error:
        raise LoadError(f"{folder / CONFIG} is not the configuration of an adapter: {error}") from error
    if kind != "LORA":
        raise LoadError(f"The adapter {folder} is of type {kind}: LORA is what is served.")
    plain = vars(peft.LoraConfig())
    # What this PEFT does not know is a difference too, unless it is switched off.
    odd = sorted(
        key for key in asked.keys() - _SERVED if asked[key] != plain.get(key) and asked[key] not in (None, False)
    )
    if "init_lora_weights" in odd and asked["init_lora_weights"] in _PLAIN_BEGINNINGS:
        odd.remove("init_lora_weights")
    if odd:
        raise LoadError(
            f"The adapter {folder} sets {', '.join(f'{key}={asked[key]!r}' for key in odd)} in its {CONFIG}, "
            "which is not served: merge it into a checkpoint of its own with PEFT, and serve that."
        )
    return config
