"""Token ids to counts: count a shard, merge, resume, and say how stable the ranking is."""
