"""Requests and replies as vLLM's `/v1/completions` has them: token ids in, token ids and log-probabilities out.

Reference: https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html (`return_token_ids`,
`return_tokens_as_token_ids`, `structured_outputs`); what it does beyond that was seen of version 0.32.0.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from tunesmith.models.vllm import NOTHING_ELSE
from tunesmith.server.language import Language
from tunesmith.server.replies import GenerationRequest, Piece, ScoreRequest, Transcript
from tunesmith.server.sampling import TokenChoice

UNLIKELY = -9999.0
"""OpenAI's log-probability of a token that the model would not say."""

_ID = "token_id:"
"""Before a token's number, where there would be its text."""


def generation_body(request: GenerationRequest, language: Language) -> dict[str, Any]:
    """The request for replies, to be streamed; a `temperature` of 0 is asked for one of them (vLLM gives no more)."""
    sampling = request.sampling
    greedy = _is_greedy(request)
    body: dict[str, Any] = {
        "prompt": list(request.prompt),
        "max_tokens": request.max_tokens,
        "n": 1 if greedy else request.choices,
        "temperature": 0.0 if greedy else sampling.temperature,
        "top_p": 1.0 if greedy else sampling.top_p,
        "seed": sampling.seed % 2**63,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "stop": list(request.stops),
        "stop_token_ids": sorted(language.ends),
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
        **NOTHING_ELSE,
    }
    if sampling.logit_bias:
        body["logit_bias"] = {str(token): bias for token, bias in sampling.logit_bias.items()}
    if sampling.logprobs is not None:
        body["logprobs"] = sampling.logprobs
    if request.guide is not None:
        body["structured_outputs"] = {"grammar": request.guide.grammar}
    return body


class Reader:
    """Reads the chunks of one streamed answer."""

    def __init__(self, request: GenerationRequest, language: Language) -> None:
        self._greedy = _is_greedy(request)
        self._logprobs = request.sampling.logprobs
        self._open = {choice: Transcript(request, choice, language) for choice in range(request.choices)}

    @property
    def ended(self) -> bool:
        """Whether every reply has."""
        return not self._open

    def read(self, chunk: Mapping[str, Any]) -> list[Piece]:
        """What a chunk adds."""
        pieces: list[Piece] = []
        for part in chunk["choices"]:
            choices = list(self._open) if self._greedy else [part["index"]]  # what is said greedily, all say
            for token in self._tokens(part):
                for choice in choices:
                    pieces += self._add(choice, token)
        return pieces

    def _add(self, choice: int, token: TokenChoice) -> Iterator[Piece]:
        """What a token adds to a reply, or in its stead an ending that the reply must have now."""
        transcript = self._open.get(choice)
        if transcript is None:
            return
        unlikely = None if self._logprobs is None else UNLIKELY
        for each in [TokenChoice(ending, unlikely) for ending in transcript.ending()] or [token]:
            piece = transcript.take(each)
            yield piece
            if piece.finish is not None:
                del self._open[choice]
                return

    def _tokens(self, part: Mapping[str, Any]) -> Iterator[TokenChoice]:
        told = part.get("logprobs")
        for place, token in enumerate(part.get("token_ids") or ()):
            if self._logprobs is None or told is None:
                yield TokenChoice(token)
            else:
                top = {int(key.removeprefix(_ID)): value for key, value in told["top_logprobs"][place].items()}
                yield TokenChoice(token, told["token_logprobs"][place], _likeliest(top, self._logprobs))


def score_body(request: ScoreRequest) -> dict[str, Any]:
    """The request for a prompt's own log-probabilities; vLLM says a token more, which nobody reads."""
    return {"prompt": list(request.prompt), "max_tokens": 1, "prompt_logprobs": request.logprobs}


def scored(answer: Mapping[str, Any], request: ScoreRequest) -> list[Piece]:
    """The prompt's tokens but the first, each with its log-probability."""
    told = answer["choices"][0]["prompt_logprobs"]
    pieces = []
    for token, entries in zip(request.prompt[1:], told[1:], strict=True):
        values = {int(key): float(entry["logprob"]) for key, entry in entries.items()}
        pieces.append(Piece(0, "", TokenChoice(token, values[token], _likeliest(values, request.logprobs)), None))
    return pieces


def _likeliest(values: Mapping[int, float], count: int) -> tuple[tuple[int, float], ...]:
    """vLLM names the chosen token too, where it is none of them."""
    return tuple(sorted(values.items(), key=lambda pair: -pair[1])[:count])


def _is_greedy(request: GenerationRequest) -> bool:
    return request.sampling.temperature == 0 or request.sampling.top_p == 0
