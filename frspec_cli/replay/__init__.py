"""Acceptance by the draft alone, over recorded answers."""
