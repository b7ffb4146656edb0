"""The command line: one file a command. It parses, calls the library and shows the result."""
