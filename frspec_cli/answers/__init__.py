"""Prompts, conversations and the target's answers: read, written, and made by batched decoding."""
