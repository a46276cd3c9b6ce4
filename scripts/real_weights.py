"""Real weights of any family beside PyTorch: the same tokens, and the same logits.

    python -m scripts.real_weights MODEL.gguf

prints, for a few texts with a special token and other scripts among them, whether transformers cuts
them into the same tokens, and the largest difference of a logit over the logits' standard
deviation. Both are float32, so a model needs eight bytes a weight.
"""

import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from fisher_jax.models import capped, load_model

TEXTS = [
    "To be, or not to be, that is the question.",
    "def f(x):\n    return x ** 2  # \U0001f600 größer, 漢字, עברית",
    "   leading spaces, 1234567890 and <|im_start|>user\n" + "word " * 300,
]


def main() -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = Path(sys.argv[1])
    ours = load_model(str(path))
    theirs = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    ).eval()
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    module = ours.module
    for text in TEXTS:
        ids = np.asarray([ours.tokenizer(text)["input_ids"]])
        same = ids[0].tolist() == tokenizer(text)["input_ids"]
        with torch.no_grad():
            expected = theirs(torch.tensor(ids)).logits.numpy()
        logits = np.asarray(capped(module(jnp.asarray(ids)) @ module.head.T, module.logit_cap))
        worst = np.abs(logits - expected).max() / expected.std()
        print(f"{ids.shape[1]:4} tokens, {'the same' if same else 'OTHERS'}; logits {worst:.1e}")


if __name__ == "__main__":
    main()
