"""Measurements: what is started, what asks, and what is counted. ``nomos bench`` puts them together."""
