"""Find and load a target: a folder, a .gguf file, a short name, or an id on the model hub."""
