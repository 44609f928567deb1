"""Loading a checkpoint."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from structlog.testing import capture_logs

from app.engine.exceptions import LoadError
from tests.support.requests import load


def test_checkpoint_loads_with_its_properties_and_progress_in_the_log(tiny_model: Path) -> None:
    with capture_logs() as lines:
        loaded = load(tiny_model, "float32", None)
    assert (loaded.context, loaded.vocab_size) == (8192, 49152)
    assert (loaded.eos_token_ids, loaded.pad_token_id) == ((0, 2), 0)
    assert loaded.model.dtype == torch.float32
    assert not loaded.model.training
    progress = [line for line in lines if line["event"] == "loading weights"]
    assert progress[-1]["done"] == progress[-1]["total"] > 0


def test_max_context_lowers_the_context(tiny_model: Path) -> None:
    assert load(tiny_model, "float32", 100).context == 100


def test_dtype_setting_is_respected(tiny_model: Path) -> None:
    assert load(tiny_model, "bfloat16", None).model.dtype == torch.bfloat16


def test_auto_dtype_is_the_faster_one_on_a_cpu(tiny_model: Path) -> None:
    with capture_logs() as lines:
        loaded = load(tiny_model, "auto", None)
    if torch.cuda.is_available():
        assert loaded.model.dtype == torch.bfloat16
        return
    (measured,) = (line for line in lines if line["event"] == "compared dtypes")
    faster = min(("float32", "bfloat16"), key=lambda name: measured[name])
    assert str(loaded.model.dtype) == f"torch.{faster}"


def changed(tiny_model: Path, folder: Path, file: str, **values: object) -> Path:
    """A copy of the tiny model with `values` in one of its JSON files; None takes a value out."""
    shutil.copytree(tiny_model, folder, dirs_exist_ok=True)
    content = json.loads((folder / file).read_text()) | values
    (folder / file).write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    return folder


def test_model_of_another_architecture_raises(tiny_model: Path, tmp_path: Path) -> None:
    folder = changed(tiny_model, tmp_path, "config.json", model_type="llama")
    with pytest.raises(LoadError, match="llama"):
        load(folder, "float32", None)


def test_single_eos_token_without_pad_token_is_supported(tiny_model: Path, tmp_path: Path) -> None:
    folder = changed(tiny_model, tmp_path, "generation_config.json", eos_token_id=2, pad_token_id=None)
    loaded = load(folder, "float32", None)
    assert (loaded.eos_token_ids, loaded.pad_token_id) == ((2,), 2)


def test_tokenizer_without_a_decoder_raises(tiny_model: Path, tmp_path: Path) -> None:
    folder = changed(tiny_model, tmp_path, "config.json")
    content = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(content | {"decoder": None}))
    with pytest.raises(LoadError, match=r"tokenizer\.json has no decoder"):
        load(folder, "float32", None)


def test_pickled_weights_are_never_loaded(tiny_model: Path, tmp_path: Path) -> None:
    folder = changed(tiny_model, tmp_path, "config.json")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(LoadError, match="safetensors"):
        load(folder, "float32", None)
