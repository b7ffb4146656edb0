"""Is the output the target's own?"""
