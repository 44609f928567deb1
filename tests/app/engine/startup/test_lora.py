"""Merging LoRA adapters."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Phi3ForCausalLM

from app.engine.exceptions import LoadError
from app.engine.startup.lora import find_adapters, merge_adapter
from tests.support.requests import load
from tools.harness.server import running

IDS = torch.tensor([[5, 6, 7, 8, 9]])
Write = Callable[..., Path]


@pytest.fixture
def adapter(tiny_model: Path, tmp_path: Path) -> Write:
    """Writes an adapter with weights that matter into a directory of `tmp_path`, as training with PEFT does."""

    def write(name: str, seed: int = 0, **settings: Any) -> Path:
        torch.manual_seed(seed)
        given: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": ["qkv_proj", "o_proj", "down_proj"]}
        trained = peft.get_peft_model(base(tiny_model), peft.LoraConfig(**given | settings))
        with torch.no_grad():
            for key, weight in trained.named_parameters():
                if "lora_" in key:
                    weight.normal_(std=0.2)
        directory = tmp_path / "adapters" / name
        trained.save_pretrained(str(directory), save_embedding_layers=False)
        return directory

    return write


def base(tiny_model: Path, dtype: torch.dtype = torch.float32) -> Phi3ForCausalLM:
    """The model as it is without adapters."""
    model: Phi3ForCausalLM = Phi3ForCausalLM.from_pretrained(tiny_model, dtype=dtype)
    return model.eval()


def logits(model: Any) -> torch.Tensor:
    """What a model says to a few tokens."""
    with torch.no_grad():
        scores: torch.Tensor = model(IDS).logits
    return scores


@pytest.mark.parametrize(
    ("dtype", "settings"),
    [
        (torch.float32, {}),
        (torch.bfloat16, {}),
        (torch.bfloat16, {"target_modules": "all-linear", "use_rslora": True}),
        (torch.float32, {"target_modules": r".*layers\.1\.mlp\..*_proj"}),
        (torch.bfloat16, {"rank_pattern": {"o_proj": 2}, "alpha_pattern": {"o_proj": 16}}),
        (torch.float32, {"layers_to_transform": [1]}),
        (torch.bfloat16, {"target_modules": ["embed_tokens", "lm_head"]}),
    ],
)
def test_single_adapter_merges_to_the_bits_of_peft(
    adapter: Write, tiny_model: Path, settings: dict[str, Any], dtype: torch.dtype
) -> None:
    directory = adapter("french", **settings)
    own = peft.PeftModel.from_pretrained(base(tiny_model, dtype), str(directory)).merge_and_unload()
    loaded = load(tiny_model, "float32" if dtype == torch.float32 else "bfloat16", adapters_dir=directory.parent)
    assert loaded.adapters == {"french": 1.0}
    weights = loaded.model.state_dict()
    assert weights.keys() == own.state_dict().keys()
    assert all(torch.equal(weights[name], weight) for name, weight in own.state_dict().items())
    assert not torch.allclose(logits(loaded.model), logits(base(tiny_model, dtype)), atol=0.1)


def test_weighted_adapters_merge_as_pefts_exact_combination(adapter: Write, tiny_model: Path) -> None:
    french, polite = adapter("french", 1), adapter("polite.v2", 2, r=2)
    own = peft.PeftModel.from_pretrained(base(tiny_model), str(french), "a")
    own.load_adapter(str(polite), "b")
    own.add_weighted_adapter(["a", "b"], [0.5, 1.5], "both", combination_type="cat")
    own.set_adapter("both")
    loaded = load(tiny_model, adapters_dir=french.parent, adapter_weights={"french": 0.5, "polite.v2": 1.5})
    assert loaded.adapters == {"french": 0.5, "polite.v2": 1.5}
    torch.testing.assert_close(logits(loaded.model), logits(own), atol=1e-4, rtol=1e-5)


def test_server_generates_with_merged_adapters(adapter: Write, tiny_model: Path) -> None:
    directory = adapter("french")
    own: Any = peft.PeftModel.from_pretrained(base(tiny_model), str(directory))
    flags = ("--adapters-dir", str(directory.parent), "--adapter-weights", "french=1")
    with running(tiny_model, "--dtype", "float32", *flags) as server:
        card = server.http.get("/v1/models").json()["data"][0]
        assert card["adapters"] == {"french": 1.0}
        asked = {"prompt": IDS[0].tolist(), "temperature": 0, "max_tokens": 8, "logprobs": 1}
        answer = server.http.post("/v1/completions", json={"model": card["id"], **asked}).json()
    ids = own.generate(input_ids=IDS, max_new_tokens=8, do_sample=False)[0, IDS.shape[1] :]
    assert answer["choices"][0]["text"] == load(tiny_model, "float32", None).tokenizer.decode(ids.tolist())


def test_directory_without_adapters_raises(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"has no adapters.*adapter_model\.safetensors"):
        find_adapters(tmp_path, {})


def test_adapter_instead_of_its_parent_directory_raises(adapter: Write) -> None:
    with pytest.raises(LoadError, match="is itself an adapter"):
        find_adapters(adapter("french"), {})


def test_weight_of_an_unknown_adapter_raises_with_the_known_names(adapter: Write) -> None:
    with pytest.raises(LoadError, match=r"names german; the adapters in .* are: french"):
        find_adapters(adapter("french").parent, {"german": 1})


def test_adapter_weights_without_adapters_dir_raise() -> None:
    with pytest.raises(LoadError, match="needs CHAT_ADAPTERS_DIR"):
        find_adapters(None, {"french": 1})


def test_files_next_to_adapters_are_ignored(adapter: Write) -> None:
    directory = adapter("french").parent
    (directory / "lost+found").mkdir()
    (directory / "README.md").touch()
    assert find_adapters(directory, {}) == {"french": 1.0}


def test_pickled_adapter_weights_are_never_read(adapter: Write) -> None:
    directory = adapter("french")
    (directory / "adapter_model.safetensors").rename(directory / "adapter_model.bin")
    with pytest.raises(LoadError, match=r"has no adapter_model\.safetensors"):
        find_adapters(directory.parent, {})


def test_unreadable_adapter_weights_raise_with_the_reason(adapter: Write) -> None:
    directory = adapter("french")
    (directory / "adapter_model.safetensors").unlink()
    (directory / "adapter_model.safetensors").mkdir()
    with pytest.raises(LoadError, match=r"adapter_model\.safetensors is not readable for user \d+: Is a directory"):
        find_adapters(directory.parent, {})


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"use_dora": True}, "use_dora=True"),
        ({"modules_to_save": ["lm_head"]}, r"modules_to_save=\['lm_head'\]"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa'"),
        ({"lora_bias": True}, "lora_bias=True"),
        ({"megatron_core": "os"}, "megatron_core='os'"),
        ({"peft_type": "IA3"}, "has the type IA3; only LORA is supported"),
        ({"of_tomorrow": {"a": 1}}, "of_tomorrow={'a': 1}"),
        ({"r": -1}, "cannot be merged.*positive"),
        ({"target_modules": ["q_proj"]}, "cannot be merged.*q_proj"),
        ({"target_modules": ["qkv_proj"]}, "weights of the adapter .* do not match its adapter_config"),
        (
            {"target_modules": ["qkv_proj", "o_proj", "down_proj", "gate_up_proj"]},
            "weights of the adapter .* do not match its adapter_config",
        ),
        ({"r": 5}, "cannot be merged.*size mismatch"),
    ],
)
def test_unsupported_adapter_field_raises_with_its_name(
    adapter: Write, tiny_model: Path, settings: dict[str, Any], named: str
) -> None:
    directory = adapter("french")
    config = directory / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | settings))
    with pytest.raises(LoadError, match=f"(?s){named}"):
        merge_adapter(base(tiny_model), directory, 1)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"peft_type": "LORA", "task_type": 3}'])
def test_broken_adapter_configuration_raises_with_its_path(adapter: Write, content: str) -> None:
    directory = adapter("french")
    (directory / "adapter_config.json").write_text(content)
    with pytest.raises(LoadError, match=r"adapter_config\.json is not a valid adapter configuration"):
        find_adapters(directory.parent, {})


def test_broken_adapter_weights_raise_with_the_adapter(adapter: Write, tiny_model: Path) -> None:
    directory = adapter("french")
    file = directory / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(LoadError, match="french cannot be merged into this model"):
        merge_adapter(base(tiny_model), directory, 1)


def test_adapter_with_non_finite_weights_raises(adapter: Write, tiny_model: Path) -> None:
    file = adapter("french") / "adapter_model.safetensors"
    content = load_file(file)
    next(iter(content.values())).fill_(torch.nan)
    save_file(content, file)
    with pytest.raises(
        LoadError, match=r"Merging the adapter .*french with weight 1 gives weights that are not finite"
    ):
        merge_adapter(base(tiny_model), file.parent, 1)
