"""Rules that select, all called alike: `registry` has those of the pool alone, `scored` others.

Names, options and rankings stay; a new rule is one function and one line of a table.
"""
