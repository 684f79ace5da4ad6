import json

import pytest

from unival.metrics.world_checker import check_caption


def thing(color: str, kind: str, size: str, left: int, top: int) -> dict:
    return {"color": color, "kind": kind, "size": size, "box": [left, top, left + 10, top + 10]}


SCENE = {
    "medium": "image",
    "things": [
        thing("red", "circle", "small", 2, 2),
        thing("blue", "star", "large", 20, 2),
        thing("blue", "star", "small", 20, 30),
        thing("green", "three", "", 35, 20),
    ],
    "cloth": [1, 30, 12, 44],
}
LIST = "a red circle, two blue stars, a green digit three and a gray cloth"


@pytest.mark.parametrize(
    "text, right",
    [
        (LIST, True),
        ("A RED circle two blue stars a green digit three and a gray cloth.", True),
        ("there is a gray cloth, a green digit three, two blue stars and a small red circle", True),
        ("four objects: " + LIST, True),
        ("a red circle to the left of a green digit three, and two blue stars and a gray cloth", True),
        ("a red circle above a green digit three, and two blue stars and a gray cloth", True),
        ("five objects: " + LIST, False),
        (LIST.replace("two blue stars", "a blue star"), False),
        (LIST.replace("two blue stars", "three blue stars"), False),
        (LIST.replace("two blue stars", "two large blue stars"), False),
        (LIST.replace("stars", "star"), False),
        (LIST.replace("red", "orange"), False),
        (LIST.replace("three", "eight"), False),
        (LIST.replace(" and a gray cloth", ""), False),
        (LIST.replace("a red circle", "a large red circle"), False),
        (LIST + " and a yellow heart", False),
        (LIST + " on a table", False),
        ("a red circle right of a green digit three, and two blue stars and a gray cloth", False),
        ("a red circle left of", False),
        ("", False),
        ("two", False),
    ],
)
def test_images(text: str, right: bool) -> None:
    assert check_caption(text, SCENE) is right
    assert check_caption(text, json.dumps(SCENE)) is right


def actor(color: str, kind: str, action: str, order: int) -> dict:
    return {"color": color, "kind": kind, "action": action, "order": order}


ORDERED = {
    "medium": "video",
    "actors": [actor("red", "circle", "up", 0), actor("blue", "two", "vanish", 1)],
    "ordered": True,
}
TOGETHER = {
    "medium": "video",
    "actors": [actor("red", "circle", "left", 0), actor("blue", "star", "still", 0)],
    "ordered": False,
}
ALONE = {"medium": "video", "actors": [actor("red", "circle", "grow", 0)], "ordered": False}


@pytest.mark.parametrize(
    "text, facts, right",
    [
        ("a red circle rises then a blue digit two vanishes", ORDERED, True),
        ("first a red circle moves up then a blue digit two vanishes", ORDERED, True),
        ("a red circle rises before a blue digit two vanishes", ORDERED, True),
        ("a blue digit two vanishes after a red circle rises", ORDERED, True),
        ("after a red circle rises a blue digit two vanishes", ORDERED, True),
        ("before a blue digit two vanishes a red circle rises", ORDERED, True),
        ("a blue digit two vanishes before a red circle rises", ORDERED, False),
        ("after a blue digit two vanishes a red circle rises", ORDERED, False),
        ("a red circle rises and a blue digit two vanishes", ORDERED, False),
        ("a red circle falls then a blue digit two vanishes", ORDERED, False),
        ("a red circle rises", ORDERED, False),
        ("a red circle moves left while a blue star stays still", TOGETHER, True),
        ("a blue star staying still and a red circle going left", TOGETHER, True),
        ("a red circle moves left then a blue star stays still", TOGETHER, False),
        ("a red circle moves left", TOGETHER, False),
        ("a clip of a red circle growing", ALONE, True),
        ("a red circle is shrinking", ALONE, False),
        ("a red circle", ALONE, False),
        ("a red circle growing growing", ALONE, False),
    ],
)
def test_videos(text: str, facts: dict, right: bool) -> None:
    assert check_caption(text, facts) is right


def event(kind: str, pitch: str = "", direction: str = "", count: int = 0, digits: tuple = ()) -> dict:
    return {"kind": kind, "pitch": pitch, "direction": direction, "count": count, "digits": list(digits)}


BEEPS = {"medium": "audio", "events": [event("beeps", "high", count=3), event("sweep", direction="rising")]}
DIAL = {"medium": "audio", "events": [event("dial", digits=("one", "nine"))]}


@pytest.mark.parametrize(
    "text, facts, right",
    [
        ("three high beeps followed by a rising sweep", BEEPS, True),
        ("first three beeps that are high then a rising tone", BEEPS, True),
        ("a rising sweep after three high beeps", BEEPS, True),
        ("a rising sweep before three high beeps", BEEPS, False),
        ("two high beeps then a rising sweep", BEEPS, False),
        ("three low beeps then a rising sweep", BEEPS, False),
        ("three high beeps then a falling sweep", BEEPS, False),
        ("three high beeps", BEEPS, False),
        ("three high beeps then noise", BEEPS, False),
        ("a phone dialing digits one nine", DIAL, True),
        ("we hear the digits one nine being dialed", DIAL, True),
        ("a phone dialing digits nine one", DIAL, False),
        ("a phone dialing digit one", DIAL, False),
        ("a dog barks", DIAL, False),
    ],
)
def test_sounds(text: str, facts: dict, right: bool) -> None:
    assert check_caption(text, facts) is right
