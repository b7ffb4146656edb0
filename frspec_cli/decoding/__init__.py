"""Speculative decoding: the cache, the tree, the walk that verifies, and the engine that turns them into text."""
