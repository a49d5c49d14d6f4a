"""Packs of a fixed number: TRL's own packing, told which piece of which row lies where."""

import pytest
import torch
from datasets import Dataset
from hf_gip.callbacks import PackedView
from hf_gip.callbacks.packing import GROUP, Packing
from trl.data_utils import pack_dataset

STRATEGIES = ["bfd", "bfd_split", "wrapped"]


def rows_of(lengths: list[int]) -> tuple[Dataset, torch.Tensor]:
    tokens = [[1_000 * row + place for place in range(length)] for row, length in enumerate(lengths)]
    labels = [[-token for token in row] for row in tokens]
    return Dataset.from_dict({"input_ids": tokens, "labels": labels}), torch.tensor(lengths)


def random_lengths(count: int, longest: int, seed: int = 0) -> list[int]:
    return torch.randint(0, longest, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(("count", "packs"), [(40, 3), (2 * GROUP + 300, 900)])
def test_a_view_serves_what_trl_packs_of_the_same_rows(strategy: str, count: int, packs: int) -> None:
    pool, lengths = rows_of(random_lengths(count, 90))
    view = PackedView(pool, lengths, packs, Packing(64, strategy))
    order = torch.randperm(count, generator=torch.Generator().manual_seed(1))
    rows = order[view.fit(order)]
    view.show(rows)
    expected = pack_dataset(pool.select(rows.tolist()), 64, strategy, {"keep_in_memory": True})
    assert len(view) == len(expected) == packs
    assert view.__getitems__(range(packs)) == expected.to_list()
    assert view[packs - 1] == expected[packs - 1]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_head_that_fits_is_the_longest(strategy: str) -> None:
    pool, lengths = rows_of(random_lengths(300, 60, seed=3))
    packing = Packing(64, strategy)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(2))
    head = len(packing.fit(order, lengths, 20))
    one_more = pack_dataset(pool.select(order[: head + 1].tolist()), 64, strategy, {"keep_in_memory": True})
    assert len(one_more) == 21


def test_a_row_that_opens_too_many_packs_is_passed_over() -> None:
    _, lengths = rows_of([4, 10, 3, 4, 2])  # in packs of 4: row 1 alone is three of them
    places = Packing(4, "bfd_split").fit(torch.tensor([0, 1, 2, 3, 4]), lengths, 2)
    assert places.tolist() == [0, 2]


def test_packs_that_stay_open_repeat_the_first() -> None:
    pool, lengths = rows_of([4, 10, 10])
    view = PackedView(pool, lengths, 3, Packing(4, "bfd_split"))
    rows = torch.tensor([0, 1, 2])[view.fit(torch.tensor([0, 1, 2]))]
    view.show(rows)
    assert rows.tolist() == [0]
    assert [item["input_ids"] for item in view.__getitems__(range(3))] == [[0, 1, 2, 3]] * 3


def test_rows_that_fill_too_few_packs_do_not_fit() -> None:
    pool, lengths = rows_of([3, 3, 3])
    view = PackedView(pool, lengths, 4, Packing(4, "bfd"))
    assert view.fit(torch.arange(3)) is None
