"""Which of two generated texts is better: pairs, models that judge them, a sheet for people.

It serves the experiments alone and may move to them; answers that were kept stay readable.
"""
