"""Support tickets with labels: the sample that the demo learns.

A ticket is a complaint of its class between an opening and a closing that say nothing about it. The complaints share
words across the classes (an order, a card, an email occur in several), so that no single word gives the label away.
"""

from random import Random

from tools.words import CITIES, COLORS, DAYS, NAMES, THINGS, plural, sentence

COMPLAINTS = {
    "billing": (
        "there are two payments of {n} euros for one {thing}",
        "{n} euros left my bank but the {thing} cost only {m}",
        "the receipt for the {color} {thing} shows the wrong tax",
        "my card was refused although there is money in the bank",
        "can I pay the {thing} by bank transfer in {month} parts",
        "you charged the card of {name} and not mine",
        "the discount of {m} euros is missing on the bill from {day}",
        "I never agreed to the new monthly price of {n} euros",
        "please put the name of our company in {city} on the invoice",
        "I still owe {n} euros according to your letter, but I paid on {day}",
        "what is the extra cost of {m} euros on my receipt",
        "the price in the shop in {city} was lower than on my invoice",
        "the coupon did not lower the price of the {thing}",
        "send the bill for the {color} {thing} again, the first one is empty",
    ),
    "shipping": (
        "the {thing} should have come on {day} and the door bell never rang",
        "the tracking page has not moved since {day}",
        "my package went to {city} and I live in {city2}",
        "the courier gave the parcel with the {thing} to a neighbor",
        "half of the order is here, where is the {color} {thing}",
        "can the driver come after work on {day}",
        "is {city} on your delivery route",
        "{month} days and still no {thing} in the mail box",
        "I am moving to {city}, please bring the order there",
        "how long does a parcel need from {city} to {city2}",
        "the truck came on {day} when nobody was at home",
        "the {color} {thing} is on its way to the wrong street",
        "could my order arrive a day before {day}",
        "there is no news of the parcel for {name} in {city}",
    ),
    "account": (
        "the new password is not accepted since {day}",
        "the code to log in goes to my old phone",
        "please remove my profile and all my details",
        "{name} and I want to share one user name",
        "my name is wrong, it is {name} and not {name2}",
        "someone in {city} signed in as me on {day}",
        "I have two profiles and want to keep one",
        "how can I change the email where you write to me",
        "after {month} wrong passwords I am locked out",
        "I made an account on {day} but got no email to confirm it",
        "my user name shows the wrong city, I live in {city}",
        "can {name} also get a login for our company",
        "I forgot the answer to the secret question",
        "the reset link for my password is too old",
    ),
    "technical": (
        "the order button does nothing on my phone",
        "error {n} comes up when I search for a {thing}",
        "the app closes itself after {month} seconds",
        "since the update on {day} all pictures are black",
        "the page with the {color} {thing} does not load",
        "the website takes {n} seconds to open in {city}",
        "I get an empty screen when I click on the {thing}",
        "the video about the {thing} has no sound",
        "the app cannot find the network in {city}",
        "the search shows a {thing} when I type {color}",
        "the program froze on {day} and lost my list",
        "the map in the app puts {city} in the wrong place",
        "the chat window covers half of the page",
        "your app and my {color} phone do not connect",
    ),
    "returns": (
        "the {thing} is too small, I need a bigger one",
        "the {color} {thing} has a crack, please take it back",
        "I changed my mind about the {thing} from {day}",
        "where in {city} can I bring back a {thing}",
        "I would rather have the {thing} in {color}, can we swap",
        "the box held a {thing} and I ordered something else",
        "until when may I give the {color} {thing} back",
        "it is a gift for {name} who already has a {thing}, I do not want to keep it",
        "I sent the {thing} back on {day} and wait for my {n} euros",
        "please pick up the broken {thing} in {city}",
        "do I need the receipt to exchange a {thing}",
        "{month} {things} do not fit, I want to send them back",
        "the {color} {thing} looks different from the picture, I will return it",
        "which label goes on the box when I return the {thing}",
    ),
    "feedback": (
        "the {color} {thing} is the best I ever had",
        "{name} on the phone was patient and kind",
        "I told everyone in {city} about you",
        "the new look of the website is lovely",
        "my order came early and the {thing} is perfect",
        "your shop in {city} is a wonderful place",
        "the driver on {day} was very friendly",
        "paying was so easy, well done",
        "we enjoy the {thing} every day",
        "please tell {name} that the help on {day} was great",
        "it took one call to fix the {thing}, what a good team",
        "my friends in {city} are happy with the {color} {thing} too",
        "nothing to complain about, everything was great since {day}",
        "five stars for the {thing} and for {name}",
    ),
}

LABELS = tuple(COMPLAINTS)

OPENINGS = (
    "", "", "", "", "Hello, ", "Hi, ", "Dear team, ", "Good evening, ", "Hi {helper}, ",
    "This is {helper} from {town}. ",
    "I bought {goods} in {town}. ", "My order is number {order}. ", "I am writing from {town}. ",
    "A question: ", "I am your customer since {since}. ", "About order {order}: ",
)  # fmt: skip

CLOSINGS = (
    "", "", "", "", " Thank you, {helper}.", " Please answer by {since}.", " Regards from {town}.",
    " Greetings to your team.",
    " You can call me on {since}.", " {helper} says hello.", " Best wishes, {helper}.", " I hope to hear from you.",
)  # fmt: skip


def ticket(rng: Random, label: str) -> tuple[str, str]:
    """One ticket and its label."""
    city, other_city = rng.sample(CITIES, 2)
    name, other_name = rng.sample(NAMES, 2)
    complaint = rng.choice(COMPLAINTS[label]).format(
        n=rng.randint(10, 90), m=rng.randint(2, 9), month=rng.choice(("two", "three", "four", "five", "six")),
        thing=(thing := rng.choice(THINGS)), things=plural(thing), color=rng.choice(COLORS), day=rng.choice(DAYS),
        city=city, city2=other_city, name=name, name2=other_name,
    )  # fmt: skip
    around = {
        "helper": rng.choice(NAMES), "town": rng.choice(CITIES), "since": rng.choice(DAYS),
        "order": rng.randint(1000, 9999), "goods": f"{rng.randint(2, 9)} {plural(rng.choice(THINGS))}",
    }  # fmt: skip
    opening = rng.choice(OPENINGS).format(**around)
    closing = rng.choice(CLOSINGS).format(**around)
    body = complaint if opening.endswith((", ", ": ")) else sentence(complaint)
    return f"{sentence(opening)}{body}.{closing}", label
