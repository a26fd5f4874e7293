"""Representation: the geometry of penultimate features, and what they tell of the input."""
