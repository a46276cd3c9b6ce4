"""A planted softmax model on synthetic features and on word embeddings: select, fit, measure.

`study` is shared; a feature generator is one function in `generators`.
"""
