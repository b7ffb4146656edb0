"""The EAGLE draft head: its config, the module, and the checkpoints of every generation."""
