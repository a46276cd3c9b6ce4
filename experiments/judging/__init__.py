"""Texts of fine-tuned models, compared pairwise by judges and by people.

A judge is one class in `judges`.
"""
