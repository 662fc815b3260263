"""Replies to many prompts at once, through transformers' own generation and its KV cache.

Greedy, because a comparison must not depend on luck. Sampled, with a seed for each reply, where a measure is defined on
samples. Either way the same prompt gets the same reply in any batch. Prompts of like length go together, padded on the
left, so little is spent on padding; a batch runs until its longest reply ends, which is what batching costs.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tunesmith.errors import ModelError, RunError
from tunesmith.models.generation import continue_tokens
from tunesmith.models.out_of_memory import as_out_of_memory

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger(__name__)

BATCH_ROWS = 64
BATCH_TOKENS = 16384
"""Cells of the KV cache (rows times prompt and reply) that one batch may hold; a longer prompt goes alone."""


def generate(
    model: "PreTrainedModel | PeftModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
) -> list[str]:
    """The model's greedy reply to each prompt (token ids), in the order of `prompts`, without special tokens.

    A reply ends at any of `end_tokens` or after `max_new_tokens`. The settings in the model's generation config
    (sampling, penalties) are not applied. Raises ModelError when one row alone does not fit into memory.
    """
    replies = _continue(model, tokenizer, prompts, max_new_tokens)
    ends = end_tokens(model.generation_config, tokenizer)
    return [_text(tokenizer, _until_end(tokens, ends)) for tokens in replies]


def sample(
    model: "PreTrainedModel | PeftModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[Sequence[int]],
    *,
    seeds: Sequence[int],
    max_new_tokens: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    most: Callable[[int], int] | None = None,
) -> list[list[int]]:
    """A sampled reply to each prompt (token ids), as token ids up to and with the token that ended it.

    At temperature 1 and `top_p` 1 these are draws from the model's own distribution. A reply is drawn by its own one of
    `seeds`, whatever is beside it: in other batches it is the same, but for what their rounding decides. Of a model
    that is spread over several processes, `most` tells each of them how many batches the one with the most has: all
    compute as often as that one, and as long as the longest reply.
    """
    from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

    warpers: list[Any] = [TemperatureLogitsWarper(temperature)] if temperature != 1 else []
    warpers += [TopPLogitsWarper(top_p)] if top_p < 1 else []

    def drawn(rows: Sequence[int]) -> LogitsProcessorList:
        return LogitsProcessorList([*warpers, _Draw([seeds[row] for row in rows], max_new_tokens, model.device)])

    replies = _continue(model, tokenizer, prompts, max_new_tokens, drawn, most)
    ends = end_tokens(model.generation_config, tokenizer)
    return [tokens[: len(_until_end(tokens, ends)) + 1] for tokens in replies]


def reply_seeds(seed: int, count: int) -> list[int]:
    """A seed for each of `count` replies; of more replies, the first have the same."""
    seeds: list[int] = np.random.SeedSequence(seed).generate_state(count).tolist()
    return seeds


class _Draw:
    """Turns a greedy choice into a draw, by leaving a score only to the token that was drawn.

    Each row has random numbers of its own, one for a token: the token is the one at which the probabilities, added up
    in their order, pass it.
    """

    def __init__(self, seeds: Sequence[int], tokens: int, device: torch.device) -> None:
        numbers = np.stack([np.random.default_rng(seed).random(tokens) for seed in seeds], axis=1)
        self._numbers = iter(torch.from_numpy(numbers).to(device).unsqueeze(2))  # (rows, 1) for each token

    def __call__(self, _said: Tensor, scores: Tensor) -> Tensor:
        passed = torch.softmax(scores, 1).cumsum(1, dtype=torch.float64)  # (rows, vocabulary)
        token = torch.searchsorted(passed, next(self._numbers) * passed[:, -1:], right=True)
        token.clamp_(max=scores.shape[1] - 1)
        return torch.full_like(scores, -torch.inf).scatter_(1, token, 0.0)


def _continue(
    model: "PreTrainedModel | PeftModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    drawn: Callable[[Sequence[int]], Any] | None = None,
    most: Callable[[int], int] | None = None,
) -> list[list[int]]:
    """New tokens for each prompt, in the order of `prompts`, padded past the token that ended them.

    Greedy, unless `drawn` makes the logits processors of the rows of a batch.
    """
    from transformers import GenerationConfig

    ends = end_tokens(model.generation_config, tokenizer)
    settings = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False,
        temperature=1.0,
        top_p=1.0,
        top_k=50,  # transformers' "not set": any other value warns that greedy search ignores it
        num_beams=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        max_new_tokens=max_new_tokens,
        eos_token_id=ends,
        pad_token_id=ends[0],
        use_cache=True,
    )

    def run(batch: Sequence[int]) -> list[list[int]]:
        input_ids, mask = _pad_left([prompts[row] for row in batch], ends[0])
        options = {"logits_processor": None if drawn is None else drawn(batch), "synced_gpus": most is not None}
        # What a sharded model gathers is used in training, too.
        without_gradient = torch.inference_mode() if most is None else torch.no_grad()
        with as_out_of_memory(), without_gradient, _contiguous_head(model):
            said = continue_tokens(model, input_ids.to(model.device), mask.to(model.device), settings, **options)
        tokens: list[list[int]] = said.tolist()
        return tokens

    replies: list[list[int]] = [[]] * len(prompts)
    waiting = deque(batches(prompts, max_new_tokens))
    if most is not None:
        for _ in range(most(len(waiting)) - len(waiting)):
            run(waiting[0])
    while waiting:
        batch = waiting.popleft()
        try:
            said = run(batch)
        except torch.OutOfMemoryError as error:
            waiting.extendleft(_halves(batch, error, whole=most is None))
            continue
        for row, tokens in zip(batch, said, strict=True):
            replies[row] = tokens
    return replies


def _halves(batch: list[int], error: torch.OutOfMemoryError, *, whole: bool) -> tuple[list[int], list[int]]:
    """The batch as two that need half the memory each.

    Raises ModelError when one row alone is too much, RunError when the model is not `whole`: others compute in step.
    """
    if not whole:
        raise RunError(
            f"{len(batch)} replies do not fit into the device's memory; allow fewer tokens, or train in more processes"
        ) from error
    if len(batch) == 1:
        raise ModelError(
            "a reply to one prompt does not fit into the device's memory; allow fewer tokens, or take a smaller model"
        ) from error
    log.warning("out of memory: generating %s replies in two halves", len(batch))
    torch.cuda.empty_cache()
    return batch[: len(batch) // 2], batch[len(batch) // 2 :]


@contextmanager
def _contiguous_head(model: "PreTrainedModel | PeftModel") -> Iterator[None]:
    """Without a gradient, torch multiplies a view of every row's last state by as many copies of the head's matrix."""
    hook = model.get_output_embeddings().register_forward_pre_hook(lambda _head, states: (states[0].contiguous(),))
    try:
        yield
    finally:
        hook.remove()


def _text(tokenizer: "PreTrainedTokenizerBase", tokens: list[int]) -> str:
    return str(tokenizer.decode(tokens, skip_special_tokens=True)).strip()


def end_tokens(generation: "GenerationConfig | None", tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """The tokens that end a reply: the model's (by its generation config), the tokenizer's, the chat template's.

    The last matters for base models: their own end token ends a document, not a turn. At least one is returned.
    """
    configured = generation.eos_token_id if generation is not None else None
    named = configured if isinstance(configured, list) else [configured]
    found = [token for token in (*named, tokenizer.eos_token_id, turn_end(tokenizer)) if token is not None]
    return sorted(set(found)) or [len(tokenizer)]  # no model says a token past its vocabulary


def turn_end(tokenizer: "PreTrainedTokenizerBase") -> int | None:
    """The first special token after an assistant's answer in the chat template, if there is one."""
    from jinja2 import TemplateError

    if not tokenizer.chat_template:
        return None
    answer = "Tunesmith answers."
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": answer}]
    try:
        text = str(tokenizer.apply_chat_template(turns, tokenize=False))
    except (TemplateError, TypeError, ValueError, KeyError):  # a template that wants another shape of conversation
        return None
    tail = tokenizer.encode(text.rpartition(answer)[2], add_special_tokens=False)
    special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    return next((token for token in tail if token in special), None)


def batches(prompts: Sequence[Sequence[int]], max_new_tokens: int) -> Iterator[list[int]]:
    """Rows, shortest prompt first, cut where a batch would outgrow its limits."""
    batch: list[int] = []
    for row in sorted(range(len(prompts)), key=lambda row: len(prompts[row])):
        cells = (len(batch) + 1) * (len(prompts[row]) + max_new_tokens)
        if batch and (len(batch) == BATCH_ROWS or cells > BATCH_TOKENS):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _pad_left(prompts: list[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Input ids and attention mask, both (rows, longest) int64."""
    longest = max(len(prompt) for prompt in prompts)
    input_ids = torch.full((len(prompts), longest), pad)
    mask = torch.zeros_like(input_ids)
    for row, prompt in enumerate(prompts):
        input_ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    return input_ids, mask


def _until_end(tokens: list[int], ends: list[int]) -> list[int]:
    return tokens[: next((place for place, token in enumerate(tokens) if token in ends), len(tokens))]
