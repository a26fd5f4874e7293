"""Serving: a page and an endpoint that decide images by a run's policy."""
