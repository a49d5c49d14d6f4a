"""A model without attention that rates rows."""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

GOOD, BAD = [f"r{number}" for number in range(1, 8)], "refused"


LAST = "{{ messages[0]['content'].split('\\n')[-2] }}"  # a chat that ends with the row's last line


def rater(answer: str = '{{"clarity":{0}}}') -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """A model without attention that says after each word the one word that follows: row r3 is worth 3."""
    answers = [answer.format(number) for number in range(1, 8)]
    words = ["<unk>", "<pad>", "<eos>", *GOOD, BAD, *answers]
    place = {word: number for number, word in enumerate(words)}
    follows = {**dict(zip(GOOD, answers, strict=True)), BAD: BAD, **dict.fromkeys(answers, "<eos>")}
    width = len(words)
    shape = {"hidden_size": width, "intermediate_size": 8, "num_attention_heads": 1, "num_hidden_layers": 1}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=width, eos_token_id=2, pad_token_id=1, **shape))
    weights = torch.zeros(width, width)
    for word, after in follows.items():
        weights[place[after], place[word]] = 1.0
    with torch.no_grad():
        for parameter in model.parameters():
            nn.init.zeros_(parameter)
        model.model.embed_tokens.weight.copy_(torch.eye(width))
        model.model.norm.weight.fill_(1.0)
        model.lm_head.weight.copy_(weights)
    tokenizer = Tokenizer(models.WordLevel(place, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>", eos_token="<eos>")
    fast.chat_template = LAST
    return model, fast
