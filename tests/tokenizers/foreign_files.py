"""Tokenizer files of other makers, trained here on a few sentences by their own packages."""

import io
import json
from functools import cache
from typing import Any

import sentencepiece
from hypothesis import HealthCheck, settings
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

SENTENCES = [
    "The recurrent state is advanced in place, once per token; nothing else grows.",
    "def forward(tokens, state=None):",
    "    return [x ** 2 for x in tokens]  # 0x1F",
    "Bob: Hello Alice! Alice: Hello Bob, how are you?",
    "Съешь же ещё этих мягких французских булок, да выпей чаю.",
    "天地玄黄,宇宙洪荒。日月盈昃,辰宿列张。",
    "1234567890 3.14159 café naïve",
] * 20
# Bytes that no UTF-8 holds: GPT-NeoX's vocabulary has no ids for them.
NEVER_IN_UTF8 = {0xC0, 0xC1, *range(0xF5, 0x100)}
Json = dict[str, Any]
# A first example trains a file, and the machine may be busy: neither is a fault of what is tested.
untimed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@cache
def neox_json() -> str:
    """As GPT-NeoX's file is built: NFC, bytes, two control tokens first, runs of spaces last."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    never = {chr(byte) for byte in NEVER_IN_UTF8}
    assert never <= set(map(chr, visible))
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<|endoftext|>", "<|padding|>"],
        initial_alphabet=[char for char in alphabet if char not in never],
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.add_tokens([AddedToken(" " * n, normalized=True) for n in range(24, 1, -1)])
    return str(tokenizer.to_str())


@cache
def spaces_bpe_json() -> str:
    """As Llama's file is built: BPE over characters, ▁ for a space, bytes for what is left."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    specials = ["<unk>", "<s>", "</s>"]
    byte_pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=specials + byte_pieces, show_progress=False
    )
    tokenizer.train_from_iterator([word for text in SENTENCES for word in text.split(" ")], trainer)
    content = json.loads(tokenizer.to_str())
    # Byte pieces are special for the trainer alone.
    content["added_tokens"] = [t for t in content["added_tokens"] if t["content"] in specials]
    return json.dumps(content)


@cache
def unigram_json() -> str:
    """As T5's file is built; its control tokens are pieces with a score, like any other."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace("\t", " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=300,
        special_tokens=["<pad>", "</s>", "<unk>"],
        unk_token="<unk>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return str(tokenizer.to_str())


@cache
def sentencepiece_model(model_type: str, normalizer: str, byte_fallback: bool = True) -> bytes:
    """A model of type "unigram" or "bpe"; "identity" keeps white space, "nmt_nfkc" does not."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_writer=model,
        vocab_size=420 if byte_fallback else 180,
        model_type=model_type,
        byte_fallback=byte_fallback,
        character_coverage=1.0,
        normalization_rule_name=normalizer,
        remove_extra_whitespaces=normalizer != "identity",
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return model.getvalue()


def changed(json_text: str, **changes: Any) -> str:
    """A tokenizer.json with other parts; a part of the model by the name `model_...`."""
    content = json.loads(json_text)
    for name, value in changes.items():
        if name.startswith("model_"):
            content["model"][name.removeprefix("model_")] = value
        else:
            content[name] = value
    return json.dumps(content)
