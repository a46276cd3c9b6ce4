"""A small GPT-2 trained from nothing on a corpus, to select for a larger model of other words.

`python -m experiments.language.proxy outputs/proxy` trains it on Sherlock Holmes in about
seven minutes on 2 cores and writes a Hugging Face folder; `python -m experiments.language
experiment=proxy` selects Shakespeare with it and fine-tunes SmolLM2.
"""

import argparse
import hashlib
import sys
from pathlib import Path

import numpy as np
from flax import nnx
from tqdm import tqdm

from experiments.corpora.corpora import read_corpus
from experiments.run.harness import reporting
from fisher_jax.command.compiled import keep_compiled
from fisher_jax.models import LanguageModel, tokenize
from fisher_jax.models.families.gpt2 import GPT2, GPT2Config
from fisher_jax.models.files.export import save_folder
from fisher_jax.training.finetune import TrainOptions, finetune
from fisher_jax.util.errors import UserError

VOCAB = 4096
CONFIG = GPT2Config(
    vocab=VOCAB, dim=256, n_layers=4, n_heads=4, mlp_dim=1024, context=256, tied=True
)
OPTIONS = TrainOptions(
    "full", learning_rate=1e-3, epochs=8, sequences=16, sequence_length=256, weight_decay=0.1
)


def main() -> None:
    """The command."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("folder", type=Path, help="a new folder for the model")
    p.add_argument(
        "--corpus", default="sherlock", help="a name or a pool's path (default: %(default)s)"
    )
    p.add_argument("--path", help="the corpus' file")
    args = p.parse_args()
    with reporting("experiments.language.proxy"):
        if args.folder.exists():
            raise UserError(f"{args.folder} exists: name a new folder")
        texts = [passage.row.text() for passage in read_corpus(args.corpus, args.path)]
        save_folder(trained(args.corpus, texts, CONFIG, OPTIONS), args.folder)
    print(args.folder, file=sys.stderr)


def trained(
    corpus: str, texts: list[str], config: GPT2Config, options: TrainOptions
) -> LanguageModel:
    """A GPT-2 of random weights and its tokenizer (byte-level BPE), both fitted to the texts."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    end = "<|endoftext|>"
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(
        texts, vocab_size=config.vocab, special_tokens=[end], show_progress=False
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, bos_token=end, eos_token=end)
    config = config._replace(vocab=bpe.get_vocab_size())
    module = GPT2(config, rngs=nnx.Rngs(options.seed))
    hashes = [
        hashlib.sha256(made_from.encode()).hexdigest()
        for made_from in (repr((config, options.seed)), bpe.to_str())
    ]
    model = LanguageModel(f"gpt2-{corpus}", module, fast, *hashes)
    rows = tokenize(model, texts, config.context)
    rows = rows.take(np.flatnonzero(rows.counted))
    with tqdm(desc=f"GPT-2 on {corpus}", unit="step") as bar:

        def show(done: int, total: int, loss: float) -> None:
            bar.total = total
            bar.set_postfix(loss=f"{loss:.2f}")
            bar.update()

        return finetune(model, rows, options, on_step=show).model


if __name__ == "__main__":
    keep_compiled()
    main()
