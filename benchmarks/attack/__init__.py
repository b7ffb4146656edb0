"""Attacks on frspec through its command line: each kind is a list of trials, and `__main__` runs and counts them.

Nothing here shares code with what it attacks, apart from the command's `main` and the class of its known errors; what it
attacks is made by the command too. So the same attacks can be run on an earlier frspec.
"""
