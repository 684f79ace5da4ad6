"""A trained model to try at once: `models/merged/unival` of a study; its README.md says of which."""

from pathlib import Path

FOLDER = Path(__file__).parent
