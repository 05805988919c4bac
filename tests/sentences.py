"""A small real embedding model. Apart from the other fakes, since its library takes seconds to import."""

from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from transformers import BertConfig, BertModel, BertTokenizerFast


def tiny_embedding(folder: Path, words: str) -> Path:
    """Save a random BERT of width 16 that knows these words as a sentence-transformers folder."""
    plain, made = folder / "bert", folder / "sentences"
    plain.mkdir(parents=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(words.split())]
    BertTokenizerFast(vocab={word: number for number, word in enumerate(vocabulary)}).save_pretrained(plain)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(config).save_pretrained(plain)
    SentenceTransformer(str(plain)).save_pretrained(str(made))
    return made
