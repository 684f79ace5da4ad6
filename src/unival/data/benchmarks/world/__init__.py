"""The embedded benchmark `world`, generated offline from a seed.

Every item is a pure function of (seed, split, modality, index), so any part can be generated alone and again.
Reading order: `concepts` (the words), `digits` (real handwriting), `drawing`, `scenes`, `clips`, `sounds`
(what is to be seen and heard), `questions`, `image_*`, `video_text`, `audio_text` (what is said about it),
`splits` and `source` (which splits, and their items). What is in it and why: docs/world.md.
"""
