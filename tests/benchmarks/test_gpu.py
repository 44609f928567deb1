"""The measurements of scripts/bench gpu, with a small model on a CPU."""

import torch

from benchmarks.gpu import measure, measure_bandwidth, random_model, results_table

CPU = torch.device("cpu")
SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}


def test_generate_and_the_engine_are_measured_with_the_same_weights() -> None:
    model = random_model(SIZES, CPU)
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    results, _, profiled = measure("small", model, [1, 3], 8)
    assert [(result.name, result.clients) for result in results] == [("`generate`", 1), ("phi3", 1), ("phi3", 3)]
    assert all(result.speed > 0 and result.step > 0 for result in results)
    weights = sum(weight.nbytes for weight in model.parameters()) - model.model.embed_tokens.weight.nbytes
    token = 2 * 2 * 2 * 8 * 2  # keys and values, layers, heads, head dim, bfloat16
    assert results[2].bytes == weights + 3 * (128 + 4) * token
    assert "aten::" in profiled
    assert results_table(results, 1e9).count("| small |") == 3


def test_bandwidth_counts_reads_and_writes() -> None:
    assert measure_bandwidth(CPU, 2**16) > 1e6
