"""The rows' texts as vectors: what they say, whatever the model makes of them."""

from dataclasses import dataclass, field
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import Trainer

from hf_gip.hashing import hash_rows

from .features import random_states


@dataclass
class TextVectors:
    """Unit vectors of prepared rows, through the cache of `hf_gip.embed`, computed when first asked for.

    The texts are decoded from `input_ids`, so the pool and the target are read alike, templates included.
    """

    encoder: Any
    _known: dict[str, Tensor] = field(default_factory=dict)

    def of(self, trainer: Trainer, rows: Dataset) -> Tensor:
        """One vector a row, (n, d); no random state is consumed."""
        key = hash_rows(rows, ["input_ids"])
        if key not in self._known:
            restore = random_states()
            try:
                self._known[key] = self._embed(trainer, rows)
            finally:
                restore()
        return self._known[key]

    def _embed(self, trainer: Trainer, rows: Dataset) -> Tensor:
        from hf_gip.features.embed import embed

        tokenizer: Any = trainer.processing_class
        tokens = rows.select_columns("input_ids").with_format(None)["input_ids"]
        texts = Dataset.from_dict({"text": tokenizer.batch_decode(list(tokens), skip_special_tokens=True)})
        return embed(texts, self.encoder, columns=["text"]).matrix.to(torch.float32)
