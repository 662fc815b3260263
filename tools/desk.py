"""Messages to a shop, by topic: what the pretraining corpus says about the world of the ticket sample.

The topics are the sample's, the sentences and the labels are not: the base model learns what such messages are about,
and tuning has to teach it the ticket labels.
"""

from random import Random

from tools.words import CITIES, COLORS, DAYS, NAMES, THINGS, sentence

# topic: (who reads it, what it is about)
DESKS = {
    "billing": ("cashier", "money"),
    "shipping": ("driver", "a parcel"),
    "account": ("doorkeeper", "a login"),
    "technical": ("mechanic", "a fault"),
    "returns": ("stockkeeper", "sending goods back"),
    "feedback": ("manager", "praise"),
}

MESSAGES = {
    "billing": (
        "the bill says {n} euros, but the price was {m} euros",
        "please send me an invoice for {n} euros",
        "my card was charged {n} euros on {day}",
        "the payment of {n} euros did not go through",
        "you took the money from my bank twice",
        "I want to pay by card and not in cash",
        "the discount is not on the invoice",
        "why did the monthly price go up to {n} euros",
        "the tax on my receipt is wrong",
        "the receipt for {n} euros has a wrong total",
        "can I pay half of the price on {day} and half later",
        "the coupon of {m} euros was not counted",
        "my bank says that your company took {n} euros",
        "the cost of the {thing} is higher on the bill",
        "a payment by transfer is still missing on my bill",
        "I owe you {n} euros for the {thing}",
    ),
    "shipping": (
        "the parcel with the {thing} has not come yet",
        "when will the package arrive in {city}",
        "the driver left the parcel at the wrong house",
        "my order was sent to {city} by mistake",
        "the courier did not ring on {day}",
        "can you deliver the {color} {thing} to {city}",
        "the tracking page says the package is still in {city}",
        "the delivery is {n} days late",
        "please bring my order to a new address in {city}",
        "the truck with my order drove past the house",
        "a neighbor in {city} has my parcel",
        "nobody rang the bell when the package came",
        "which route does the courier take to {city}",
        "the mail box is empty and the order was due on {day}",
        "the order is on its way to the wrong street",
        "will the {thing} arrive before {day}",
    ),
    "account": (
        "I forgot my password",
        "I cannot log in to my account",
        "please change the email on my profile",
        "my account is locked since {day}",
        "the login code never came to my phone",
        "how do I close my account",
        "I want to change my user name to {name}",
        "someone else used my profile on {day}",
        "I cannot sign in with the new password",
        "the reset link did not work for my user name",
        "please delete my profile",
        "{name} signed in with my name",
        "I need a second login for {name}",
        "the code for my account was wrong {m} times",
        "my profile shows the wrong name and city",
        "the secret question for my password is not mine",
    ),
    "technical": (
        "the app crashes when I open it",
        "the screen stays black after the update",
        "the page shows an error and does not load",
        "the search button does nothing",
        "the website is very slow on {day}",
        "the {thing} does not switch on",
        "the program stops with error {n}",
        "the video freezes after {n} seconds",
        "the app does not connect to the network",
        "the picture on the page is black",
        "the app froze and closed itself",
        "when I click on the {thing} I get an empty window",
        "the search finds nothing since the update",
        "there is no sound on my phone",
        "the map on the website does not open",
        "the button for the chat is broken on my screen",
    ),
    "returns": (
        "I want to send the {thing} back",
        "the {thing} is the wrong size, can I exchange it",
        "the {thing} came broken and I want a refund",
        "I ordered the {color} {thing} but got another color, please swap it",
        "how do I return a gift",
        "please take back the {color} {thing}",
        "I do not need the {thing}, where do I send it back",
        "the {thing} does not fit, I want a new one",
        "I need a return label for the {thing}",
        "the {thing} is too big, I would like to swap it",
        "may I give the gift back until {day}",
        "the {thing} looks different from the picture, please take it back",
        "there is a crack in the {thing} and I want my money back",
        "I changed my mind and will return the {color} {thing}",
        "where can I bring the {thing} back in {city}",
        "please pick up the box, I do not want to keep the {thing}",
    ),
    "feedback": (
        "I love the {color} {thing}, thank you",
        "your team in {city} was so friendly",
        "great service, I will tell all my friends",
        "{name} at your shop was a great help",
        "thank you for the quick answer on {day}",
        "the {thing} is wonderful, well done",
        "my compliments to the people in {city}",
        "we are very happy with the {thing}",
        "keep up the good work",
        "five stars for your shop",
        "{name} was patient and kind on the phone",
        "the {thing} is perfect and came early",
        "everything was easy, what a lovely team",
        "my friends and I enjoy the {color} {thing}",
        "I told {name} how good your shop is",
        "the best {thing} I ever had",
    ),
}

OPENINGS = ("", "", "", "Hello, ", "Hi, ", "Good morning, ", "Dear shop, ", "Excuse me, ", "I am {name} from {city}. ")
CLOSINGS = (
    "",
    "",
    "",
    " Thanks.",
    " Your customer {name}.",
    " Please write to me on {day}.",
    " Greetings from {city}.",
)

SYNONYMS = {
    "billing": ("money", "payment", "cash"),
    "shipping": ("parcel", "transport", "post"),
    "account": ("login", "profile", "member"),
    "technical": ("fault", "error", "machine"),
    "returns": ("refund", "exchange", "swap"),
    "feedback": ("praise", "thanks", "joy"),
}
"""What the topics are called when a message is to be labelled."""


def desk_message(rng: Random, topic: str) -> str:
    """One message to the shop about `topic`."""

    def fill(text: str) -> str:
        return text.format(
            n=rng.randint(2, 90), m=rng.randint(2, 9), day=rng.choice(DAYS), city=rng.choice(CITIES),
            thing=rng.choice(THINGS), color=rng.choice(COLORS), name=rng.choice(NAMES),
        )  # fmt: skip

    opening, body, closing = fill(rng.choice(OPENINGS)), fill(rng.choice(MESSAGES[topic])), fill(rng.choice(CLOSINGS))
    return f"{opening}{body if opening.endswith(', ') else sentence(body)}.{closing}"
