"""Training a draft head: the target's answers, its features, the unrolled loss, the loop, and validation by replay."""
