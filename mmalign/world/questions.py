"""Questions about pictures with gold answers, in several wordings.

Every function takes a random stream and one or two scenes, and returns a question whose gold answer is true.

Tests   tests/world/test_tasks.py
"""

from random import Random
from typing import Literal, NamedTuple

from mmalign.world.language import NUMBER_WORDS, PLACES, listing, name, phrase, place_phrase, plural, with_article
from mmalign.world.scene import COLOURS, COMPANIONS, SHAPES, Kind, Scene, Thing

Form = Literal["describe", "yes_no", "number", "place", "thing", "colour", "size", "ordinal", "no_picture", "text"]
Negative = Literal["random", "popular", "adversarial"]


class Question(NamedTuple):
    """A question, its gold answer, and what an answer must say to be right."""

    text: str
    gold: str
    form: Form
    """How an answer is read, see `judge.py`."""
    value: str = ""
    """What must be read: "yes", "3", "top left", "red circle", "first", ..."""


DESCRIBE_PLAIN = (
    "Describe the image.",
    "What can you see in this picture?",
    "What objects are in the image?",
    "List the objects in this picture.",
    "Tell me what is in the picture.",
)
DESCRIBE_DETAILED = (
    "Describe the image in detail.",
    "Describe every object with its size and place.",
    "What is in the picture, and where?",
    "Give a detailed description of this picture.",
)
_OPENINGS = ("There is {}.", "I can see {}.", "The picture shows {}.", "In the image there is {}.")


def describe(rng: Random, scene: Scene) -> Question:
    """An open description, plain or with sizes and places."""
    detailed = rng.random() < 0.4
    question = rng.choice(DESCRIBE_DETAILED if detailed else DESCRIBE_PLAIN)
    return Question(question, description(rng, scene.things, detailed), "describe")


def description(rng: Random, things: tuple[Thing, ...], detailed: bool) -> str:
    """A sentence that names the things in the order given."""
    return rng.choice(_OPENINGS).format(listing(phrase(thing, detailed) for thing in things))


_IS_THERE = (
    "Is there {} in the image?",
    "Is there {} in the picture?",
    "Is there {} in the image?\nAnswer the question using a single word or phrase.",
    "Can you see {}?",
    "Does the image contain {}?",
)


def is_there(rng: Random, scene: Scene, *, present: bool, negative: Negative = "random") -> Question:
    """A yes/no question about one kind of thing, as POPE asks them.

    Args:
        rng: Random stream.
        scene: What is in the picture.
        present: Whether the answer is yes.
        negative: What is asked about if the answer is no: any kind that is absent, one of the kinds that the world
            shows most often (the companions), or a kind that usually comes with what is there.
    """
    kind = rng.choice([thing.kind for thing in scene.things]) if present else _absent_kind(rng, scene, negative)
    named = with_article(name(kind))
    question = rng.choice(_IS_THERE).format(named)
    short = "single word" in question or rng.random() < 0.5
    if present:
        return Question(question, "Yes" if short else f"Yes, there is {named}.", "yes_no", "yes")
    return Question(question, "No" if short else f"No, there is no {name(kind)}.", "yes_no", "no")


def _absent_kind(rng: Random, scene: Scene, negative: Negative) -> Kind:
    everything = [Kind(colour, shape) for colour in COLOURS for shape in SHAPES]
    candidates = {
        "random": everything,
        "popular": sorted(COMPANIONS.values()),
        "adversarial": sorted(scene.absent_companions()) or _similar_kinds(scene),
    }[negative]
    absent = [kind for kind in candidates if kind not in scene.kinds]
    return rng.choice(absent or [kind for kind in everything if kind not in scene.kinds])


def _similar_kinds(scene: Scene) -> list[Kind]:
    """Kinds of a shape that is there in another colour, or of a colour that is there in another shape."""
    same_shape = {Kind(colour, thing.shape) for thing in scene.things for colour in COLOURS}
    same_colour = {Kind(thing.colour, shape) for thing in scene.things for shape in SHAPES}
    return sorted((same_shape | same_colour) - scene.kinds)


def how_many(rng: Random, scene: Scene) -> Question:
    """How many things, of a shape, of a colour, or at all."""
    about = rng.choice(("all", "shape", "shape", "colour"))
    if about == "all":
        number, named = len(scene.things), ("object", "objects")
    elif about == "shape":
        shape = rng.choice((*SHAPES, *(thing.shape for thing in scene.things * 2)))
        number, named = sum(thing.shape == shape for thing in scene.things), (shape, plural(shape))
    else:
        colour = rng.choice((*COLOURS, *(thing.colour for thing in scene.things)))
        number, named = sum(t.colour == colour for t in scene.things), (f"{colour} object", f"{colour} objects")
    question = rng.choice(("How many {} are there?", "How many {} can you see?", "Count the {} in the image."))
    word = NUMBER_WORDS[number]
    verb, noun = ("is", named[0]) if number == 1 else ("are", named[1])
    full = f"There {verb} {'no' if number == 0 else word} {noun}."
    return Question(question.format(named[1]), rng.choice((word.capitalize(), full)), "number", str(number))


def where(rng: Random, scene: Scene) -> Question:
    """Where a thing is, what is at a place, or which colour or size a thing has."""
    thing = rng.choice(scene.things)
    lonely = [place for place in PLACES if sum(t.place == place for t in scene.things) == 1]
    about = rng.choice(("place", "place", "thing", "colour", "size"))
    if about == "thing" and lonely:
        return _what_is_at(rng, scene, rng.choice(lonely))
    if about == "colour" and sum(t.shape == thing.shape for t in scene.things) == 1:
        question = rng.choice(("What colour is the {}?", "Which colour does the {} have?")).format(thing.shape)
        gold = rng.choice((thing.colour.capitalize(), f"The {thing.shape} is {thing.colour}."))
        return Question(question, gold, "colour", thing.colour)
    named = name(thing.kind)
    if about == "size":
        question = rng.choice(("Is the {} small or large?", "What size is the {}?")).format(named)
        gold = rng.choice((thing.size.capitalize(), f"The {named} is {thing.size}."))
        return Question(question, gold, "size", thing.size)
    question = rng.choice(("Where is the {}?", "Where in the picture is the {}?", "In which place is the {}?"))
    gold = rng.choice(("It is {1}.", "The {0} is {1}.")).format(named, place_phrase(thing.place))
    return Question(question.format(named), gold, "place", thing.place)


def _what_is_at(rng: Random, scene: Scene, place: str) -> Question:
    thing = next(thing for thing in scene.things if thing.place == place)
    question = rng.choice(("What is {}?", "What do you see {}?", "Which object is {}?")).format(place_phrase(place))
    named = with_article(name(thing.kind))
    gold = rng.choice((f"{named[0].upper()}{named[1:]}.", f"There is {named}."))
    return Question(question, gold, "thing", name(thing.kind))


def compare(rng: Random, scene: Scene) -> Question:
    """Which of two things is larger, or whether one shape is more frequent than another."""
    small = [thing for thing in scene.things if thing.size == "small"]
    large = [thing for thing in scene.things if thing.size == "large"]
    if small and large and rng.random() < 0.6:
        wanted = rng.choice(("larger", "smaller"))
        pair = [rng.choice(small), rng.choice(large)]
        answer = name(pair[wanted == "larger"].kind)
        rng.shuffle(pair)
        question = f"Which is {wanted}, the {name(pair[0].kind)} or the {name(pair[1].kind)}?"
        return Question(question, rng.choice((f"The {answer}.", f"The {answer} is {wanted}.")), "thing", answer)
    first, second = rng.sample(sorted({t.shape for t in scene.things} | set(rng.sample(SHAPES, 2))), 2)
    count = {shape: sum(thing.shape == shape for thing in scene.things) for shape in (first, second)}
    more = "yes" if count[first] > count[second] else "no"
    question = rng.choice(("Are there more {} than {}?", "Do you see more {} than {}?"))
    return Question(question.format(plural(first), plural(second)), more.capitalize(), "yes_no", more)


def follow_up(rng: Random, scene: Scene) -> tuple[Question, Question]:
    """Two turns; the second leans on the first."""
    thing = rng.choice(scene.things)
    named = with_article(name(thing.kind))
    if rng.random() < 0.4:
        return describe_honestly(rng, scene), rng.choice((how_many, where))(rng, scene)
    first = Question(
        rng.choice(_IS_THERE).format(named), rng.choice(("Yes", f"Yes, there is {named}.")), "yes_no", "yes"
    )
    if rng.random() < 0.6:
        return first, Question("Where is it?", f"It is {place_phrase(thing.place)}.", "place", thing.place)
    return first, Question(
        "What size is it?", rng.choice((thing.size.capitalize(), f"It is {thing.size}.")), "size", thing.size
    )


def describe_honestly(rng: Random, scene: Scene) -> Question:
    """A plain description for the first of two turns."""
    return Question(rng.choice(DESCRIBE_PLAIN), description(rng, scene.things, detailed=False), "describe")


def two_pictures(rng: Random, first: Scene, second: Scene) -> Question:
    """A question that needs both pictures."""
    numbers = len(first.things), len(second.things)
    about = rng.choice(("which", "which", "more", "both"))
    if about == "more" and numbers[0] != numbers[1]:
        answer = "first" if numbers[0] > numbers[1] else "second"
        return _ordinal(rng, "Which picture has more objects?", answer)
    if about == "both":
        shape = rng.choice([thing.shape for thing in (*first.things, *second.things)])
        both = all(any(thing.shape == shape for thing in scene.things) for scene in (first, second))
        question = f"Is there {with_article(shape)} in both pictures?"
        return Question(question, "Yes" if both else "No", "yes_no", "yes" if both else "no")
    only = [(kind, "first") for kind in sorted(first.kinds - second.kinds)]
    only += [(kind, "second") for kind in sorted(second.kinds - first.kinds)]
    if not only:
        return Question("How many pictures are there?", "There are two pictures.", "number", "2")
    kind, answer = rng.choice(only)
    return _ordinal(rng, f"Which picture has {with_article(name(kind))}?", answer)


def _ordinal(rng: Random, question: str, answer: str) -> Question:
    return Question(question, rng.choice((f"The {answer}.", f"The {answer} picture.")), "ordinal", answer)


def no_picture(rng: Random) -> Question:
    """A question about a picture that nobody sent."""
    question = rng.choice((*DESCRIBE_PLAIN, *DESCRIBE_DETAILED, "How many objects are there?"))
    gold = rng.choice(("There is no picture to look at.", "I can not see a picture here."))
    return Question(question, gold, "no_picture")
