"""The benchmark `photos`, a small selection of published photos, clips, sounds."""
