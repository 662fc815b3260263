"""Pretrains the embedded model from the generated corpus: `python -m tools.pretrain` (about 25 minutes of one core).

A Llama of 3.5 million parameters, because its bf16 weights (7 MB) can live in the repository and train in seconds
per hundred rows. It never sees a row twice: every batch is drawn fresh from the endless corpus, so there is no
epoch and no overfitting to speak of. A checkpoint every few hundred steps lets a stopped run go on with `--resume`.
"""

import argparse
import itertools
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tools import tokenizer as tokenizer_tools
from tools.corpus import conversations, episodes

ASSETS = Path(__file__).parent.parent / "src" / "tunesmith" / "assets"
THREADS = 1

CORPUS_SEED = 1
HELD_OUT_SEED = 2
WEIGHTS_SEED = 0
TOKENIZER_CONVERSATIONS = 30_000

MAX_POSITIONS = 1024
BATCH_TOKENS = 2048
PACKED_LENGTHS = (256, 512, 1024)
LONGEST_CONVERSATION = 200
POOL = 512
"""Conversations drawn at a time, to be grouped by length."""
PROMPT_WEIGHT = 0.1
"""What a prompt's token counts in the loss: prompts are mostly chance, replies are what the model is for."""

STEPS = 2000
MUON_LEARNING_RATE = 5e-3
ADAMW_LEARNING_RATE = 3e-3
WARMUP_STEPS = 40
WEIGHT_DECAY = 0.1
CHECKPOINT_EVERY = 200
EVALUATE_EVERY = 100


def config(vocabulary: int) -> LlamaConfig:
    """The shape: four layers of 256, grouped-query attention, tied embeddings."""
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=2,
    )


@dataclass(frozen=True)
class Batch:
    """Token ids and how much each counts as a target; both (rows, tokens), padded on the right."""

    tokens: torch.Tensor
    weights: torch.Tensor


def reply_weights(tokens: list[int], header: list[int], end: int) -> list[float]:
    """1 for the tokens of assistant turns, their end-of-turn included, and `PROMPT_WEIGHT` for all others."""
    weights = [PROMPT_WEIGHT] * len(tokens)
    position = 0
    while position < len(tokens):
        if tokens[position : position + len(header)] == header:
            position += len(header)
            stop = tokens.index(end, position) + 1
            weights[position:stop] = [1.0] * (stop - position)
            position = stop
        else:
            position += 1
    return weights


def token_stream(tokenizer: PreTrainedTokenizerFast, seed: int) -> Iterator[list[int]]:
    """Endless token ids, one list per conversation."""
    for episode in episodes(seed):
        texts = tokenizer.apply_chat_template(episode, tokenize=False)
        yield from tokenizer(texts, add_special_tokens=False)["input_ids"]


def batches(tokenizer: PreTrainedTokenizerFast, seed: int) -> Iterator[Batch]:
    """Endless batches of about `BATCH_TOKENS`: three of single conversations of like length, one of packed ones."""
    rng = Random(seed)
    header = tokenizer.encode("<|im_start|>assistant\n", add_special_tokens=False)
    conversations = token_stream(tokenizer, seed)

    def batch(rows: list[list[int]]) -> Batch:
        longest = max(map(len, rows))
        weights = [reply_weights(row, header, tokenizer.eos_token_id) for row in rows]
        return Batch(
            torch.tensor([row + [tokenizer.pad_token_id] * (longest - len(row)) for row in rows]),
            torch.tensor([row + [0.0] * (longest - len(row)) for row in weights]),
        )

    def packed(length: int) -> list[int]:
        row: list[int] = []
        while len(row) < length - LONGEST_CONVERSATION:
            row += next(conversations)
        return row

    while True:
        pool = sorted(itertools.islice(conversations, POOL), key=len)
        singles = []
        while pool:
            rows = max(1, BATCH_TOKENS // len(pool[-1]))
            pool, chunk = pool[:-rows], pool[-rows:]
            singles.append(chunk)
        rng.shuffle(singles)
        for number, chunk in enumerate(singles, start=1):
            yield batch(chunk)
            if number % 3 == 0:
                length = rng.choice(PACKED_LENGTHS)
                yield batch([packed(length) for _ in range(BATCH_TOKENS // length)])


def rate(step: int, steps: int) -> float:
    """The share of the peak learning rate: linear warm-up, then a cosine down to a twentieth."""
    if step < WARMUP_STEPS:
        return (step + 1) / WARMUP_STEPS
    progress = (step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS)
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress))


def optimizers_for(model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for the embedding and the norms.

    Muon (https://kellerjordan.github.io/posts/muon/) reached AdamW's loss of 250 steps in 150 here.
    """
    inside = [p for p in model.model.layers.parameters() if p.dim() == 2]
    others = [p for p in model.parameters() if all(p is not q for q in inside)]
    return [
        torch.optim.Muon(
            inside, lr=MUON_LEARNING_RATE, weight_decay=WEIGHT_DECAY, momentum=0.95, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(others, lr=ADAMW_LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]


def loss_of(model: LlamaForCausalLM, batch: Batch) -> torch.Tensor:
    """Weighted mean next-token loss, in nats; matrix products in bf16, fast on most processors of today."""
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(input_ids=batch.tokens[:, :-1]).logits.float()  # (rows, tokens, vocabulary)
    losses = functional.cross_entropy(logits.flatten(0, 1), batch.tokens[:, 1:].flatten(), reduction="none")
    weights = batch.weights[:, 1:].flatten()
    return (losses * weights).sum() / weights.sum()


@torch.inference_mode()
def held_out_loss(model: LlamaForCausalLM, held_out: list[Batch]) -> float:
    """Mean next-token loss, in nats, over the held-out batches."""
    model.eval()
    losses = [loss_of(model, batch).item() for batch in held_out]
    model.train()
    return sum(losses) / len(losses)


def pretrain(output: Path, log: Path, steps: int, resume: bool) -> None:
    """Train for `steps` and write the model in bf16, with its tokenizer, to `output`."""
    torch.set_num_threads(THREADS)
    torch.manual_seed(WEIGHTS_SEED)
    work = log.with_suffix(".checkpoint.pt")

    sample = itertools.islice(conversations(CORPUS_SEED), TOKENIZER_CONVERSATIONS)
    tokenizer = tokenizer_tools.train_tokenizer(
        (message["content"] for chat in sample for message in [*chat, {"content": "system\nuser\nassistant\n"}]),
        MAX_POSITIONS,
    )
    model = LlamaForCausalLM(config(len(tokenizer)))
    optimizers = optimizers_for(model)
    schedulers = [torch.optim.lr_scheduler.LambdaLR(one, lambda step: rate(step, steps)) for one in optimizers]
    held_out = list(itertools.islice(batches(tokenizer, HELD_OUT_SEED), 8))
    stream = batches(tokenizer, CORPUS_SEED)
    start = 0
    if resume and work.exists():
        state = torch.load(work, weights_only=True)
        model.load_state_dict(state["model"])
        for part, saved in zip([*optimizers, *schedulers], state["optimizers"], strict=True):
            part.load_state_dict(saved)
        start = state["step"]
        next(itertools.islice(stream, start - 1, start), None)

    with log.open("a" if start else "w", encoding="utf-8") as lines:

        def record(**values: object) -> None:
            lines.write(json.dumps(values) + "\n")
            lines.flush()

        if not start:
            parameters = sum(p.numel() for p in model.parameters())
            record(parameters=parameters, vocabulary=len(tokenizer), steps=steps, batch_tokens=BATCH_TOKENS)
        began = time.monotonic()
        for step in range(start, steps):
            loss = loss_of(model, next(stream))
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for part in (*optimizers, *schedulers):
                part.step()
            model.zero_grad()
            done = step + 1
            if done % 10 == 0:
                record(
                    step=done,
                    loss=round(loss.item(), 4),
                    grad_norm=round(norm.item(), 3),
                    tokens_per_second=round((done - start) * BATCH_TOKENS / (time.monotonic() - began)),
                )
            if done % EVALUATE_EVERY == 0 or done == steps:
                record(step=done, held_out_loss=round(held_out_loss(model, held_out), 4))
            if done % CHECKPOINT_EVERY == 0:
                parts = [part.state_dict() for part in (*optimizers, *schedulers)]
                state = {"model": model.state_dict(), "optimizers": parts, "step": done}
                torch.save(state, work.with_suffix(".part"))
                work.with_suffix(".part").replace(work)

    output.mkdir(parents=True, exist_ok=True)
    model.eval().to(torch.bfloat16).save_pretrained(output)
    tokenizer_tools.save_tokenizer(tokenizer, output)


def main() -> None:
    """Parse the command line and pretrain."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=ASSETS / "model", help="folder for the model")
    parser.add_argument(
        "--log", type=Path, default=Path(__file__).with_name("pretrain.log"), help="log, one JSON a line"
    )
    parser.add_argument("--steps", type=int, default=STEPS, help="optimizer steps")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint beside the log")
    options = parser.parse_args()
    pretrain(options.output, options.log, options.steps, options.resume)


if __name__ == "__main__":
    main()
