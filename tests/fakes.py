"""Small real things that stand in for large ones: a tiny Llama with its own tokenizer, rows, a catalogue."""

import random
from pathlib import Path
from typing import Any

import torch
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.trainers import BpeTrainer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WORDS = "where is my order card refund please cancel the parcel has not come broken system user name category"


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of 320 entries with a ChatML template; trained on a fixed sentence, so always the same."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=320,
        special_tokens=["<|pad|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([WORDS] * 4, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|pad|>")
    fast.chat_template = TEMPLATE
    return fast


def tiny_llama(folder: Path, *, layers: int = 6, width: int = 32) -> Path:
    """Save a random Llama-like model with its tokenizer as a Hugging Face folder."""
    tokenizer = tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def taught_llama(folder: Path, source: Path, rows: list[list[dict[str, str]]], steps: int = 60) -> Path:
    """Save a copy of a tiny model that has seen conversations, all of its weights trained on all of their tokens."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(source)
    texts = [tokenizer.apply_chat_template(row, tokenize=False) for row in rows]
    inputs = tokenizer(texts, return_tensors="pt", padding=True)
    labels = inputs.input_ids.masked_fill(inputs.attention_mask == 0, -100)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM.from_pretrained(source).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
        for _ in range(steps):
            model(input_ids=inputs.input_ids, attention_mask=inputs.attention_mask, labels=labels).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def schooled_llama(
    folder: Path, source: Path, rows: list[list[dict[str, str]]], steps: int = 500, batch: int = 32
) -> Path:
    """Save a copy of a tiny model that has learnt the last answer of each conversation, all of its weights trained."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(source)
    asked = [len(tokenizer.apply_chat_template(row[:-1], add_generation_prompt=True).input_ids) for row in rows]
    texts = [tokenizer.apply_chat_template(row, tokenize=False) for row in rows]
    chance = random.Random(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM.from_pretrained(source).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, steps)
        for _ in range(steps):
            some = chance.sample(range(len(rows)), batch)
            inputs = tokenizer([texts[row] for row in some], return_tensors="pt", padding=True)
            labels = inputs.input_ids.masked_fill(inputs.attention_mask == 0, -100)
            for place, row in enumerate(some):
                labels[place, : asked[row]] = -100
            model(input_ids=inputs.input_ids, attention_mask=inputs.attention_mask, labels=labels).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_catalogue(file: Path, model: Path, embedding: Path | None = None, *further: dict[str, Any]) -> Path:
    """A catalogue file whose entries are local folders: `tiny`, `tiny-sentences` where there is one, and further ones.

    What `tiny` says of itself is filled in where a further one does not.
    """
    entry = {
        "id": "tiny",
        "name": "Tiny random Llama",
        "licence": "Apache-2.0",
        "kind": "text",
        "sources": [{"type": "path", "path": str(model)}],
        "convert": "hf_text",
        "context": 512,
        "parameters": 60_000,
        "summary": "For tests.",
    }
    sentences = {**entry, "id": "tiny-sentences", "kind": "embedding", "convert": "hf_embedding", "context": 32}
    sentences["sources"] = [{"type": "path", "path": str(embedding)}]
    listed = [entry, *([sentences] if embedding else []), *(entry | other for other in further)]
    file.write_text(yaml.safe_dump({"models": listed}), encoding="utf-8")
    return file


INTENTS = {
    "parcel": ["where is my parcel", "my parcel has not come", "track the parcel please", "parcel is late again"],
    "refund": ["i want my money back", "refund my order", "please give a refund", "money was not returned"],
    "broken": ["it arrived broken", "the screen is cracked", "item is damaged", "it does not work at all"],
}


def support_csv(file: Path, rows_per_intent: int = 40) -> Path:
    """A CSV `message,intent` of three easy intents, every row worded differently."""
    lines = ["message,intent"]
    for number in range(rows_per_intent):
        for intent, texts in INTENTS.items():
            text = texts[number % len(texts)]
            lines.append(f"{text} since {number} days because of reason {number * 7 + len(intent)},{intent}")
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file
