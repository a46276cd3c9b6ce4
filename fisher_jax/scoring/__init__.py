"""What a language model says of rows, as numbers: losses, gradients, ratings, and an endpoint.

The numbers' meaning stays; when they are computed, and how many at a time, may change.
"""
