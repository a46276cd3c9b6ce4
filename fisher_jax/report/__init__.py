"""What a selection looks like: ranking, manifest, figures and a page, in one folder.

Names of the files and the ranking's columns stay; the page and its figures may change.
"""
