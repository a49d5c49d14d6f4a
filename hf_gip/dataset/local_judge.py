"""A judge on this machine: a causal language model that answers prompts, greedily."""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from hf_gip.hashing import hash_lines

if TYPE_CHECKING:
    from torch import Tensor, nn

ANSWER_TOKENS = 200  # of an answer at most, and at most half the model's context


class LocalModel:
    """A text-generation model for `hf_gip.rate`, loaded when it is first asked.

    Answers are the most likely tokens, so that the same row gets the same rating. A prompt longer than the model's
    context is cut at its end.
    """

    def __init__(
        self, model: "str | nn.Module", *, tokenizer: Any = None, batch_size: int = 8, device: str | None = None
    ) -> None:
        """Name the model; its weights are not loaded yet.

        Args:
            model: A causal language model: a Hub id (with a revision after an `@` if wanted), a local folder, or a
                live one, which is left as it was.
            tokenizer: Instead of the one stored with the model; a live model needs one.
            batch_size: Prompts per forward pass.
            device: Torch device; a GPU where there is one unless told. A live model stays where it is.

        Raises:
            TypeError: If `model` is none of these.
            ValueError: If no such model exists, the batch size is below 1, or a live model comes without a tokenizer.
        """
        from torch import nn

        from hf_gip.core.validation import check_device, check_int
        from hf_gip.features.proxy import name_model

        check_int("batch_size", batch_size)
        if tokenizer is None and isinstance(model, nn.Module):
            raise ValueError("`tokenizer` must be given with a live model, got None.")
        self.batch_size = batch_size
        self._live = model if isinstance(model, nn.Module) else None
        self._tokenizer = tokenizer
        self._named = name_model(model, tokenizer, device=check_device(device))

    def __repr__(self) -> str:
        """What answers depend on, by content, for ratings are kept by it: a live model may have learned meanwhile."""
        from hf_gip.features.proxy import name_model

        identity = dict(self._named.identity)
        if self._live is not None:
            configs = (getattr(self._live, name, None) for name in ("config", "generation_config"))
            identity |= name_model(self._live, self._tokenizer).identity
            identity["configs"] = hash_lines(each.to_json_string() for each in configs if each is not None)
        if self._tokenizer is not None:
            identity["chat_template"] = hash_lines([getattr(self._tokenizer, "chat_template", None)])
        return f"LocalModel({identity})"

    def __call__(self, prompts: list[str]) -> list[str]:
        """One answer per prompt; prompts of like length are answered together."""
        import torch

        model, tokenizer = self._opened
        inputs = [self._tokens(prompt) for prompt in prompts]
        order = sorted(range(len(prompts)), key=lambda number: len(inputs[number]))
        answers = [""] * len(prompts)
        training = model.training
        model.eval()
        try:
            with torch.inference_mode():
                for start in range(0, len(order), self.batch_size):
                    batch = order[start : start + self.batch_size]
                    for number, answer in zip(batch, self._generate([inputs[each] for each in batch]), strict=True):
                        answers[number] = tokenizer.decode(answer, skip_special_tokens=True)
        finally:
            model.train(training)
        return answers

    @cached_property
    def _opened(self) -> tuple[Any, Any]:
        model, tokenizer = self._named.load()
        if tokenizer is None:
            raise ValueError("`model` must come with a tokenizer, got none beside it: give `tokenizer`.")
        return model, tokenizer

    @cached_property
    def _context(self) -> int:
        from hf_gip.features.gradients import context_length

        return context_length(self._opened[0])

    @property
    def _longest(self) -> int:
        """Tokens of an answer at most."""
        return min(ANSWER_TOKENS, self._context // 2)

    def _tokens(self, prompt: str) -> list[int]:
        """The prompt as the model is to see it, in its chat template where it has one."""
        tokenizer, room = self._opened[1], self._context - self._longest
        whole = self._templated(prompt)
        if len(whole) <= room:
            return whole
        own = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        kept = max(0, len(own) - (len(whole) - room))
        return self._templated(tokenizer.decode(own[:kept]))[:room]

    def _templated(self, prompt: str) -> list[int]:
        tokenizer = self._opened[1]
        if getattr(tokenizer, "chat_template", None) is None:
            return tokenizer(prompt)["input_ids"]
        chat = [{"role": "user", "content": prompt}]
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    def _generate(self, inputs: Sequence[list[int]]) -> "Tensor":
        """New tokens of each prompt; shorter prompts are padded on the left and the padding masked."""
        import torch

        model, tokenizer = self._opened
        pad = next((token for token in (tokenizer.pad_token_id, tokenizer.eos_token_id) if token is not None), 0)
        width = max(len(tokens) for tokens in inputs)
        ids = torch.tensor([[pad] * (width - len(tokens)) + tokens for tokens in inputs])
        mask = torch.tensor([[0] * (width - len(tokens)) + [1] * len(tokens) for tokens in inputs])
        device = next(model.parameters()).device
        found = model.generate(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            max_new_tokens=self._longest,
            do_sample=False,
            pad_token_id=pad,
        )
        return found[:, width:].cpu()
