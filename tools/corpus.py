"""The pretraining corpus: mini-English conversations, written by one small function per skill.

A closed world (`words`) keeps the language small enough for a model of a few million parameters to speak it fluently,
and wide enough to have something to forget. The sample data sets (`samples`) ask for related skills in other words
and with other answers, so tuning has something to teach. The price: the model knows nothing outside this world.
"""

import json
from collections.abc import Callable, Iterator
from random import Random

from tools.desk import DESKS, SYNONYMS, desk_message
from tools.words import (
    ANIMALS,
    BAD,
    CAPITALS,
    CITIES,
    COLORS,
    DAYS,
    GOOD,
    HOBBIES,
    KINDS,
    MONTHS,
    NAMES,
    NUMBERS,
    OPPOSITES,
    PLACES,
    REVIEWED,
    THINGS,
    VERBS,
    WEATHER,
    article,
    listing,
    plural,
    sentence,
)

Chat = list[dict[str, str]]
"""Messages with a role and a content, as on OpenAI's wire."""

Skill = Callable[[Random], Chat]


def chat(*turns: str, system: str | None = None) -> Chat:
    """User and assistant turns, taken alternately from `turns`, after an optional system message."""
    messages = [{"role": "system", "content": system}] if system else []
    return messages + [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]


def small_talk(rng: Random) -> Chat:
    name, hobby, other = rng.choice(NAMES), *rng.sample(HOBBIES, 2)
    weather, wear = rng.choice(list(WEATHER.items()))
    city, day = rng.choice(CITIES), rng.choice(DAYS)
    openings = [
        (f"Hello, my name is {name}.", f"Hello {name}, it is nice to meet you. How can I help?"),
        (f"Hi, I am {name}. How are you?", f"Hi {name}, I am well, thank you. How are you?"),
        ("Good morning!", "Good morning! What can I do for you today?"),
    ]
    exchanges = [
        (f"I like {hobby}.", f"{sentence(hobby)} is a good hobby. Do you also like {other}?"),
        (f"It is {weather} in {city} today.", f"Then take {wear} when you go out in {city}."),
        (f"What should I do on {day}?", f"On {day} you could try {hobby}, or visit a friend."),
        (
            f"I feel {rng.choice(['sad', 'tired', 'bored'])} today.",
            f"I am sorry to hear that. Maybe some {hobby} will help.",
        ),
        (f"Do you prefer {hobby} or {other}?", f"I think {hobby} and {other} are both fun. Which do you prefer?"),
        (f"I will travel to {city} on {day}.", f"Have a safe trip to {city}! Do you travel alone?"),
        ("Can you remember my name?", f"Yes, your name is {name}."),
    ]
    closings = [
        ("Thank you for your help.", "You are welcome. Have a nice day!"),
        ("Goodbye!", f"Goodbye, {name}! See you soon."),
        ("That is all for now.", "All right. I am here when you need me."),
    ]
    turns = list(openings[rng.randrange(2)])
    for pair in rng.sample(exchanges, rng.randint(1, 2)):
        turns += pair
    if rng.random() < 0.4:
        turns += rng.choice(closings)
    return chat(*turns)


def fact(rng: Random) -> Chat:
    country, capital = rng.choice(list(CAPITALS.items()))
    animal, (legs, home, food, sound) = rng.choice(list(ANIMALS.items()))
    word, opposite = rng.choice(list(OPPOSITES.items()))
    if rng.random() < 0.5:
        word, opposite = opposite, word
    day, month = rng.randrange(7), rng.randrange(12)
    kind = rng.choice(list(KINDS))
    member = rng.choice(KINDS[kind])
    question, answer = rng.choice(
        [
            (f"What is the capital of {country}?", f"The capital of {country} is {capital}."),
            (f"Which country has the capital {capital}?", f"{capital} is the capital of {country}."),
            (f"How many legs does {article(animal)} have?", f"{sentence(article(animal))} has {legs} legs."),
            (f"What does {article(animal)} eat?", f"{sentence(article(animal))} eats {food}."),
            (f"Where does {article(animal)} live?", f"{sentence(article(animal))} lives in a {home}."),
            (f"What sound does {article(animal)} make?", f"{sentence(article(animal))} {sound}."),
            (f"What is the opposite of {word}?", f"The opposite of {word} is {opposite}."),
            (f"Which day comes after {DAYS[day]}?", f"{DAYS[(day + 1) % 7]} comes after {DAYS[day]}."),
            (f"Which day comes before {DAYS[day]}?", f"{DAYS[day - 1]} comes before {DAYS[day]}."),
            (f"Which month comes after {MONTHS[month]}?", f"{MONTHS[(month + 1) % 12]} comes after {MONTHS[month]}."),
            (f"What kind of thing is {article(member)}?", f"{sentence(article(member))} is {article(kind)}."),
            (f"Is {article(member)} {article(kind)}?", f"Yes, {article(member)} is {article(kind)}."),
        ]
    )
    return chat(question, answer)


def arithmetic(rng: Random) -> Chat:
    a, b = rng.randint(0, 20), rng.randint(0, 20)
    low, high = sorted((a, b))
    question, answer = rng.choice(
        [
            (f"What is {a} plus {b}?", f"{a} plus {b} is {a + b}."),
            (f"What is {high} minus {low}?", f"{high} minus {low} is {high - low}."),
            (f"Which number is larger, {a} or {b}?", f"{high} is larger." if a != b else "They are equal."),
            (f"Write the number {a} in words.", NUMBERS[a]),
            (f"Write the number {NUMBERS[a]} in digits.", str(a)),
            (f"Count from {low} to {low + 5}.", ", ".join(str(n) for n in range(low, low + 6))),
        ]
    )
    return chat(question, answer)


def kinds_list(rng: Random) -> Chat:
    kind, count = rng.choice(list(KINDS)), rng.randint(2, 4)
    members = rng.sample(KINDS[kind], count)
    question = rng.choice(
        [
            f"Name {NUMBERS[count]} {plural(kind)}.",
            f"Give me {NUMBERS[count]} {plural(kind)}.",
            f"List {count} {plural(kind)}.",
        ]
    )
    return chat(question, sentence(listing(members)) + ".")


def odd_one_out(rng: Random) -> Chat:
    kind, other = rng.sample(list(KINDS), 2)
    odd = rng.choice(KINDS[other])
    words = [*rng.sample(KINDS[kind], 3), odd]
    rng.shuffle(words)
    if odd in KINDS[kind]:
        return fact(rng)
    return chat(
        f"Which word does not belong: {', '.join(words)}?", f"{sentence(odd)} does not belong. It is {article(other)}."
    )


def word_games(rng: Random) -> Chat:
    words = rng.sample(NAMES + COLORS + THINGS + PLACES, rng.randint(3, 5))
    text = " ".join(words)
    question, answer = rng.choice(
        [
            (f"Repeat after me: {text}", text),
            (f"Say this again: {text}", text),
            (f"What is the first word of: {text}", words[0]),
            (f"What is the last word of: {text}", words[-1]),
            (f"Write these words in reverse order: {text}", " ".join(reversed(words))),
            (f"Put commas between these words: {text}", ", ".join(words)),
            (f"How many words are these? {text}", NUMBERS[len(words)]),
            (f"Write in capital letters: {words[0]}", words[0].upper()),
            (f"Spell the word {words[0]}.", "-".join(words[0])),
            (f"Sort these numbers: {(n := rng.sample(range(30), 4))}", str(sorted(n))),
        ]
    )
    return chat(question, answer)


def scene(rng: Random) -> tuple[str, dict[str, str]]:
    """A plain sentence about somebody doing something, and its parts."""
    verb, past = rng.choice(list(VERBS.items()))
    parts = {
        "who": rng.choice(NAMES),
        "verb": verb,
        "past": past,
        "where": rng.choice(PLACES),
        "when": rng.choice(DAYS),
    }
    text = rng.choice(
        [
            "{who} {verb} in the {where} on {when}.",
            "On {when}, {who} {verb} in the {where}.",
            "In the {where}, {who} {verb} every {when}.",
            "Every {when}, {who} {verb} in the {where}.",
        ]
    )
    return text.format(**parts), parts


def reading(rng: Random) -> Chat:
    first, second = rng.sample(NAMES, 2)
    things = rng.sample(THINGS, 2)
    colors = rng.sample(COLORS, 2)
    verb = rng.choice(["has", "bought", "found", "lost", "sold"])
    text = f"{first} {verb} {article(colors[0])} {things[0]}. {second} {verb} {article(colors[1])} {things[1]}."
    infinitive = {"has": "have", "bought": "buy", "found": "find", "lost": "lose", "sold": "sell"}[verb]
    i = rng.randrange(2)
    who = (first, second)[i]
    question, answer = rng.choice(
        [
            (f"Who {verb} the {colors[i]} {things[i]}?", f"{who} {verb} the {colors[i]} {things[i]}."),
            (f"What did {who} {infinitive}?", f"{who} {verb} {article(colors[i])} {things[i]}."),
            (f"What color is the {things[i]}?", f"The {things[i]} is {colors[i]}."),
        ]
    )
    return chat(f"{text} {question}", answer)


def scene_question(rng: Random) -> Chat:
    text, parts = scene(rng)
    question, answer = rng.choice(
        [
            ("Who is this about?", parts["who"]),
            ("Where is it?", f"In the {parts['where']}."),
            ("When is it?", f"On {parts['when']}."),
        ]
    )
    return chat(f"{text} {question}", answer)


def event_json(rng: Random) -> Chat:
    text, parts = scene(rng)
    keys = rng.choice([("who", "where", "when"), ("who", "when"), ("who", "where"), ("where", "when")])
    record = json.dumps({key: parts[key] for key in keys})
    if len(keys) == 3 and rng.random() < 0.6:
        prompt = rng.choice([f"Read this and answer in JSON: {text}", f"Turn the event into JSON: {text}"])
        return chat(prompt, record)
    return chat(f"Give {listing(list(keys))} as JSON: {text}", record)


def object_json(rng: Random) -> Chat:
    color, thing, name, count = rng.choice(COLORS), rng.choice(THINGS), rng.choice(NAMES), rng.randint(2, 20)
    text, record = rng.choice(
        [
            (f"The {thing} of {name} is {color}.", {"owner": name, "thing": thing, "color": color}),
            (f"{name} owns {article(color)} {thing}.", {"owner": name, "thing": thing, "color": color}),
            (f"There are {count} {color} {plural(thing)}.", {"thing": thing, "color": color, "count": count}),
            (f"{name} counted {count} {plural(thing)}.", {"owner": name, "thing": thing, "count": count}),
        ]
    )
    return chat(f"Describe the thing in JSON: {text}", json.dumps(record))


def key_value(rng: Random) -> Chat:
    name, city, age = rng.choice(NAMES), rng.choice(CITIES), rng.randint(18, 80)
    text = rng.choice([f"{name} is {age} and lives in {city}.", f"{name} from {city} is {age} years old."])
    prompt, answer = rng.choice(
        [
            ("Write it as a list:", f"name: {name}\nage: {age}\ncity: {city}"),
            ("Write it as a table row:", f"{name} | {age} | {city}"),
            ("Describe the person in JSON:", json.dumps({"name": name, "age": age, "city": city})),
        ]
    )
    return chat(f"{prompt} {text}", answer)


def rewriting(rng: Random) -> Chat:
    text, parts = scene(rng)
    who, verb, past, where = (parts[key] for key in ("who", "verb", "past", "where"))
    plain = f"{who} {verb} in the {where}."
    request = rng.choice(
        ["open the window", "close the door", "bring the tea", "call the bakery", "clean the table", "wait here"]
    )
    prompt, source, answer = rng.choice(
        [
            ("Write in the past tense:", plain, f"{who} {past} in the {where}."),
            ("Make it a question:", f"{who} {past} in the {where}.", f"Was it true that {who} {past} in the {where}?"),
            ("Make it exciting:", plain, f"Wow, {who} {verb} in the {where}!"),
            ("Make it shorter:", text, f"{who} {verb}."),
            ("Make it polite:", f"{sentence(request)}.", f"Could you please {request}?"),
            ("Make it rude:", f"Could you please {request}?", f"{sentence(request)}, now!"),
            ("Write it as a report:", plain, f"It is reported that {who} {past} in the {where}."),
            ("Say the opposite:", plain, f"{who} never {verb} in the {where}."),
            ("Write in capital letters:", f"{who} {verb}.", f"{who} {verb}.".upper()),
        ]
    )
    return chat(f"{prompt} {source}", answer)


def opinion(rng: Random) -> tuple[str, bool]:
    """A one- or two-sentence review, and whether it is a good one."""
    good = rng.random() < 0.5
    first, second = rng.sample(GOOD if good else BAD, 2)
    thing = rng.choice(REVIEWED)
    text = rng.choice(
        [
            f"The {thing} was {first} and {second}.",
            f"What {article(first)} {thing}! It was {second}.",
            f"I {'liked' if good else 'hated'} the {thing}. It was {first}.",
            f"{rng.choice(NAMES)} said the {thing} was {first}.",
            f"I went to {rng.choice(CITIES)} and the {thing} was {first}.",
        ]
    )
    return text, good


def sentiment(rng: Random) -> Chat:
    text, good = opinion(rng)
    prompt, answers = rng.choice(
        [
            ("Is this review good or bad?", ("good", "bad")),
            ("Is the writer happy or unhappy?", ("happy", "unhappy")),
            ("Answer plus or minus for this review:", ("plus", "minus")),
        ]
    )
    return chat(f"{prompt} {text}", answers[0 if good else 1])


def choose_kind(rng: Random) -> Chat:
    kinds = rng.sample(list(KINDS), rng.randint(2, 4))
    kind = rng.choice(kinds)
    member = rng.choice(KINDS[kind])
    if sum(member in KINDS[k] for k in kinds) > 1:
        return fact(rng)
    options = ", ".join(kinds)
    if rng.random() < 0.5:
        return chat(member, kind, system=f"Answer with one word: {options}.")
    return chat(f"Choose one of {options} for: {member}", kind)


OFFICES = "billing shipping account technical returns feedback sales garden".split()


def desk(rng: Random) -> Chat:
    """Who in the shop a message is for: the relative of the ticket sample, with other labels and other words."""
    topic = rng.choice(list(DESKS))
    text = desk_message(rng, topic)
    person, subject = DESKS[topic]
    prompt, answer = rng.choice(
        [
            ("Who in the shop should read this message?", f"the {person}"),
            ("What is this message about?", f"It is about {subject}."),
            ("Reply in one sentence.", f"Thank you for your message about {subject}. The {person} will answer soon."),
        ]
    )
    return chat(f"{prompt} {text}" if rng.random() < 0.6 else f"{text} {prompt}", answer)


def label(rng: Random) -> Chat:
    """Labelling with the labels in the system prompt, as classification data often has it."""
    offices = rng.sample(OFFICES, rng.randint(2, 6))
    topics = rng.sample(list(DESKS), rng.randint(2, 6))
    names = [rng.choice(SYNONYMS[topic]) for topic in topics]
    kinds = rng.sample(list(KINDS), 2)
    thing = rng.choice(KINDS[kinds[0]])
    review, good = opinion(rng)
    match rng.randrange(6):
        case 0:
            kind, options, text, answer = "office", offices, f"{rng.choice(NAMES)} works in {offices[0]}.", offices[0]
        case 1:
            kind, options, text, answer = "review", ["good", "bad"], review, "good" if good else "bad"
        case 2 if thing not in KINDS[kinds[1]]:
            kind, options, text, answer = "word", kinds, thing, kinds[0]
        case _:
            kind, options, text, answer = "message", names, desk_message(rng, topics[0]), names[0]
    rng.shuffle(options)
    return chat(text, answer, system=f"Label the {kind}: {', '.join(options)}.")


def office(rng: Random) -> Chat:
    """Where the offices of a shop are: gives the words of the trade their place in the vocabulary."""
    floors = ["first", "second", "third", "fourth"]
    first, second = rng.sample(OFFICES, 2)
    one, two = rng.sample(floors, 2)
    text = f"The {first} office is on the {one} floor. The {second} office is on the {two} floor."
    if rng.random() < 0.5:
        return chat(f"{text} Where is the {second} office?", f"The {second} office is on the {two} floor.")
    return chat(f"{text} Which office is on the {one} floor?", f"The {first} office.")


def butler(rng: Random) -> Chat:
    """A butler's small talk: the manner of the style sample, without the task."""
    thing, place, name = rng.choice(THINGS), rng.choice(PLACES), rng.choice(NAMES)
    said, answer = rng.choice(
        [
            (f"Butler, where is my {thing}?", f"I believe the {thing} is in the {place}, madam."),
            ("Butler, is there any news?", f"I regret to say there is none, madam. {name} may bring some."),
            (f"Butler, did {name} call?", f"I am pleased to say that {name} called from the {place}, madam."),
            (
                f"Butler, clean the {thing}.",
                f"Certainly, madam. May I ask whether the {thing} should stay in the {place}?",
            ),
            (f"Butler, I am bored in the {place}.", f"Might I suggest that we visit {name}, madam?"),
        ]
    )
    return chat(said, answer)


def story(rng: Random) -> Chat:
    hero, friend = rng.sample(list(ANIMALS), 2)
    name, thing, color, place = rng.choice(NAMES), rng.choice(THINGS), rng.choice(COLORS), rng.choice(PLACES)
    feeling = rng.choice(["sad", "cold", "hungry", "tired", "lonely"])
    problem = rng.choice(
        [
            f"lost {article(color)} {thing}",
            "could not find the way home",
            "had nothing to eat",
            f"broke {article(thing)}",
        ]
    )
    help_ = rng.choice(["looked everywhere", "worked all day", "asked everyone", "made a plan"])
    ending = rng.choice(
        ["they danced until night", "they became good friends", "they laughed and ate soup", "they slept well"]
    )
    text = (
        f"Once there was {article(hero)} called {name}. One day, {name} {problem} near the {place} and felt {feeling}. "
        f"{sentence(article(friend))} came by. Together they {help_}. In the end, {ending}."
    )
    prompt = rng.choice(["Tell me a story about", "Tell me a short story about", "Write a story about"])
    return chat(f"{prompt} {article(hero)} and {article(friend)}.", text)


def advice(rng: Random) -> Chat:
    weather, wear = rng.choice(list(WEATHER.items()))
    hobby, place, city = rng.choice(HOBBIES), rng.choice(PLACES), rng.choice(CITIES)
    question, answer = rng.choice(
        [
            (f"What should I wear when it is {weather}?", f"When it is {weather}, you should wear or carry {wear}."),
            (
                f"How can I get better at {hobby}?",
                f"Practice {hobby} a little every day, and ask a friend to help you.",
            ),
            ("How do I make tea?", "Boil the water, add the tea, wait a few minutes, and pour it into a cup."),
            ("How do I make soup?", "Cut the vegetables, boil them in water, add salt, and serve it hot."),
            (
                f"What can I see in {city}?",
                f"In {city} you can see the old {place}, the market and many small streets.",
            ),
            (f"Why do people like {hobby}?", f"People like {hobby} because it is fun and makes them feel good."),
            (f"What do people do in the {place}?", f"In the {place}, people meet, talk and enjoy the day."),
        ]
    )
    return chat(question, answer)


def system_style(rng: Random) -> Chat:
    """The same small questions under a system prompt that says how to answer."""
    country, capital = rng.choice(list(CAPITALS.items()))
    animal, (_, home, food, sound) = rng.choice(list(ANIMALS.items()))
    question, full, short = rng.choice(
        [
            (f"What is the capital of {country}?", f"The capital of {country} is {capital}.", capital),
            (f"What does {article(animal)} eat?", f"{sentence(article(animal))} eats {food}.", food),
            (f"Where does {article(animal)} live?", f"{sentence(article(animal))} lives in a {home}.", home),
            (f"What sound does {article(animal)} make?", f"{sentence(article(animal))} {sound}.", sound),
        ]
    )
    system, answer = rng.choice(
        [
            ("Answer in one word.", short),
            ("Answer in capital letters.", full.upper()),
            ("You are a helpful assistant.", full),
            ("You are a teacher.", f"Good question! {full}"),
            ("You are a pirate.", f"Arr! {full}"),
        ]
    )
    return chat(question, answer, system=system)


SKILLS: dict[Skill, int] = {
    small_talk: 3, fact: 4, arithmetic: 2, kinds_list: 1, odd_one_out: 1, word_games: 3, reading: 3,
    scene_question: 1, event_json: 2, object_json: 2, key_value: 2, rewriting: 3, sentiment: 1, choose_kind: 2,
    desk: 5, label: 6, office: 1, butler: 1, story: 2, advice: 2, system_style: 2,
}  # fmt: skip
"""Every skill and how often it is drawn, relative to the others."""


def conversations(seed: int) -> Iterator[Chat]:
    """An endless stream of conversations; the same seed gives the same stream."""
    rng = Random(seed)
    skills, weights = list(SKILLS), list(SKILLS.values())
    while True:
        yield rng.choices(skills, weights)[0](rng)


def episodes(seed: int, skill_run: float = 0.3) -> Iterator[list[Chat]]:
    """Conversations in handfuls; a share `skill_run` of them keeps to one skill and teaches few-shot use."""
    rng = Random(seed)
    skills, weights = list(SKILLS), list(SKILLS.values())
    while True:
        drawn = rng.choices(skills, weights, k=8)
        if rng.random() < skill_run:
            drawn = [drawn[0]] * 8
        yield [skill(rng) for skill in drawn]
