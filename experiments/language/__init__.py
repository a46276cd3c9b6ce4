"""Fine-tuning a language model on what each rule chooses, and what was learnt.

A way of choosing rows is one entry in `variants`.
"""
