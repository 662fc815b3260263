"""Tools through the official client: offered, required, streamed, answered."""

import json
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel

pytestmark = pytest.mark.slow

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 8}, "unit": {"enum": ["C", "F"]}},
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}
STOP = {"type": "function", "function": {"name": "stop"}}

ASK: dict[str, Any] = {
    "model": "embedded",
    "messages": [{"role": "user", "content": "What is the weather in Rome?"}],
    "tools": [WEATHER, STOP],
    "max_tokens": 100,
}


def test_a_required_call_follows_the_schema_of_its_tool(client: openai.OpenAI) -> None:
    for seed in range(3):
        choice = client.chat.completions.create(**ASK, tool_choice="required", seed=seed).choices[0]
        assert choice.finish_reason == "tool_calls"
        assert choice.message.content is None
        for call in choice.message.tool_calls:
            arguments = json.loads(call.function.arguments)
            assert set(arguments) == ({"city", "unit"} if call.function.name == "get_weather" else set())


def test_a_named_tool_is_called_once_by_each_choice(client: openai.OpenAI) -> None:
    named = {"type": "function", "function": {"name": "stop"}}
    reply = client.chat.completions.create(**ASK, tool_choice=named, n=2, seed=1)
    for choice in reply.choices:
        (call,) = choice.message.tool_calls
        assert (call.function.name, call.function.arguments) == ("stop", "{}")


def test_a_streamed_call_says_what_the_whole_one_says(client: openai.OpenAI) -> None:
    ask = ASK | {"tool_choice": "required", "seed": 5, "temperature": 0}
    whole = client.chat.completions.create(**ask).choices[0]
    with client.chat.completions.stream(**ask) as stream:
        kinds = [event.type for event in stream]
        streamed = stream.get_final_completion().choices[0]
    assert "tool_calls.function.arguments.delta" in kinds
    assert streamed.finish_reason == whole.finish_reason == "tool_calls"
    for said, wanted in zip(streamed.message.tool_calls, whole.message.tool_calls, strict=True):
        assert (said.function.name, said.function.arguments) == (wanted.function.name, wanted.function.arguments)


def test_the_clients_own_parsing_takes_the_calls(client: openai.OpenAI) -> None:
    class Weather(BaseModel):
        unit: Literal["C", "F"]
        days: Literal[1, 2]

    tool = openai.pydantic_function_tool(Weather)
    reply = client.chat.completions.parse(**(ASK | {"tools": [tool]}), tool_choice="required", seed=2)
    said = reply.choices[0].message
    assert isinstance(said.tool_calls[0].function.parsed_arguments, Weather)
    with client.chat.completions.stream(**(ASK | {"tools": [tool]}), tool_choice="required", seed=2) as stream:
        streamed = stream.get_final_completion().choices[0].message
    for kept in (said, streamed):  # as its documentation tells people to go on
        results = [{"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in kept.tool_calls]
        ask = ASK | {"messages": [*ASK["messages"], kept, *results], "max_tokens": 4}
        assert client.chat.completions.create(**ask).choices


def test_a_result_can_be_given_and_tools_left_alone(client: openai.OpenAI) -> None:
    asked = client.chat.completions.create(**ASK, tool_choice="required", seed=3, parallel_tool_calls=False)
    message = asked.choices[0].message
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": '{"sky": "clear"}'}
    messages = [*ASK["messages"], message, result]
    reply = client.chat.completions.create(**(ASK | {"messages": messages}), tool_choice="none", temperature=0)
    assert reply.choices[0].message.tool_calls is None
    assert reply.usage.prompt_tokens > asked.usage.prompt_tokens


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"tool_choice": {"type": "function", "function": {"name": "nope"}}}, "tool_choice"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"messages": [{"role": "tool", "tool_call_id": "x", "content": "1"}]}, "messages[0].tool_call_id"),
        (
            {
                "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "spell"}}}],
                "tool_choice": "required",
            },
            "tools",
        ),
    ],
)
def test_a_wrong_use_of_tools_names_the_parameter(client: openai.OpenAI, change: dict, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(**(ASK | change))
    assert error.value.param == param
