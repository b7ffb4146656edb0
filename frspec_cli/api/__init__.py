"""What the commands do, for Python: one function for each, with the same defaults and the same files.

The functions are named as the commands are; `replay` is `replay_answers`, for `frspec_cli.replay` is a package. Each returns
what it made. An output that is complete already, made from the same inputs, is read and not made again; any other that is in
the way is refused unless `force` is set. Known failures are `FrspecError`s. Nothing heavy is imported before a function
needs it.
"""
