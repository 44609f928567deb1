"""Fits the embeddings of Phi-3's tags for the demo model and writes roles.safetensors; for maintainers.

The demo model was trained on ChatML, where five tokens lie between two messages: the end, a line break, the
start, the role, a line break. Phi-3 has two. So the embeddings of Phi-3's four tags are fitted, all else frozen,
until the model, as student, continues a conversation written with them as it does, as teacher, in ChatML. What is
minimised is the Kullback-Leibler divergence of the next token, over all tokens of the answers. The teacher writes
the answers, greedily. Nothing here is random.
"""

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

from checkpoints.demo import convert as demo

EPOCHS = 6
BATCH = 4
LEARNING_RATE = 4e-2
ANSWER_TOKENS = 40

Conversation = list[tuple[str, str]]
"""Roles and texts; the last is the user's."""

QUESTIONS = (
    "What is the capital of Italy?",
    "Write a short poem about trees.",
    "Explain gravity to a child.",
    "What is 3+5?",
    "Who painted the Mona Lisa?",
    "Name three fruits.",
    "How do I boil an egg?",
    "What is the largest ocean?",
    "Give me a tip for sleeping better.",
    "Translate 'hello' to Spanish.",
    "Why is the sky blue?",
    "What do bees do?",
    "Tell me a joke about cats.",
    "How does a car engine work?",
    "What is photosynthesis?",
    "List two colors.",
    "Describe the ocean in one sentence.",
    "What is a computer?",
    "Who was Isaac Newton?",
    "How many days are in a week?",
    "Write a python function that adds two numbers.",
    "What should I cook for dinner?",
    "Summarize: The dog ran to the park and played with a ball.",
    "What is democracy?",
    "Hi!",
    "What is the difference between a fruit and a vegetable?",
    "Write an email to my boss to say that I am ill.",
    "Is the sun a star?",
    "How to explain electricity to a Roman soldier?",
    "What is love?",
    "Which country has the most people?",
    "Can you help me with my homework?",
    "What are the three states of matter?",
    "Why do people dream?",
    "Correct this sentence: She go to school every day.",
    "Who are you?",
    "What is the capital of Germany?",
    "What is the capital of Brazil?",
    "Where is Mount Everest?",
    "How far away is the moon?",
    "Who was the first president of the United States?",
    "When did the Second World War end?",
    "What is the boiling point of water?",
    "Write a haiku about winter.",
    "Write the first sentence of a detective story.",
    "Tell me a story about a lonely robot.",
    "Make a list of things to pack for a trip to the beach.",
    "How can I learn to play the guitar?",
    "Is it better to save money or to spend it?",
    "What does the word 'curious' mean?",
    "Give me a synonym for 'happy'.",
    "Rewrite this politely: Give me the report now.",
    "What is machine learning?",
    "What does a web server do?",
    "What is Kubernetes?",
    "How do I reverse a list in Python?",
    "Write a SQL query that counts the rows of a table.",
    "What is the square root of 81?",
    "If I have 10 apples and eat 3, how many are left?",
    "What comes after Tuesday?",
    "Name the planets of the solar system.",
    "How do birds fly?",
    "Why do cats purr?",
    "What do pandas eat?",
    "How do vaccines work?",
    "What should I do when I have a cold?",
    "Give me three ideas for a birthday present.",
    "How do I make coffee?",
    "Give me a recipe for pancakes.",
    "Which sport is the most popular in the world?",
    "What is the purpose of art?",
    "What makes a good friend?",
    "How can I be more confident?",
    "I feel sad today.",
    "Thank you!",
    "Good morning. How are you?",
    "Can you speak French?",
    "What is the tallest building in the world?",
    "Who invented the telephone?",
    "Explain the water cycle.",
    "What causes earthquakes?",
    "What is inflation?",
    "Describe a sunset.",
    "Write a slogan for a bakery.",
    "Write a letter to my grandmother.",
    "What is the best way to learn a language?",
    "Is this sentence positive or negative: I hated the film.",
    "Which is heavier, a kilogram of iron or a kilogram of feathers?",
    "What would a dog say if it could talk?",
    "How to explain money to an alien?",
)
WITH_SYSTEM_MESSAGE = (
    ("Answer in one sentence.", "What is rain?"),
    ("You are a cook who gives short answers.", "How do I boil an egg?"),
    ("You are a pirate. Talk like one.", "Tell me about yourself."),
    ("You explain science to children.", "What is photosynthesis?"),
    ("You are a helpful AI assistant.", "What is the capital of Japan?"),
    ("You are a friendly and concise programming tutor.", "Should I learn Python?"),
    ("You are a poet.", "Write about the moon."),
    ("You are a helpful assistant named Ada.", "What is your name?"),
    ("Answer with yes or no.", "Is water wet?"),
    ("You are a travel guide.", "Where should I go in summer?"),
    ("You are an expert in history.", "Who was Julius Caesar?"),
    ("Be polite and brief.", "How do I get to the station?"),
    ("You are a doctor.", "My head hurts. What can I do?"),
    ("Translate everything to French.", "Good morning, my friend."),
    ("You are a teacher of mathematics.", "What is a triangle?"),
)
CHATS = (
    ("Hello", "Hello! How can I help you today?", "What is the largest planet?"),
    ("Who was Albert Einstein?", "A physicist who was born in Germany.", "What did he discover?"),
    ("Name a colour.", "Blue.", "Name another one."),
    ("My name is Anna.", "Nice to meet you, Anna!", "What is my name?"),
    ("Give me a name for a cat.", "You could call it Luna.", "And for a dog?"),
    ("What is 12 times 3?", "12 times 3 is 36.", "And divided by 4?"),
    ("What is the capital of Greece?", "The capital of Greece is Athens.", "How many people live there?"),
    ("Tell me a fact.", "Honey never spoils.", "Why?", "It holds very little water.", "Tell me another fact."),
    ("I want to learn to cook.", "Start with simple dishes.", "Which ones?"),
    ("Hi", "Hi! What can I do for you?", "Write a poem about the sea."),
    ("What is a black hole?", "A place where gravity lets nothing escape.", "How big are they?"),
    ("Do you like music?", "I enjoy talking about it.", "Name a composer.", "Mozart.", "When did he live?"),
    ("How do I stay healthy?", "Eat well, sleep enough and move.", "How much should I sleep?"),
    ("Recommend a book.", "You could read Treasure Island.", "What is it about?"),
    ("What is HTML?", "A language that describes web pages.", "Show me an example."),
)


def _ask(*texts: str, system: str = "") -> Conversation:
    """Write a conversation: user and assistant in turn, the user first and last."""
    turns = [("assistant" if turn % 2 else "user", text) for turn, text in enumerate(texts)]
    return [("system", system), *turns] if system else turns


# Mixed evenly: six questions, one with a system message, one longer conversation, and so on.
TRAINING = [
    conversation
    for start, (system, asked), chat in zip(range(0, 90, 6), WITH_SYSTEM_MESSAGE, CHATS, strict=True)
    for conversation in (*map(_ask, QUESTIONS[start : start + 6]), _ask(asked, system=system), _ask(*chat))
]
HELD_OUT = [
    _ask("What is the capital of France?"),
    _ask("How to explain Internet for a medieval knight?"),
    _ask("What is the meaning of life?"),
    _ask("Write a short story about a dragon."),
    _ask("Who wrote Hamlet?", system="You are a helpful AI assistant who gives short answers."),
    _ask("How do plants drink?", system="You tell children about nature."),
    _ask("What is the capital of Spain?", "The capital of Spain is Madrid.", "What can I see there?"),
    _ask("I like apples.", "Apples are delicious!", "What can I make with them?"),
]
STEPS = EPOCHS * len(TRAINING) // BATCH


class Sample(NamedTuple):
    """A conversation and the teacher's answer, as the student reads them."""

    ids: torch.Tensor
    """Shape (length,): the conversation with Phi-3's tags, and the answer."""
    wanted: torch.Tensor
    """Shape (answer, vocabulary): the teacher's log-probabilities for each token of the answer."""


class Fit:
    """The frozen model, as teacher and as student."""

    def __init__(self) -> None:
        with TemporaryDirectory() as folder:
            demo.write(Path(folder))
            self.tokenizer = AutoTokenizer.from_pretrained(folder)
            self.model = Phi3ForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self.model.requires_grad_(False)

    def start(self) -> torch.Tensor:
        """Return what the fit starts from: for each tag the sum of its tokens in ChatML. Shape (4, 576)."""
        rows = self.model.get_input_embeddings().weight
        tokens = [[demo.END], *(self._encode(f"<|im_start|>{role}") for role in ("user", "assistant", "system"))]
        return torch.stack([rows[ids].sum(0) for ids in tokens])

    def samples(self, conversations: Sequence[Conversation]) -> list[Sample]:
        """Let the teacher answer each conversation, greedily."""
        prompts = [self._chatml(conversation) for conversation in conversations]
        longest = max(map(len, prompts))
        padded = torch.tensor([[demo.END_OF_TEXT] * (longest - len(ids)) + ids for ids in prompts])
        written = self.model.generate(
            padded,
            attention_mask=(padded != demo.END_OF_TEXT).long(),
            max_new_tokens=ANSWER_TOKENS,
            do_sample=False,
        )[:, longest:].tolist()
        return [self._sample(*each) for each in zip(conversations, prompts, written, strict=True)]

    def loss(self, tags: torch.Tensor, samples: Sequence[Sample]) -> torch.Tensor:
        """Return the mean divergence of the student from the teacher, in nats a token.

        `tags` holds the embeddings of the tags in the order of demo.TAGS: shape (4, 576).
        """
        ids = pad_sequence([sample.ids for sample in samples], batch_first=True)
        mask = pad_sequence([torch.ones_like(sample.ids) for sample in samples], batch_first=True)
        embedded = self.model.get_input_embeddings()(ids)
        for tag, index in zip(tags, demo.TAGS.values(), strict=True):
            embedded = torch.where((ids == index)[..., None], tag, embedded)
        hidden = self.model.model(inputs_embeds=embedded, attention_mask=mask).last_hidden_state
        before_answer = [
            row[len(sample.ids) - len(sample.wanted) - 1 : len(sample.ids) - 1]
            for row, sample in zip(hidden, samples, strict=True)
        ]
        got = self.model.lm_head(torch.cat(before_answer)).log_softmax(-1)
        wanted = torch.cat([sample.wanted for sample in samples])
        return kl_div(got, wanted, reduction="batchmean", log_target=True)

    def descend(self, tags: torch.Tensor, batches: Iterable[Sequence[Sample]]) -> Iterator[float]:
        """Change `tags` by one step of Adam for each batch, and yield the loss before each step."""
        tags.requires_grad_()
        optimiser = torch.optim.Adam([tags], lr=LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
        for batch in batches:
            loss = self.loss(tags, batch)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            yield loss.item()

    @torch.no_grad()
    def mean_loss(self, tags: torch.Tensor, batches: Sequence[Sequence[Sample]]) -> float:
        """Return the mean of `loss` over the tokens of all batches."""
        tokens = [sum(len(sample.wanted) for sample in batch) for batch in batches]
        total = sum(self.loss(tags, batch).item() * count for batch, count in zip(batches, tokens, strict=True))
        return total / sum(tokens)

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids
        return ids

    def _chatml(self, conversation: Conversation) -> list[int]:
        ids = []
        for role, text in conversation:
            ids += [*self._encode(f"<|im_start|>{role}\n{text}"), demo.END, *self._encode("\n")]
        return ids + self._encode("<|im_start|>assistant\n")

    def _sample(self, conversation: Conversation, chatml: list[int], answer: list[int]) -> Sample:
        ends = [place for place, token in enumerate(answer, 1) if token in (demo.END, demo.END_OF_TEXT)]
        answer = answer[: min(ends, default=len(answer))]
        phi3 = self._encode("".join(f"<|{role}|>{text}<|end|>" for role, text in conversation) + "<|assistant|>")
        with torch.no_grad():
            logits = self.model(torch.tensor([chatml + answer]), logits_to_keep=len(answer) + 1).logits[0, :-1]
        return Sample(torch.tensor(phi3 + answer), logits.log_softmax(-1))


def batches(conversations: Sequence[Conversation]) -> list[Sequence[Conversation]]:
    """Split the conversations into batches of BATCH, in their order."""
    return [conversations[start : start + BATCH] for start in range(0, len(conversations), BATCH)]


def main() -> None:
    """Fit the embeddings and write them, with what the tests need to hold them against this program."""
    disable_progress_bar()
    fit = Fit()
    training, held_out = (
        [fit.samples(batch) for batch in demo.progress(batches(conversations), len(batches(conversations)), label)]
        for label, conversations in (("Answering", TRAINING), ("Answering what is held out", HELD_OUT))
    )
    tags = fit.start()
    before = fit.mean_loss(tags, held_out)
    losses = list(demo.progress(fit.descend(tags, training * EPOCHS), STEPS, "Fitting"))
    fitted = tags.detach().bfloat16()
    after = fit.mean_loss(fitted.float(), held_out)
    record = {
        "fit.py": demo.sha256(Path(__file__)),
        "source": demo.GGUF_SHA256,
        "losses": [round(loss, 5) for loss in losses],
        "held out": {"before": round(before, 5), "after": round(after, 5)},
    }
    save_file({"embeddings": fitted}, demo.ROLES_FILE, metadata={"record": json.dumps(record)})
    print(f"Divergence on what was held out: {before:.3f} before, {after:.3f} after. Wrote {demo.ROLES_FILE}")


if __name__ == "__main__":
    main()
