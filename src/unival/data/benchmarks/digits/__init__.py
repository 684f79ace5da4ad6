"""The benchmark `digits`, composed of published sets of written or spoken digits."""
