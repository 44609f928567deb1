"""The demo model, made for real, loaded as the server loads it, and asked."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from checkpoints.catalogue import ModelError
from checkpoints.demo import convert as module
from checkpoints.demo.convert import SHA256, DemoError, make, sha256

ROOT = Path(__file__).parents[3]
COMMAND = [
    sys.executable,
    "-c",
    "import sys, pathlib, checkpoints.demo.convert as d; d.make(pathlib.Path(sys.argv[1]))",
]
QUESTION = "<|user|>\nWhat is the capital of France?<|end|>\n<|assistant|>\n"
ANSWER = "The capital of France is Paris.<|end|>"


@pytest.fixture(scope="module")
def tokenizer(demo: Path) -> Any:
    return AutoTokenizer.from_pretrained(demo)


@pytest.fixture(scope="module", params=["bfloat16", "float32"])
def model(demo: Path, request: pytest.FixtureRequest) -> Any:
    return AutoModelForCausalLM.from_pretrained(demo, dtype=getattr(torch, request.param))


def encode(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False).input_ids
    return ids


def answer(model: Any, tokenizer: Any, prompt: str, tokens: int = 24) -> str:
    """Continue a prompt greedily, and show where the model ends."""
    ids = torch.tensor([encode(tokenizer, prompt)])
    whole = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False)
    text: str = tokenizer.decode(whole[0, ids.shape[1] :])
    return text


@pytest.mark.slow
def test_a_killed_run_leaves_nothing_by_its_name_and_the_next_makes_the_pinned_files(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    with subprocess.Popen([*COMMAND, folder], cwd=ROOT, stderr=subprocess.PIPE, text=True) as killed:
        assert killed.stderr
        assert any("Converting layers: 10 of 30" in line for line in killed.stderr)
        killed.send_signal(signal.SIGKILL)
    assert not folder.exists()

    made = subprocess.run([*COMMAND, folder], cwd=ROOT, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    assert made.stdout == ""
    assert made.stderr.splitlines() == [
        "Reading SmolLM2-135M-Instruct",
        *(f"Converting layers: {count} of 30" for count in (0, 10, 20)),
        "Writing the demo model",
    ]
    assert {path.name for path in folder.iterdir()} == {*SHA256, "README.md", "hashes.json"}
    assert {name: sha256(folder / name) for name in SHA256} == SHA256
    assert (folder / "README.md").read_text() == (ROOT / "checkpoints/demo/DEMO.md").read_text()
    assert (folder / "LICENSE").read_text().split()[:2] == ["Apache", "License"]


def test_a_made_model_is_not_made_again(demo: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = (demo / "config.json").stat()
    make(demo)
    assert (demo / "config.json").stat() == before
    assert capfd.readouterr() == ("", "")


def test_a_cut_file_is_noticed(demo: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(demo, tmp_path / "demo", copy_function=os.link)
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match=r"tokenizer\.json has 1 bytes and should have"):
        make(folder)


def test_the_model_of_another_version_is_noticed(demo: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(demo, tmp_path / "demo", copy_function=os.link)
    manifest = json.loads((folder / "hashes.json").read_text()) | {"revision": "older"}
    (folder / "hashes.json").unlink()
    (folder / "hashes.json").write_text(json.dumps(manifest))
    with pytest.raises(DemoError, match="another version made: remove it"):
        make(folder)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("PACKAGE", "no-such-package", "no-such-package, which is not installed: pip install"),
        ("GGUF_SHA256", "0" * 64, "is not the file that the demo model is made from"),
        ("SHA256", SHA256 | {"LICENSE": "0" * 64}, "LICENSE came out with the SHA-256 c71d239d"),
    ],
)
def test_what_cannot_be_right_gets_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: object, message: str
) -> None:
    monkeypatch.setattr(module, name, value)
    with pytest.raises(DemoError, match=message):
        make(tmp_path / "demo")
    assert not (tmp_path / "demo").exists()


def test_every_weight_is_used_and_none_is_lacking(demo: Path) -> None:
    _, info = AutoModelForCausalLM.from_pretrained(demo, output_loading_info=True)
    assert not any(info.values())


def test_a_tag_is_one_token_and_takes_the_white_space_after_it(tokenizer: Any) -> None:
    ids = encode(tokenizer, QUESTION)
    assert ids[0] == tokenizer.convert_tokens_to_ids("<|user|>") == 3
    assert ids[-2:] == [2, 4]
    assert ids == encode(tokenizer, "<|user|> What is the capital of France?<|end|><|assistant|>")
    assert ids == encode(tokenizer, "<|user|>What is the capital of France?<|end|>\n\n<|assistant|> \n")
    assert encode(tokenizer, "<|system|>") == [5]


def test_tags_vanish_from_text_where_special_tokens_are_skipped(tokenizer: Any) -> None:
    ids = encode(tokenizer, f"{QUESTION}{ANSWER}<|im_start|><|system|><|endoftext|>")
    assert (
        tokenizer.decode(ids, skip_special_tokens=True)
        == "What is the capital of France?The capital of France is Paris."
    )


def test_nothing_is_put_before_a_prompt(tokenizer: Any) -> None:
    assert tokenizer("Hi").input_ids == encode(tokenizer, "Hi") == [tokenizer.convert_tokens_to_ids("Hi")]


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_text_comes_back_as_it_was(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(encode(tokenizer, text)) == text


def test_the_context_is_stated_where_it_is_looked_for(demo: Path, tokenizer: Any) -> None:
    assert tokenizer.model_max_length == 8192
    assert json.loads((demo / "config.json").read_text())["max_position_embeddings"] == 8192


def test_the_chat_template_writes_the_prompt_format(tokenizer: Any) -> None:
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    assert tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == QUESTION


@pytest.mark.parametrize("prompt", [QUESTION, "<|user|> What is the capital of France?<|end|><|assistant|>"])
def test_it_answers_and_stops(model: Any, tokenizer: Any, prompt: str) -> None:
    assert answer(model, tokenizer, prompt) == ANSWER


def test_it_takes_up_what_is_asked_next(model: Any, tokenizer: Any) -> None:
    prompt = f"{QUESTION}{ANSWER}\n<|user|>\nAnd of Italy?<|end|>\n<|assistant|>\n"
    assert "Italy" in answer(model, tokenizer, prompt)


def test_it_heeds_a_system_message(model: Any, tokenizer: Any) -> None:
    prompt = "<|system|>\nYou are a pirate.<|end|>\n<|user|>\nWho are you?<|end|>\n<|assistant|>\n"
    assert "pirate" in answer(model, tokenizer, prompt)
