"""Which splits the world has, how large they are, and what is different in each shifted one."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from unival.data.benchmarks.world.clips import ClipRules
from unival.data.benchmarks.world.concepts import ALLOWED_PAIRS, HELD_OUT_PAIRS, Pairs
from unival.data.benchmarks.world.scenes import SceneRules
from unival.data.benchmarks.world.web import Noise

IMAGE_TASKS = ("caption", "vqa", "grounding", "entailment", "matching", "grounded_caption")
VIDEO_TASKS = ("video_caption", "video_qa", "video_matching")
AUDIO_TASKS = ("audio_caption", "audio_qa")
PRETRAINING_TASKS = ("caption", "vqa", "grounding", "video_caption", "video_qa")
ALL_TASKS = (*IMAGE_TASKS, *VIDEO_TASKS, *AUDIO_TASKS)


@dataclass(frozen=True)
class Amount:
    """Media of one split."""

    images: int
    videos: int
    sounds: int = 0


@dataclass(frozen=True)
class Size:
    """Media per split; `shift` is for each `ood-*` split. `pretrain` has no sounds."""

    pretrain: Amount
    train: Amount
    val: Amount
    test: Amount
    shift: Amount

    def __post_init__(self) -> None:
        for name in ("pretrain", "train", "val", "test", "shift"):
            amount: Amount = getattr(self, name)
            sounds = 1 if name == "pretrain" else amount.sounds
            if min(amount.images, amount.videos, sounds) < 1:
                raise ValueError(f"{name}: every amount must be at least 1")
        if self.pretrain.sounds:
            raise ValueError("pretrain.sounds: pretraining hears nothing")


@dataclass(frozen=True)
class WorldOptions:
    """Options of the source `world`."""

    seed: int
    size: str
    """One of `sizes`."""
    sizes: dict[str, Size]
    image_size: int
    """Width and height of an image in pixels."""
    video_size: int
    """Width and height of a frame in pixels, even."""
    video_frames: int
    """Frames of a clip."""
    questions: int
    """Question rows per training medium; one in evaluation splits."""
    regions: int
    """Grounding rows per training image; one in evaluation splits."""
    noise: Noise
    """Of the split `pretrain`."""
    handwriting: list[str] = field(default_factory=list)
    """Collections for ood-handwriting in order of preference; the first that UNIVAL_DATA holds is taken."""

    def __post_init__(self) -> None:
        if self.size not in self.sizes:
            raise ValueError(f"size '{self.size}' is not one of {', '.join(self.sizes)}")
        if self.image_size < 40:
            raise ValueError("image_size: four objects need at least 40 pixels")
        if self.video_size < 36 or self.video_size % 2:
            raise ValueError(
                "video_size: moving objects need at least 36 pixels, and the encoder an even number"
            )
        if self.video_frames < 4:
            raise ValueError("video_frames: two events in a row need at least 4 frames")
        if min(self.questions, self.regions) < 1:
            raise ValueError("questions and regions must be at least 1")


@dataclass(frozen=True)
class SplitRules:
    """How the items of one split are made."""

    name: str
    amount: Amount
    tasks: tuple[str, ...]
    portion: str
    """Digit samples come from this split's portion."""
    stream: str = ""
    """Media are drawn from this split's random stream (its own where empty)."""
    phrasing: str = "usual"
    scenes: SceneRules = field(default_factory=SceneRules)
    clips: tuple[ClipRules, ...] = (ClipRules(),)
    """Item i follows rule i modulo their number."""
    pairs: Pairs = ALLOWED_PAIRS
    """What texts may name that is not there."""
    rows: Mapping[str, int] = field(default_factory=dict)
    """Rows per medium for vqa (video_qa, audio_qa) and grounding; 1 where not given."""
    noise: Noise | None = None
    """Texts, boxes and answers are as on the web; None: clean."""


def plan(options: WorldOptions) -> list[SplitRules]:
    """The splits that are always there."""
    size = options.sizes[options.size]
    rows = {"questions": options.questions, "regions": options.regions}
    every_pair = ALLOWED_PAIRS + HELD_OUT_PAIRS
    return [
        SplitRules(
            "pretrain",
            size.pretrain,
            PRETRAINING_TASKS,
            "train",
            phrasing="web",
            rows=rows,
            noise=options.noise,
        ),
        SplitRules("train", size.train, ALL_TASKS, "train", rows=rows),
        SplitRules("val", size.val, ALL_TASKS, "val"),
        SplitRules("test", size.test, ALL_TASKS, "test"),
        SplitRules(
            "ood-composition",
            size.shift,
            IMAGE_TASKS + VIDEO_TASKS,
            "test",
            scenes=SceneRules(held_out=True),
            clips=(ClipRules(held_out=True),),
            pairs=every_pair,
        ),
        SplitRules(
            "ood-crowding", size.shift, IMAGE_TASKS, "test", scenes=SceneRules(counts=(5, 6), cloth=0.3)
        ),
        SplitRules(
            "ood-phrasing",
            _smaller(size.shift, size.test),
            ("vqa", "grounding", "entailment", "video_qa", "audio_qa"),
            "test",
            stream="test",
            phrasing="unseen",
        ),
        SplitRules(
            "ood-speed", size.shift, VIDEO_TASKS, "test", clips=(ClipRules(speed=2.0), ClipRules(speed=0.6))
        ),
    ]


def handwriting_split(options: WorldOptions) -> SplitRules:
    """Scenes with digits, which come from another collection."""
    tasks = ("caption", "vqa", "grounding", "matching", "grounded_caption", "video_caption", "video_qa")
    return SplitRules(
        "ood-handwriting",
        options.sizes[options.size].shift,
        tasks,
        "",
        scenes=SceneRules(need_digit=True),
        clips=(ClipRules(need_digit=True),),
    )


def _smaller(a: Amount, b: Amount) -> Amount:
    return Amount(min(a.images, b.images), min(a.videos, b.videos), min(a.sounds, b.sounds))
