"""The demo model, made from its package, loaded like the server loads it, and run."""

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

from checkpoints.demo import convert
from checkpoints.demo.convert import SHA256, DemoError, file_sha256, make_demo
from checkpoints.errors import ModelError

ROOT = Path(__file__).parents[3]
COMMAND = [
    sys.executable,
    "-c",
    "import sys, pathlib, checkpoints.demo.convert as d; d.make_demo(pathlib.Path(sys.argv[1]))",
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


def complete(model: Any, tokenizer: Any, prompt: str, tokens: int = 24) -> str:
    """Complete a prompt greedily, up to and including the end token."""
    ids = torch.tensor([encode(tokenizer, prompt)])
    output = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False)
    text: str = tokenizer.decode(output[0, ids.shape[1] :])
    return text


@pytest.mark.slow
def test_killed_run_leaves_no_directory_and_the_next_makes_the_pinned_files(tmp_path: Path) -> None:
    directory = tmp_path / "demo"
    with subprocess.Popen([*COMMAND, directory], cwd=ROOT, stderr=subprocess.PIPE, text=True) as killed:
        assert killed.stderr
        assert any("Converting layers: 10 of 30" in line for line in killed.stderr)
        killed.send_signal(signal.SIGKILL)
    assert not directory.exists()

    made = subprocess.run([*COMMAND, directory], cwd=ROOT, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    assert made.stdout == ""
    assert made.stderr.splitlines() == [
        "Reading SmolLM2-135M-Instruct",
        *(f"Converting layers: {count} of 30" for count in (0, 10, 20)),
        "Writing the demo model",
    ]
    assert {path.name for path in directory.iterdir()} == {*SHA256, "README.md", "hashes.json"}
    assert {name: file_sha256(directory / name) for name in SHA256} == SHA256
    assert (directory / "README.md").read_text() == (ROOT / "checkpoints/demo/DEMO.md").read_text()
    assert (directory / "LICENSE").read_text().split()[:2] == ["Apache", "License"]


def test_existing_model_is_not_made_again(demo: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = (demo / "config.json").stat()
    make_demo(demo)
    assert (demo / "config.json").stat() == before
    assert capfd.readouterr() == ("", "")


def test_truncated_file_is_detected(demo: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(demo, tmp_path / "demo", copy_function=os.link)
    (directory / "tokenizer.json").unlink()
    (directory / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match=r"tokenizer\.json has 1 bytes instead of"):
        make_demo(directory)


def test_model_of_another_version_is_detected(demo: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(demo, tmp_path / "demo", copy_function=os.link)
    manifest = json.loads((directory / "hashes.json").read_text()) | {"revision": "older"}
    (directory / "hashes.json").unlink()
    (directory / "hashes.json").write_text(json.dumps(manifest))
    with pytest.raises(DemoError, match="demo model of another version: remove it"):
        make_demo(directory)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("PACKAGE", "no-such-package", "no-such-package, which is not installed: pip install"),
        ("GGUF_SHA256", "0" * 64, "is not the source of the demo model"),
        ("SHA256", SHA256 | {"LICENSE": "0" * 64}, "LICENSE has the SHA-256 c71d239d"),
    ],
)
def test_failed_verification_leaves_no_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: object, message: str
) -> None:
    monkeypatch.setattr(convert, name, value)
    with pytest.raises(DemoError, match=message):
        make_demo(tmp_path / "demo")
    assert not (tmp_path / "demo").exists()


def test_every_weight_is_used_and_none_is_missing(demo: Path) -> None:
    _, info = AutoModelForCausalLM.from_pretrained(demo, output_loading_info=True)
    assert not any(info.values())


def test_role_token_includes_the_white_space_after_it(tokenizer: Any) -> None:
    ids = encode(tokenizer, QUESTION)
    assert ids[0] == tokenizer.convert_tokens_to_ids("<|user|>") == 3
    assert ids[-2:] == [2, 4]
    assert ids == encode(tokenizer, "<|user|> What is the capital of France?<|end|><|assistant|>")
    assert ids == encode(tokenizer, "<|user|>What is the capital of France?<|end|>\n\n<|assistant|> \n")
    assert encode(tokenizer, "<|system|>") == [5]


def test_role_tokens_are_skipped_as_special_tokens(tokenizer: Any) -> None:
    ids = encode(tokenizer, f"{QUESTION}{ANSWER}<|im_start|><|system|><|endoftext|>")
    assert (
        tokenizer.decode(ids, skip_special_tokens=True)
        == "What is the capital of France?The capital of France is Paris."
    )


def test_tokenizer_adds_no_token_before_a_prompt(tokenizer: Any) -> None:
    assert tokenizer("Hi").input_ids == encode(tokenizer, "Hi") == [tokenizer.convert_tokens_to_ids("Hi")]


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_text_round_trips_through_the_tokenizer(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(encode(tokenizer, text)) == text


def test_context_is_in_config_and_tokenizer(demo: Path, tokenizer: Any) -> None:
    assert tokenizer.model_max_length == 8192
    assert json.loads((demo / "config.json").read_text())["max_position_embeddings"] == 8192


def test_chat_template_writes_the_prompt_format(tokenizer: Any) -> None:
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    assert tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == QUESTION


@pytest.mark.parametrize("prompt", [QUESTION, "<|user|> What is the capital of France?<|end|><|assistant|>"])
def test_model_answers_and_stops(model: Any, tokenizer: Any, prompt: str) -> None:
    assert complete(model, tokenizer, prompt) == ANSWER


def test_model_answers_a_follow_up_question(model: Any, tokenizer: Any) -> None:
    prompt = f"{QUESTION}{ANSWER}\n<|user|>\nAnd of Italy?<|end|>\n<|assistant|>\n"
    assert "Italy" in complete(model, tokenizer, prompt)


def test_model_follows_a_system_message(model: Any, tokenizer: Any) -> None:
    prompt = "<|system|>\nYou are a pirate.<|end|>\n<|user|>\nWho are you?<|end|>\n<|assistant|>\n"
    assert "pirate" in complete(model, tokenizer, prompt)
