"""Text to token ids: load and fingerprint a tokenizer; the reference encoder and the fast one."""
