"""Fits the input embeddings of Phi-3's role tokens for the demo model, and writes roles.safetensors.

This ran once; run it again, by scripts/fit-roles, only after a change to its inputs.

The demo model was trained on ChatML, which puts five tokens between two messages: end, line break, start, role, line
break. Phi-3 puts two. The program fits the embeddings of Phi-3's four role tokens and freezes all other weights. The
teacher is the model with a conversation in ChatML, which it continues greedily. The student is the same model with the
same conversation in Phi-3's format. The loss is the Kullback-Leibler divergence of the next token, over all tokens of
the teacher's completions: knowledge distillation (https://arxiv.org/abs/1503.02531) into a soft prompt
(https://arxiv.org/abs/2104.08691). Nothing here is random; processors differ only in rounding.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from torch.nn.functional import kl_div
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoTokenizer, Phi3ForCausalLM
from transformers.utils.logging import disable_progress_bar

from checkpoints.demo import convert

EPOCHS = 6
BATCH = 4
LEARNING_RATE = 4e-2
COMPLETION_TOKENS = 40

Conversation = list[list[str]]
"""Pairs of role and text; the last message is the user's."""

CONVERSATIONS: dict[str, list[Conversation]] = json.loads(Path(__file__).with_name("conversations.json").read_text())
TRAINING = CONVERSATIONS["training"]
HELD_OUT = CONVERSATIONS["held_out"]
STEPS = EPOCHS * len(TRAINING) // BATCH


def hash_inputs() -> str:
    """Return the SHA-256 of all inputs of the fit: the source weights, the conversations and the hyperparameters."""
    inputs = {
        "source": convert.GGUF_SHA256,
        "conversations": CONVERSATIONS,
        "epochs": EPOCHS,
        "batch": BATCH,
        "learning_rate": LEARNING_RATE,
        "completion_tokens": COMPLETION_TOKENS,
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


class Sample(NamedTuple):
    """A conversation and the teacher's completion, as the student reads them."""

    ids: torch.Tensor
    """Shape (length,): the conversation with role tokens, and the completion."""
    logprobs: torch.Tensor
    """Shape (completion, vocab_size): the teacher's log-probabilities for each token of the completion."""


class Fit:
    """The frozen model, as teacher and as student."""

    def __init__(self) -> None:
        with TemporaryDirectory() as directory:
            convert.write_checkpoint(Path(directory))
            self.tokenizer = AutoTokenizer.from_pretrained(directory)
            self.model = Phi3ForCausalLM.from_pretrained(directory, dtype=torch.float32)
        self.model.requires_grad_(False)

    def initial_embeddings(self) -> torch.Tensor:
        """Return the start of the fit: for each role token the sum of its tokens in ChatML. Shape (4, hidden_size)."""
        rows = self.model.get_input_embeddings().weight
        tokens = [[convert.END], *(self._encode(f"<|im_start|>{role}") for role in ("user", "assistant", "system"))]
        return torch.stack([rows[ids].sum(0) for ids in tokens])

    def samples(self, conversations: Sequence[Conversation]) -> list[Sample]:
        """Let the teacher complete each conversation greedily."""
        prompts = [self._chatml(conversation) for conversation in conversations]
        longest = max(map(len, prompts))
        padded = torch.tensor([[convert.END_OF_TEXT] * (longest - len(ids)) + ids for ids in prompts])
        completions = self.model.generate(
            padded,
            attention_mask=(padded != convert.END_OF_TEXT).long(),
            max_new_tokens=COMPLETION_TOKENS,
            do_sample=False,
        )[:, longest:].tolist()
        return [self._sample(*parts) for parts in zip(conversations, prompts, completions, strict=True)]

    def loss(self, embeddings: torch.Tensor, samples: Sequence[Sample]) -> torch.Tensor:
        """Return the mean divergence of the student from the teacher, in nats per token.

        `embeddings` holds a row for each role token, in the order of ROLE_TOKENS: shape (4, hidden_size).
        """
        ids = pad_sequence([sample.ids for sample in samples], batch_first=True)
        mask = pad_sequence([torch.ones_like(sample.ids) for sample in samples], batch_first=True)
        embedded = self.model.get_input_embeddings()(ids)
        for row, token_id in zip(embeddings, convert.ROLE_TOKENS.values(), strict=True):
            embedded = torch.where((ids == token_id)[..., None], row, embedded)
        hidden = self.model.model(inputs_embeds=embedded, attention_mask=mask).last_hidden_state
        predictors = [
            row[len(sample.ids) - len(sample.logprobs) - 1 : len(sample.ids) - 1]
            for row, sample in zip(hidden, samples, strict=True)
        ]
        student = self.model.lm_head(torch.cat(predictors)).log_softmax(-1)
        teacher = torch.cat([sample.logprobs for sample in samples])
        return kl_div(student, teacher, reduction="batchmean", log_target=True)

    def optimise(self, embeddings: torch.Tensor, batches: Iterable[Sequence[Sample]]) -> Iterator[float]:
        """Change `embeddings` by one step of Adam for each batch, and yield the loss before each step."""
        embeddings.requires_grad_()
        optimiser = torch.optim.Adam([embeddings], lr=LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
        for batch in batches:
            loss = self.loss(embeddings, batch)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            yield loss.item()

    @torch.no_grad()
    def mean_loss(self, embeddings: torch.Tensor, batches: Sequence[Sequence[Sample]]) -> float:
        """Return the mean of `loss` over the tokens of all batches."""
        tokens = [sum(len(sample.logprobs) for sample in batch) for batch in batches]
        total = sum(self.loss(embeddings, batch).item() * count for batch, count in zip(batches, tokens, strict=True))
        return total / sum(tokens)

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids
        return ids

    def _chatml(self, conversation: Conversation) -> list[int]:
        ids = []
        for role, text in conversation:
            ids += [*self._encode(f"<|im_start|>{role}\n{text}"), convert.END, *self._encode("\n")]
        return ids + self._encode("<|im_start|>assistant\n")

    def _sample(self, conversation: Conversation, chatml: list[int], completion: list[int]) -> Sample:
        ends = [length for length, token in enumerate(completion, 1) if token in (convert.END, convert.END_OF_TEXT)]
        completion = completion[: min(ends, default=len(completion))]
        phi3 = self._encode("".join(f"<|{role}|>{text}<|end|>" for role, text in conversation) + "<|assistant|>")
        with torch.no_grad():
            logits = self.model(torch.tensor([chatml + completion]), logits_to_keep=len(completion) + 1).logits[0, :-1]
        return Sample(torch.tensor(phi3 + completion), logits.log_softmax(-1))


def split_batches(conversations: Sequence[Conversation]) -> list[Sequence[Conversation]]:
    """Split the conversations into batches of BATCH, in their order."""
    return [conversations[start : start + BATCH] for start in range(0, len(conversations), BATCH)]


def main() -> None:
    """Fit the embeddings, and write them with the record that the tests compare with a replay."""
    disable_progress_bar()
    fit = Fit()
    training, held_out = (
        [fit.samples(batch) for batch in convert.show_progress(batches, len(batches), label)]
        for label, batches in (
            ("Completing the training set", split_batches(TRAINING)),
            ("Completing the held-out set", split_batches(HELD_OUT)),
        )
    )
    embeddings = fit.initial_embeddings()
    before = fit.mean_loss(embeddings, held_out)
    losses = list(convert.show_progress(fit.optimise(embeddings, training * EPOCHS), STEPS, "Fitting"))
    fitted = embeddings.detach().bfloat16()
    after = fit.mean_loss(fitted.float(), held_out)
    record = {
        "inputs": hash_inputs(),
        "losses": [round(loss, 5) for loss in losses],
        "held out": {"before": round(before, 5), "after": round(after, 5)},
    }
    save_file({"embeddings": fitted}, convert.ROLES_FILE, metadata={"record": json.dumps(record)})
    print(f"Divergence on the held-out set: {before:.3f} before, {after:.3f} after. Wrote {convert.ROLES_FILE}")


if __name__ == "__main__":
    main()
