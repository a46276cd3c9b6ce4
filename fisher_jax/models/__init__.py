"""Language models: forward passes of the two families, loading by name, embedding, generation.

Results for a seed stay as they are; how the work is cut into batches and compiled may change.
"""
