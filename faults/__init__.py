"""The fault suite: kills, storage, properties, mutations, hostile inputs, load.

`python -m faults` prints one table of what was tried and what failed. A campaign is a module with a
generator of cases; whatever a case finds is a fault of the program, never of its user.
"""
