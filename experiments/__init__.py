"""FisherSFT reproduced, and what follows from it: `python -m experiments.NAME` for each command.

synthetic, words and language run; judging compares texts; report draws what results/ holds.
"""
