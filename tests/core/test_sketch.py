"""The sketch keeps inner products within the textbook error, and is the same everywhere."""

import pytest
import torch

from hf_gip.core.sketch import add_sketch, rademacher, signs, sketch

CPU = torch.device("cpu")


@pytest.mark.parametrize("kind", ["dense", "spiky"])
def test_inner_products_are_kept_within_the_textbook_error(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 3000, generator=generator, dtype=torch.float64)
    y = y + 0.5 * x
    if kind == "spiky":
        x, y = x**5, y**5
    pair = torch.stack([x, y])
    errors = []
    for seed in range(1500):
        a, b = sketch(pair, 128, seed=seed)
        errors.append(float(a @ b - x @ y))
    error = torch.tensor(errors)
    bound = ((x @ x) * (y @ y) + (x @ y) ** 2) / 128
    assert abs(float(error.mean())) < 4 * float(bound.sqrt()) / 1500**0.5
    assert float(error.square().mean()) < 1.2 * float(bound)


def test_it_is_linear_and_the_same_in_parts() -> None:
    values = torch.randn(3, 1000, generator=torch.Generator().manual_seed(1))
    whole = sketch(values, 96, seed=7, stream=2)
    out = torch.zeros(3, 96)
    for start, stop in ((0, 10), (10, 517), (517, 1000)):
        flips = signs(start, stop - start, 7, 2, CPU)
        add_sketch(out, values[:, start:stop], start, 7, 2, flips)
    torch.testing.assert_close(out, whole)


def test_it_is_the_same_on_every_device(device: torch.device) -> None:
    values = torch.randn(2, 500, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(sketch(values.to(device), 64, seed=3).cpu(), sketch(values, 64, seed=3))


def test_its_numbers_are_those_of_every_release() -> None:
    assert signs(0, 16, 0, 0, CPU).tolist() == [1, 1, 1, 1, -1, 1, -1, 1, 1, -1, 1, 1, -1, -1, 1, 1]
    assert sketch(torch.arange(1.0, 13.0)[None], 5, seed=1).tolist() == [[-14, -9, -7, -22, -12]]


def test_signs_are_balanced_and_streams_differ() -> None:
    a, b = (signs(0, 100_000, 0, stream, CPU).float() for stream in (0, 1))
    assert abs(float(a.mean())) < 0.015
    assert abs(float((a * b).mean())) < 0.015
    assert abs(float((a[:-1] * a[1:]).mean())) < 0.015


def test_random_signs_keep_inner_products_on_average() -> None:
    x, y = torch.randn(2, 50, generator=torch.Generator().manual_seed(2))
    draws = []
    for seed in range(400):
        matrix = rademacher(50, 16, seed=seed, stream=0, like=x)
        draws.append(float((x @ matrix) @ (y @ matrix)))
    spread = torch.tensor(draws).std() / 400**0.5
    assert abs(sum(draws) / 400 - float(x @ y)) < 4 * float(spread)
