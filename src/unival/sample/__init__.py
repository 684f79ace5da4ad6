"""A trained model to try at once: `models/merged/unival` of the edition quick, in float16; see README.md."""

from pathlib import Path

FOLDER = Path(__file__).parent
