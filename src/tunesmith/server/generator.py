"""Continuous batching: one thread per base model keeps a batch running and lets requests in between two steps.

Rows of the same adapter share a batch; adapters lie beside each other over one set of base weights and are switched
between steps. A request never waits for another to end, only for the step under way.
"""

import contextlib
import queue
import threading
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tunesmith.evaluation.generate import end_tokens
from tunesmith.server.adapters import Adapter, Adapters
from tunesmith.server.batch import Batch, prompt_logits
from tunesmith.server.errors import RequestError
from tunesmith.server.language import Language, context_of
from tunesmith.server.replies import Deliver, GenerationRequest, Piece, ScoreRequest, Transcript, told
from tunesmith.server.sampling import TokenChoice, choose_tokens, report

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MAX_ROWS = 64
"""Replies in flight at once; beyond it a step's cost grows with the rows."""

MAX_CELLS = 131_072
"""Rows times tokens that the caches of the replies in flight may come to, which bounds their memory."""

PROMPT_TOKENS_PER_STEP = 8_192
"""Prompt tokens read between two steps, so that running replies do not stall for long."""

MAX_WAITING = 512
"""Requests that may wait; the next one is told to come back."""


class _Ticket:
    """A request in flight; once it is cancelled, its rows leave the batch at the next step."""

    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class _Row:
    """One reply in the making (a `Samplable`)."""

    def __init__(self, job: "_Submitted", request: GenerationRequest, choice: int, language: Language) -> None:
        self.job = job
        self.sampling = request.sampling
        self.luck = np.random.default_rng((request.sampling.seed + choice) % 2**64)
        self.counts: Counter[int] = Counter()
        self.last = 0
        self._transcript = Transcript(request, choice, language)

    def allowed(self) -> Tensor | None:
        guide = self._transcript.guide
        return None if guide is None else guide.allowed(self._transcript.remaining)

    def take(self, choice: TokenChoice) -> Piece:
        """Add the chosen token."""
        self.last = choice.token
        self.counts[choice.token] += 1
        return self._transcript.take(choice)


@dataclass(frozen=True)
class _Submitted:
    request: GenerationRequest | ScoreRequest
    deliver: Deliver
    ticket: _Ticket

    @property
    def cells(self) -> int:
        return self.request.choices * (len(self.request.prompt) + self.request.max_tokens)


@dataclass
class _Group:
    """The rows of one adapter."""

    adapter: Adapter | None
    batch: Batch
    rows: list[_Row] = field(default_factory=list)


class Generator:
    """A base model that generates for many clients at once. `close` it to free the thread."""

    def __init__(self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> None:
        config: Any = model.config.get_text_config()
        self.language = Language(
            tokenizer,
            ends=end_tokens(model.generation_config, tokenizer),
            vocabulary=config.vocab_size,
            context=context_of(config),
        )
        self.tokens_generated = 0
        self._model = model
        self._adapters = Adapters(model)
        self._inbox: queue.SimpleQueue[_Submitted | None] = queue.SimpleQueue()
        self._waiting: deque[_Submitted] = deque()
        self._groups: dict[str | None, _Group] = {}
        self._closed = threading.Event()
        self._closing = threading.Lock()  # so that no request comes after the last look at the inbox
        self._thread = threading.Thread(target=self._run, name="generator", daemon=True)
        self._thread.start()

    @property
    def running(self) -> int:
        """Replies in flight."""
        return sum(len(group.rows) for group in list(self._groups.values()))

    @property
    def waiting(self) -> int:
        """Requests not yet begun."""
        return self._inbox.qsize() + len(self._waiting)

    @property
    def idle(self) -> bool:
        """Whether nothing is asked of it."""
        return not self.running and not self.waiting

    def submit(self, request: GenerationRequest | ScoreRequest, deliver: Deliver) -> _Ticket:
        """Begin a request at the next step (see `Engine`); `deliver` is called on the generator's thread.

        Raises RequestError 429 when too many wait, 503 when it is closed.
        """
        if self.waiting >= MAX_WAITING:
            raise RequestError(
                f"{MAX_WAITING} requests are waiting for this model; try again shortly",
                status=429,
                code="engine_overloaded",
            )
        ticket = _Ticket()
        with self._closing:
            if self._closed.is_set():
                raise _stopped()
            self._inbox.put(_Submitted(request, deliver, ticket))
        return ticket

    def forget(self, adapter_id: str) -> None:
        """Drop an adapter from memory at the next step, once its rows have ended."""
        self._adapters.unwanted.add(adapter_id)

    def close(self) -> None:
        """Stop at the next step; requests in flight get an error."""
        with self._closing:
            self._closed.set()
            self._inbox.put(None)
        self._thread.join(timeout=30)

    @torch.inference_mode()
    def _run(self) -> None:
        while not self._closed.is_set():
            self._collect(block=not self._groups)
            self._admit()
            for key, group in list(self._groups.items()):
                with self._errors_to(group):
                    self._step(group)
                if not group.rows:
                    del self._groups[key]
            self._adapters.drop_unwanted(used={key for key in self._groups if key is not None})
        self._collect(block=False)
        for job in (*(row.job for group in self._groups.values() for row in group.rows), *self._waiting):
            job.deliver(_stopped())

    def _collect(self, *, block: bool) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                job = self._inbox.get(block=block and not self._waiting)
                if job is None:
                    return
                self._waiting.append(job)
                block = False

    def _admit(self) -> None:
        """Read the prompts of those who wait, in their order, as far as rows, memory and patience go."""
        admitted: dict[str | None, list[_Submitted]] = {}
        rows = self.running
        cells = sum(len(group.rows) * group.batch.length for group in self._groups.values())
        prompt_tokens = 0
        while self._waiting:
            job = self._waiting[0]
            rows, cells = rows + job.request.choices, cells + job.cells
            prompt_tokens += len(job.request.prompt)
            full = rows > MAX_ROWS or cells > MAX_CELLS or prompt_tokens > PROMPT_TOKENS_PER_STEP
            if full and (self._groups or admitted):  # alone, anything goes
                break
            self._waiting.popleft()
            if job.ticket.cancelled:
                continue
            if isinstance(job.request, ScoreRequest):
                self._score(job.request, job.deliver)
            else:
                admitted.setdefault(job.request.adapter.id if job.request.adapter else None, []).append(job)
        for key, jobs in admitted.items():
            group = self._groups.setdefault(key, _Group(jobs[0].request.adapter, Batch(self._model)))
            with self._errors_to(group, jobs):
                self._join(group, jobs)

    def _score(self, request: ScoreRequest, deliver: Deliver) -> None:
        pieces: list[Piece] = []
        try:
            self._adapters.use(request.adapter)
            for logits in prompt_logits(self._model, request.prompt):
                for logprobs in torch.log_softmax(logits.float(), dim=-1):
                    place = len(pieces) + 1
                    if place < len(request.prompt):
                        token = report(request.prompt[place], logprobs, request.logprobs)
                        pieces.append(Piece(0, "", token, None))
            deliver(pieces)
        except Exception as error:  # noqa: BLE001  # whatever a model raises belongs to those who asked for it
            deliver(told(error))

    def _join(self, group: _Group, jobs: Sequence[_Submitted]) -> None:
        self._adapters.use(group.adapter)
        new = [
            _Row(job, job.request, choice, self.language)
            for job in jobs
            if isinstance(job.request, GenerationRequest)
            for choice in range(job.request.choices)
        ]
        logits = group.batch.join([job.request.prompt for job in jobs], [job.request.choices for job in jobs])
        kept = list(range(len(group.rows)))
        start = len(group.rows)
        group.rows += new
        kept += [start + index for index in self._take(new, logits)]
        self._keep(group, kept)

    def _step(self, group: _Group) -> None:
        self._keep(group, [index for index, row in enumerate(group.rows) if not row.job.ticket.cancelled])
        if not group.rows:
            return
        self._adapters.use(group.adapter)
        logits = group.batch.step([row.last for row in group.rows])
        self._keep(group, self._take(group.rows, logits))

    def _take(self, rows: Sequence[_Row], logits: Tensor) -> list[int]:
        """Choose each row's token, deliver what it adds, and say which rows go on."""
        pieces = [row.take(choice) for row, choice in zip(rows, choose_tokens(logits, rows), strict=True)]
        self.tokens_generated += len(pieces)
        by_job: dict[int, tuple[Deliver, list[Piece]]] = {}
        for row, piece in zip(rows, pieces, strict=True):
            by_job.setdefault(id(row.job), (row.job.deliver, []))[1].append(piece)
        for deliver, new in by_job.values():
            deliver(new)
        return [index for index, piece in enumerate(pieces) if piece.finish is None]

    @staticmethod
    def _keep(group: _Group, kept: list[int]) -> None:
        if len(kept) < len(group.rows):
            group.rows = [group.rows[index] for index in kept]
            group.batch.keep(kept)

    @contextlib.contextmanager
    def _errors_to(self, group: _Group, jobs: Sequence[_Submitted] = ()) -> Iterator[None]:
        """A failed step ends the requests that were in it, and nothing else: the thread goes on."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  # whatever a model raises belongs to those who asked for it
            answer = told(error)
            for job in {id(job): job for job in (*jobs, *(row.job for row in group.rows))}.values():
                job.deliver(answer)
            group.rows, group.batch = [], Batch(self._model)


def _stopped() -> RequestError:
    return RequestError("The server is letting go of this model; try again shortly", status=503, code="shutting_down")
