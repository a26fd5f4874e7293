"""Watching: whether new images are as those of the run were, and what to label next."""
