"""Figures and tables from committed results alone.

Nothing here runs a model.
"""
