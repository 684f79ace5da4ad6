"""What is said about digits in pictures, clips and speech: captions, questions, statements, with their truth.

Every function draws from a `random.Random`, so a row is a function of its seed.
"""

from collections.abc import Sequence
from random import Random

from unival.data.benchmarks.digits.scenes import MOTIONS, Digit, DigitScene
from unival.data.benchmarks.world.concepts import joined, pick
from unival.record import NUMBERS

MOVES = {
    "left": "moves to the left",
    "right": "moves to the right",
    "up": "moves up",
    "down": "moves down",
    "grow": "grows",
    "shrink": "shrinks",
}
"""The words of the moving-digits data set."""
Question = tuple[str, str, str]
"""Form, question, answer."""


def other(rng: Random, words: Sequence[str]) -> str:
    """A digit that is not among `words`."""
    return pick(rng, [word for word in NUMBERS if word not in words])


def article(word: str) -> str:
    """`a three`, `an eight`."""
    return f"an {word}" if word == "eight" else f"a {word}"


def image_captions(words: Sequence[str]) -> tuple[str, ...]:
    """Five references; digits are named from left to right."""
    if len(words) == 1:
        word = words[0]
        handwritten = f"a handwritten {word}"
        return (
            handwritten,
            f"the digit {word}",
            f"there is {article(word)}",
            f"a picture of the number {word}",
            f"{article(word)} written by hand",
        )
    with_article, plain = joined([article(word) for word in words]), joined(words)
    return (
        with_article,
        f"the digits {plain}",
        f"there is {with_article}",
        f"a picture of the numbers {plain}",
        f"from left to right {plain}",
    )


def image_questions(rng: Random, scene: DigitScene) -> list[Question]:
    """One question of each form that the picture allows, in random order."""
    words = scene.words
    asked = pick(rng, words) if rng.random() < 0.5 else other(rng, words)
    questions: list[Question] = [
        ("count", "how many digits are there?", NUMBERS[len(words)]),
        ("exist", f"is there {article(asked)}?", "yes" if asked in words else "no"),
    ]
    if len(words) == 1:
        questions += [
            ("which", "which digit is it?", words[0]),
            ("parity", "is the digit even or odd?", ("even", "odd")[NUMBERS.index(words[0]) % 2]),
        ]
    else:
        questions += [
            ("left", "which digit is on the left?", words[0]),
            ("right", "which digit is on the right?", words[-1]),
        ]
    rng.shuffle(questions)
    return questions


def phrase(rng: Random, scene: DigitScene) -> tuple[Digit, tuple[str, ...]] | None:
    """A digit that can be pointed out, and the phrases that do; None where every digit occurs twice."""
    unique = scene.unique()
    if not unique:
        return None
    thing = unique[int(rng.random() * len(unique))]
    phrases = [f"the {thing.word}", f"the digit {thing.word}"]
    if len(scene.things) > 1 and thing in (scene.things[0], scene.things[-1]):
        phrases.append(f"the digit on the {'left' if thing is scene.things[0] else 'right'}")
    rng.shuffle(phrases)
    return thing, tuple(phrases)


def statement(rng: Random, scene: DigitScene) -> Question:
    """A statement of the picture and its label.

    A patch may hide one more digit, so what depends on it is `maybe`; the same statement is yes, no or maybe
    of different pictures, so that the text alone does not give the label away.
    """
    words, number = scene.words, len(scene.words)
    if scene.patch:
        label = "maybe" if rng.random() < 0.8 else pick(rng, ("yes", "no"))
    else:
        label = pick(rng, ("yes", "no"))
    if rng.random() < 0.5 and not (scene.patch and label == "no"):
        word = pick(rng, words) if label == "yes" else other(rng, words)
        text = pick(rng, ("there is {}", "one of the digits is {}", "the picture shows {}"))
        return "presence", text.format(article(word)), label
    at_least = {"yes": rng.randint(1, number), "maybe": number + 1, "no": number + 1 + scene.patch}[label]
    noun = "digit" if at_least == 1 else "digits"
    return "number", f"there {'is' if at_least == 1 else 'are'} at least {NUMBERS[at_least]} {noun}", label


def wrong_words(rng: Random, words: Sequence[str]) -> tuple[str, ...]:
    """The digits with one of them exchanged for one that is not there."""
    position = rng.randrange(len(words))
    return tuple(other(rng, words) if index == position else word for index, word in enumerate(words))


def video_captions(word: str, motion: str) -> tuple[str, ...]:
    """Five references; the first two are the data set's own."""
    move = MOVES[motion]
    return (
        f"the digit {word} {move}",
        f"a handwritten {word} {move}",
        f"{article(word)} {move}",
        f"the number {word} {move}",
        f"a video of {article(word)} that {move}",
    )


def video_questions(rng: Random, word: str, motion: str) -> list[Question]:
    """The data set's two questions and two more."""
    asked = word if rng.random() < 0.5 else other(rng, (word,))
    moved = motion if rng.random() < 0.5 else pick(rng, [name for name in MOTIONS if name != motion])
    verb = MOVES[moved].replace("moves", "move").replace("grows", "grow").replace("shrinks", "shrink")
    questions: list[Question] = [
        ("which", "which digit is shown?", word),
        ("motion", "what does the digit do?", MOVES[motion]),
        ("exist", f"is it {article(asked)}?", "yes" if asked == word else "no"),
        ("does", f"does the digit {verb}?", "yes" if moved == motion else "no"),
    ]
    rng.shuffle(questions)
    return questions


def audio_questions(rng: Random, word: str) -> list[Question]:
    """Questions of one spoken digit."""
    asked = word if rng.random() < 0.5 else other(rng, (word,))
    questions: list[Question] = [
        ("which", "which digit is said?", word),
        ("exist", f"does the person say {asked}?", "yes" if asked == word else "no"),
        ("parity", "is the digit even or odd?", ("even", "odd")[NUMBERS.index(word) % 2]),
    ]
    rng.shuffle(questions)
    return questions
