"""Do all rows have one shape? Legal roles, an answer to learn, tool calls that fit their results, the same keys.

What no row may have (unreadable, nothing to learn, roles no chat template accepts) fails; what most rows share and a
few lack (a system prompt, a column) only warns, because it may be meant.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from msgspec import Struct, field

from tunesmith.dataset.conversation import Conversation, Message
from tunesmith.quality.check import SHOWN_ROWS, Flags, Profile, Row, clean_command, counted
from tunesmith.quality.report import Finding, RowNote
from tunesmith.quality.task import parses

RARE_KEY = 0.05
"""A key in fewer rows than this share, or missing from fewer, is an accident more often than meant."""

MOST_SHAPES = 1_000
"""Distinct sets of keys counted, so that a file of random keys does not fill the memory."""

Shape = tuple[str, ...]
"""What a row has that another might lack, in the words of the report."""


class FormatFacts(Struct):
    """What one batch adds."""

    empty: Flags = field(default_factory=Flags)
    roles: Flags = field(default_factory=Flags)
    tools: Flags = field(default_factory=Flags)
    inputs: Flags = field(default_factory=Flags)
    formats: defaultdict[str, Flags] = field(default_factory=lambda: defaultdict(Flags))
    shapes: defaultdict[Shape, Flags] = field(default_factory=lambda: defaultdict(Flags))


class FormatCheck:
    """A `RowCheck`: schema, roles, empty outputs, tool calls."""

    def __init__(self) -> None:
        self._empty, self._roles, self._tools, self._inputs = Flags(), Flags(), Flags(), Flags()
        self._formats: defaultdict[str, Flags] = defaultdict(Flags)
        self._shapes: defaultdict[Shape, Flags] = defaultdict(Flags)

    def observe(self, rows: Sequence[Row]) -> FormatFacts:
        """Check each row of a batch, and count its shape."""
        facts = FormatFacts()
        for row in rows:
            conversation = row.conversation
            facts.formats[conversation.source.format if conversation.source else ""].flag(row)
            if not row.output.strip():
                facts.empty.flag(row, "the output is empty")
            elif not row.input.strip() and conversation.text is None:
                facts.inputs.flag(row, "the input is empty")
            if (problem := role_problem(conversation.messages)) is not None:
                facts.roles.flag(row, problem)
            elif (problem := tool_problem(conversation)) is not None:
                facts.tools.flag(row, problem)
            facts.shapes[_shape(conversation)].flag(row)
        return facts

    def add(self, observed: FormatFacts) -> None:
        """Gather one batch."""
        self._empty.extend(observed.empty)
        self._roles.extend(observed.roles)
        self._tools.extend(observed.tools)
        self._inputs.extend(observed.inputs)
        for name, flags in observed.formats.items():
            self._formats[name].extend(flags)
        for shape, flags in observed.shapes.items():
            if shape in self._shapes or len(self._shapes) < MOST_SHAPES:
                self._shapes[shape].extend(flags)

    def findings(self, profile: Profile) -> tuple[Finding, ...]:
        """One finding per kind of problem; a single pass when there is none."""
        found = list(self._problems(profile))
        if found:
            return tuple(found)
        formats = ", ".join(self._formats) or "no rows"
        return (Finding("format", "pass", f"every row is readable, legal and of one shape ({formats})"),)

    def _problems(self, profile: Profile) -> Iterator[Finding]:
        rows = len(profile.rows)
        if profile.broken_count:
            yield Finding(
                "format: broken",
                "fail",
                f"{profile.broken_count:,} of {rows + profile.broken_count:,} rows cannot be read",
                count=profile.broken_count,
                rows=tuple(
                    RowNote(f"{row.file}:{row.line}:{row.column}", f"{row.path}: {row.found}; expected {row.expected}")
                    for row in profile.broken[:SHOWN_ROWS]
                ),
                mend="mend the rows named, or drop them",
                command=clean_command(profile.files, "--drop-broken"),
            )
        if self._empty.count:
            yield Finding(
                "format: empty",
                "fail",
                counted(self._empty.count, "have an empty output: nothing to learn", whole=rows),
                count=self._empty.count,
                rows=self._empty.notes(),
                mend="write the answers, or drop the rows",
                command=clean_command(profile.files, "--drop-empty"),
            )
        if self._roles.count:
            yield Finding(
                "format: turns",
                "fail",
                counted(self._roles.count, "have turns that chat templates refuse or cannot train on"),
                count=self._roles.count,
                rows=self._roles.notes(),
                mend="system first, then user and assistant in turn, the assistant last",
            )
        if self._tools.count:
            yield Finding(
                "format: tool calls",
                "fail",
                counted(self._tools.count, "have tool calls and results that do not fit"),
                count=self._tools.count,
                rows=self._tools.notes(),
                mend="give every call one result with its id, JSON arguments and a tool that is offered",
            )
        if 0 < self._inputs.count <= rows / 2:
            yield Finding(
                "format: inputs",
                "warn",
                counted(self._inputs.count, "have an empty input"),
                count=self._inputs.count,
                rows=self._inputs.notes(),
                mend="write the question each output answers, or drop the rows",
            )
        if len(self._formats) > 1:
            counts = dict(Counter({name: flags.count for name, flags in self._formats.items()}).most_common())
            named = ", ".join(f"{name} {count:,}" for name, count in counts.items())
            odd = Flags()
            for name in list(counts)[1:]:
                odd.extend(self._formats[name], note=f"{name}, where most rows are {next(iter(counts))}")
            yield Finding(
                "format: mixed",
                "warn",
                f"rows come in {len(counts)} formats: {named}",
                count=odd.count,
                rows=odd.notes(),
                mend="convert all files to one format, so that one schema can be validated",
                command=f"tunesmith data convert {profile.files[0]} converted.jsonl --to openai",
                facts=counts,
            )
        yield from self._rare_keys(rows)

    def _rare_keys(self, rows: int) -> Iterator[Finding]:
        counts: Counter[str] = Counter()
        for shape, flags in self._shapes.items():
            counts.update(dict.fromkeys(shape, flags.count))
        few = {key: count for key, count in counts.items() if count < RARE_KEY * rows}
        most = {key: rows - count for key, count in counts.items() if (1 - RARE_KEY) * rows < count < rows}
        for verb, odd in (("have", few), ("lack", most)):
            if not odd:
                continue
            notes = Flags()
            for shape, flags in self._shapes.items():
                strange = [key for key in odd if (key in shape) == (verb == "have")]
                if strange:
                    notes.extend(flags, note=f"{'has' if verb == 'have' else 'lacks'} {', '.join(strange)}")
            named = ", ".join(f"{key} ({count:,})" for key, count in sorted(odd.items())[:5])
            yield Finding(
                "format: keys",
                "warn",
                counted(notes.count, f"{verb} what the others {'do not' if verb == 'have' else 'do'}: {named}"),
                count=notes.count,
                rows=notes.notes(),
                mend="give every row the same keys and turns",
                facts=odd,
            )


def role_problem(messages: Sequence[Message]) -> str | None:
    """What chat templates would refuse about the order of roles, or None. Indices are as in `$.messages[i]`."""
    if not messages:
        return None
    previous = ""
    learnt = False
    for index, message in enumerate(messages):
        role = message.role
        if role in ("system", "developer"):
            if previous not in ("", "system", "developer"):
                return f"$.messages[{index}]: a {role} message after the conversation began"
        elif role == "user":
            if previous == "user":
                return f"$.messages[{index}]: two user messages in a row"
        elif role == "assistant":
            if previous == "assistant":
                return f"$.messages[{index}]: two assistant messages in a row"
            if previous in ("", "system", "developer"):
                return f"$.messages[{index}]: the assistant speaks before any user"
            learnt |= message.weight != 0
            if index < len(messages) - 1 and message.weight != 0 and not (message.content.strip() or _acts(message)):
                return f"$.messages[{index}]: an assistant turn that says nothing"
        elif role == "tool" and previous not in ("assistant", "tool"):
            return f"$.messages[{index}]: a tool result that follows no call"
        previous = role
    if previous != "assistant":
        return f"$.messages[{len(messages) - 1}]: the last message is the {previous}'s, not the assistant's"
    return None if learnt else "no turn to learn from: every assistant message has weight 0"


def _acts(message: Message) -> bool:
    return bool(message.tool_calls or message.thinking)


def tool_problem(conversation: Conversation) -> str | None:
    """What does not fit about tool calls and results, or None."""
    offered = _tool_names(conversation)
    open_ids: dict[str, str] = {}
    unanswered = 0
    for index, message in enumerate(conversation.messages):
        if message.role == "tool":
            if message.tool_call_id is not None and open_ids and message.tool_call_id not in open_ids:
                return f"$.messages[{index}].tool_call_id: {message.tool_call_id!r} answers no open call"
            if unanswered == 0:
                return f"$.messages[{index}]: more results than calls"
            open_ids.pop(message.tool_call_id or "", None)
            unanswered -= 1
        elif unanswered:
            return f"$.messages[{index}]: {unanswered} tool calls before it have no result"
        for call in message.tool_calls:
            if not (call.arguments.lstrip().startswith("{") and parses(call.arguments)):
                return f"$.messages[{index}].tool_calls: arguments of {call.name!r} are no JSON object"
            if offered and call.name not in offered:
                return f"$.messages[{index}].tool_calls: {call.name!r} is not among the offered tools"
            if call.id in open_ids:
                return f"$.messages[{index}].tool_calls: two calls with the id {call.id!r}"
            if call.id is not None:
                open_ids[call.id] = call.name
        if message.tool_calls:
            unanswered = len(message.tool_calls)
    return None


def _tool_names(conversation: Conversation) -> set[str]:
    names = set()
    for tool in conversation.tools:
        function = tool.get("function", tool)
        if isinstance(function, dict) and isinstance(function.get("name"), str):
            names.add(function["name"])
    return names


def _shape(conversation: Conversation) -> Shape:
    shape = []
    if conversation.messages and conversation.messages[0].role in ("system", "developer"):
        shape.append("a system prompt")
    if conversation.tools:
        shape.append("tools")
    if conversation.label is not None:
        shape.append("a label")
    shape += [f"key {key!r}" for key, value in conversation.metadata.items() if value is not None]
    return tuple(sorted(shape))
