"""The state of one sequence that the engine generates."""

from dataclasses import dataclass

from app.engine.batch import ScheduledChunk
from app.engine.kv_cache.slot_allocator import BLOCK_SIZE, SlotRange
from app.engine.sampling.sampler import Sampler
from app.engine.stream import RequestStream


@dataclass(frozen=True, slots=True, eq=False)
class QueuedSequence:
    """A sequence that waits for slots: the first of its request, or a later one whose prompt is computed.

    Attributes:
        stream: receives the events.
        index: of the sequence in its request.
        seed: of the request.
    """

    stream: RequestStream
    index: int
    seed: int


@dataclass(slots=True, eq=False)
class Sequence:
    """A running sequence.

    Attributes:
        queued: what it was before it got slots.
        sampler: holds its tokens.
        slots: of the KV cache.
        num_computed: tokens whose keys and values are in the cache.
        use_long_factors: whether LongRoPE's factors for long sequences rotate its keys.
        prefix_cached: whether its prompt was offered to later ones.
    """

    queued: QueuedSequence
    sampler: Sampler
    slots: SlotRange
    num_computed: int = 0
    use_long_factors: bool = False
    prefix_cached: bool = False

    @property
    def stream(self) -> RequestStream:
        """The stream of its request."""
        return self.queued.stream

    @property
    def index(self) -> int:
        """Index in its request."""
        return self.queued.index

    @property
    def length(self) -> int:
        """Tokens of prompt and output so far."""
        return len(self.sampler.token_ids)

    @property
    def is_prefill(self) -> bool:
        """Whether more than its newest token is to be computed."""
        return self.length - self.num_computed > 1

    def next_chunks(self, token_budget: int) -> list[ScheduledChunk]:
        """Return what the next step computes: a decode token, or the prefill chunks that fit into `token_budget`."""
        chunks: list[ScheduledChunk] = []
        start = self.num_computed
        while start < self.length:
            end = min(self.length, (start // BLOCK_SIZE + 1) * BLOCK_SIZE)
            if self.is_prefill and end - self.num_computed > token_budget:
                break
            chunks.append(
                ScheduledChunk(
                    self.sampler.token_ids[start:end],
                    position=start,
                    first_slot=self.slots.start,
                    use_long_factors=self.use_long_factors,
                    wants_logits=end == self.length,
                )
            )
            start = end
        return chunks
