"""Measure: prompts, methods, and what a result says."""
