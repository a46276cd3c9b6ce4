"""Models in files: GGUF and Hugging Face's folders read and written, tensors put together by name.

A model is loaded through `fisher_jax.models.load`; how a format is read may change.
"""
