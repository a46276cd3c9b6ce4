"""Fine-tuning: a whole model, adapters or the last layer; rows packed, runs kept in checkpoints.

Options and what a seed gives stay; the compiled step and the packing may change.
"""
