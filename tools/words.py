"""The vocabulary of the corpus: a small closed world, so that four million parameters can speak about it fluently."""

NAMES = (
    "Anna Ben Clara David Emma Felix Grace Henry Iris Jack Kate Leo Mia Noah Olga Paul Quinn Rosa Sam Tara "
    "Uma Victor Wendy Yusuf Zoe Adam Bella Carlos Dora Eli Fiona George Hana Ivan Julia Kofi Lena Marco Nina Omar"
).split()

CITIES = (
    "Paris Rome Berlin Madrid London Oslo Vienna Athens Dublin Lisbon Prague Cairo Tokyo Delhi Lima Havana "
    "Warsaw Helsinki Bern Nairobi"
).split()

CAPITALS = dict(
    zip(
        "France Italy Germany Spain England Norway Austria Greece Ireland Portugal Czechia Egypt Japan India Peru Cuba "
        "Poland Finland Switzerland Kenya".split(),
        CITIES,
        strict=True,
    )
)

COLORS = "red blue green yellow black white brown pink grey orange purple silver".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen twenty"
).split()

# name: (legs, home, food, sound)
ANIMALS = {
    "dog": ("four", "house", "meat", "barks"),
    "cat": ("four", "house", "fish", "meows"),
    "cow": ("four", "farm", "grass", "moos"),
    "horse": ("four", "farm", "hay", "neighs"),
    "duck": ("two", "pond", "bread", "quacks"),
    "hen": ("two", "farm", "corn", "clucks"),
    "sheep": ("four", "field", "grass", "bleats"),
    "pig": ("four", "farm", "apples", "grunts"),
    "lion": ("four", "plain", "meat", "roars"),
    "wolf": ("four", "forest", "meat", "howls"),
    "owl": ("two", "tree", "mice", "hoots"),
    "frog": ("four", "pond", "flies", "croaks"),
    "bee": ("six", "hive", "nectar", "buzzes"),
    "mouse": ("four", "hole", "cheese", "squeaks"),
    "bear": ("four", "forest", "honey", "growls"),
    "crow": ("two", "tree", "seeds", "caws"),
}

KINDS = {
    "fruit": "apple pear plum cherry banana grape lemon peach melon fig".split(),
    "vegetable": "carrot onion potato cabbage bean leek turnip pea".split(),
    "animal": list(ANIMALS),
    "color": COLORS,
    "tool": "hammer saw drill axe spade rake wrench chisel".split(),
    "garment": "hat coat shirt scarf glove sock skirt jacket".split(),
    "vehicle": "car bus train boat bike truck tram plane".split(),
    "city": CITIES,
    "drink": "tea coffee milk water juice cocoa".split(),
    "instrument": "piano violin drum flute guitar harp trumpet cello".split(),
}
THINGS = (
    KINDS["tool"] + KINDS["garment"] + "lamp chair table clock kettle cup plate book basket mirror kite ball".split()
)

OPPOSITES = {
    "hot": "cold", "big": "small", "old": "new", "fast": "slow", "happy": "sad", "full": "empty", "open": "closed",
    "high": "low", "loud": "quiet", "wet": "dry", "light": "dark", "early": "late", "hard": "soft", "rich": "poor",
    "clean": "dirty", "strong": "weak", "thick": "thin", "sweet": "bitter", "long": "short", "near": "far",
}  # fmt: skip

# verb: past tense
VERBS = {
    "walks": "walked", "cooks": "cooked", "paints": "painted", "works": "worked", "plays": "played",
    "cleans": "cleaned",
    "sings": "sang", "reads": "read", "swims": "swam", "sleeps": "slept", "eats": "ate", "writes": "wrote",
    "runs": "ran", "waits": "waited", "dances": "danced", "laughs": "laughed",
}  # fmt: skip

PLACES = "park kitchen garden library market station school harbor museum office barn bakery theater hotel".split()
HOBBIES = "painting cooking chess hiking singing gardening reading swimming sewing fishing dancing cycling".split()
WEATHER = {
    "sunny": "a hat", "rainy": "an umbrella", "snowy": "warm boots", "windy": "a jacket", "foggy": "a lamp",
    "cold": "a coat",
}  # fmt: skip
GOOD = "wonderful lovely great friendly delicious excellent charming bright pleasant perfect".split()
BAD = "awful boring terrible rude dull broken noisy dreadful stale poor".split()
REVIEWED = "film soup hotel book song cake play walk tour meal concert room".split()


def article(noun: str) -> str:
    """`noun` with its indefinite article."""
    return ("an " if noun[0].lower() in "aeiou" else "a ") + noun


def plural(noun: str) -> str:
    """`noun` in the plural."""
    if noun.endswith(("ch", "sh", "x", "s")):
        return noun + "es"
    return noun[:-1] + "ies" if noun.endswith("y") else noun + "s"


def sentence(text: str) -> str:
    """`text` with a capital first letter."""
    return text[:1].upper() + text[1:]


def listing(words: list[str]) -> str:
    """`words` as prose: "a, b and c"."""
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]
