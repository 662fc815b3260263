"""What each model scores and says: the base, the base with the best prompt, and the tuned model, one after the other.

The base costs no second model where there is an adapter: it is the tuned one with its adapter off. A fully fine-tuned
model and its base are loaded one after the other, so memory holds one at a time.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from tunesmith.dataset.conversation import Conversation
from tunesmith.dataset.prompting import Examples, Recipe, asked_by
from tunesmith.dataset.render import Rendered, Renderer
from tunesmith.evaluation.comparison import Systems
from tunesmith.evaluation.drift import Scored, general_prompts, self_replies
from tunesmith.evaluation.harness import Harness
from tunesmith.evaluation.statistics import Values
from tunesmith.models.load import load_model, load_tuned
from tunesmith.run_folder import RunFolder
from tunesmith.spec import RunSpec

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from tunesmith.evaluation.losses import RowLosses, TrainableRow
    from tunesmith.models.load import Model

TEMPERATURE, TOP_P = 0.8, 0.95
"""For several replies to one prompt: what pass@k is usually measured with (Chen et al. 2021, section 3)."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class Questions:
    """What is asked of every model: `rows` for their loss; `asked` for a reply, the first of `samples` being greedy.

    `trained` are rows it was trained on and `retention` general rows, both asked of base and tuned only. `recipe` is
    how the prompted base is asked, with examples chosen from `examples`; `harness` has general tasks.
    """

    rows: Sequence[Conversation]
    asked: Sequence[Conversation]
    trained: Sequence[Conversation]
    retention: Sequence[Conversation]
    recipe: Recipe | None
    examples: Sequence[Conversation]
    reply_tokens: int
    trained_reply_tokens: int
    samples: int = 1
    harness: Harness | None = None


@dataclass(frozen=True)
class Measured:
    """What one model scored and said; `sampled` holds every further reply to each of `asked`.

    `drift` are the losses of the base's own replies to general prompts, `tasks` the scores on general tasks.
    """

    losses: "RowLosses"
    replies: list[str]
    sampled: list[list[str]]
    trained: "RowLosses | None" = None
    trained_replies: tuple[str, ...] = ()
    retention: "RowLosses | None" = None
    drift: "RowLosses | None" = None
    tasks: dict[str, Values] = field(default_factory=dict)


def measure(run: RunFolder, spec: RunSpec, tokenizer: "PreTrainedTokenizerBase", ask: Questions) -> Systems[Measured]:
    """Ask the three models. Raises ModelError or RunError."""
    renderer = Renderer(tokenizer)
    session = _Session(tokenizer, renderer, spec.training.max_length, ask)

    def of_base(model: "Model") -> tuple[Measured, Measured | None, list[Scored]]:
        said = self_replies(model, tokenizer, renderer, general_prompts())
        base = session.measure(model, said)
        return base, None if ask.recipe is None else session.measure_prompted(model, ask.recipe), said

    of_both, tuned = _on_both(run, spec, of_base, lambda model, base: session.measure(model, base[2]))
    base, prompted, _ = of_both
    return Systems(base, tuned, prompted)


@dataclass(frozen=True)
class _Session:
    """The questions as tokens."""

    tokenizer: "PreTrainedTokenizerBase"
    renderer: Renderer
    max_length: int
    ask: Questions

    def measure(self, model: "Model", general: Sequence[Scored]) -> Measured:
        from tunesmith.evaluation.generate import generate
        from tunesmith.evaluation.losses import row_losses

        def scored(rows: "Sequence[TrainableRow]") -> "RowLosses | None":
            return row_losses(model, rows) if rows else None

        ask = self.ask
        trained_prompts = [self.renderer.prompt(row) for row in ask.trained]
        trained = generate(model, self.tokenizer, trained_prompts, max_new_tokens=ask.trained_reply_tokens)
        return Measured(
            losses=row_losses(model, self._render(ask.rows)),
            replies=self._replies(model, ask.asked),
            sampled=self._sampled(model, ask.asked),
            trained=scored(self._render(ask.trained)),
            trained_replies=tuple(trained),
            retention=scored(self._render(ask.retention)),
            drift=scored(general),
            tasks={} if ask.harness is None else ask.harness.scores(model, self.tokenizer),
        )

    def measure_prompted(self, model: "Model", recipe: Recipe) -> Measured:
        from tunesmith.evaluation.losses import row_losses

        put = self._put_by(recipe, context(model))
        asked = [put(row) for row in self.ask.asked]
        return Measured(
            losses=row_losses(model, [self._lengthened(row, put(row)) for row in self.ask.rows]),
            replies=self._replies(model, asked),
            sampled=self._sampled(model, asked),
        )

    def _put_by(self, recipe: Recipe, context: int | None) -> Callable[[Conversation], Conversation]:
        """Asks a row by `recipe`, with fewer examples where they would not fit into the model's context."""
        find = Examples(self.ask.examples if recipe.examples else ())

        def put(row: Conversation) -> Conversation:
            examples = find(row, recipe.examples)
            while examples and context is not None:
                asked = asked_by(row, recipe, examples)
                if len(self.renderer.prompt(asked)) + self.ask.reply_tokens <= context:
                    break
                examples = examples[1:]  # the one least like the row
            return asked_by(row, recipe, examples)

        return put

    def _lengthened(self, row: Conversation, asked: Conversation) -> Rendered:
        """`asked`, cut where `row` would be: a longer prompt must not cost the reply its end."""
        more = len(self.renderer.prompt(asked)) - len(self.renderer.prompt(row))
        return self.renderer.render(asked, max_length=self.max_length + more)

    def _render(self, rows: Sequence[Conversation]) -> list[Rendered]:
        return [self.renderer.render(row, max_length=self.max_length) for row in rows]

    def _replies(self, model: "Model", rows: Sequence[Conversation]) -> list[str]:
        from tunesmith.evaluation.generate import generate

        prompts = [self.renderer.prompt(row) for row in rows]
        return generate(model, self.tokenizer, prompts, max_new_tokens=self.ask.reply_tokens)

    def _sampled(self, model: "Model", rows: Sequence[Conversation]) -> list[list[str]]:
        """`samples` sampled replies to each row; none when one greedy reply is all that is asked for."""
        from tunesmith.evaluation.generate import reply_seeds, sample

        if self.ask.samples == 1:
            return []
        prompts = [self.renderer.prompt(row) for row in rows]
        drawn = [
            sample(
                model,
                self.tokenizer,
                prompts,
                seeds=reply_seeds(draw, len(prompts)),
                max_new_tokens=self.ask.reply_tokens,
                temperature=TEMPERATURE,
                top_p=TOP_P,
            )
            for draw in range(self.ask.samples)
        ]
        texts = [[str(self.tokenizer.decode(tokens, skip_special_tokens=True)) for tokens in draw] for draw in drawn]
        return [list(replies) for replies in zip(*texts, strict=True)]


def context(model: "Model") -> int | None:
    """The longest sequence that the model's positions allow; None where its configuration does not say."""
    longest: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return longest


def _on_both(
    run: RunFolder, spec: RunSpec, of_base: "Callable[[Model], _T]", of_tuned: "Callable[[Model, _T], Measured]"
) -> tuple[_T, Measured]:
    """`of_base` of the base, then `of_tuned` of the tuned model and what the base gave."""
    import torch
    from peft import PeftModel

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = _dtype(spec, device)
    if run.model.is_dir():
        base = of_base(load_model(spec.model, dtype=dtype, device=device))
        return base, of_tuned(load_tuned(run, dtype=dtype, device=device), base)
    model = load_tuned(run, dtype=dtype, device=device)
    assert isinstance(model, PeftModel)  # noqa: S101  # load_tuned attaches the adapter where there is no model/
    with model.disable_adapter():
        base = of_base(model)
    return base, of_tuned(model, base)


def _dtype(spec: RunSpec, device: str) -> "torch.dtype":
    """bf16 where asked for or where a GPU multiplies it fast, else fp32."""
    import torch

    fast = device == "cuda" and torch.cuda.is_bf16_supported()
    wants_bf16 = spec.training.precision == "bf16" or (spec.training.precision == "auto" and fast)
    return torch.bfloat16 if wants_bf16 else torch.float32
