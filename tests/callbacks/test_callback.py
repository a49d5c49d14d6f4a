"""Re-selection inside real trainers: the truth is what reaches `training_step`."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset
from hf_gip.callbacks import GIPSelectionCallback
from hf_gip.callbacks.features import compute_features
from hf_gip.callbacks.pool import token_counts
from tiny_trainers import (
    NotingTrainer,
    largest_difference,
    make_trainer,
    tiny_llama,
    weights,
    word_rows,
    word_tokenizer,
)

from hf_gip import Selection

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),  # peft asks for it
]
ROWS = 40


def run(
    folder: Path,
    rows: Dataset,
    *,
    resume: Path | None = None,
    k: int = 8,
    callback: dict[str, Any] | None = None,
    **options: Any,
) -> NotingTrainer:
    """Train once with the callback; `options` are the trainer's."""
    trainer = make_trainer(folder, rows, **options)
    pool = {"pool": rows} if options.get("packing") else {}
    trainer.add_callback(GIPSelectionCallback(trainer, k, **{**pool, **(callback or {})}))
    trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    return trainer


def recorded(trainer: NotingTrainer, epoch: int) -> dict[str, list[Any]]:
    return pq.read_table(Path(trainer.args.output_dir) / "gip" / f"selection_epoch_{epoch:05d}.parquet").to_pydict()


def assert_trained_on_the_selection(trainer: NotingTrainer, epochs: int = 3) -> None:
    selections = [sorted(recorded(trainer, epoch)["index"]) for epoch in range(epochs)]
    assert [sorted(set(trainer.rows_seen(epoch))) for epoch in range(epochs)] == selections
    assert len({tuple(selection) for selection in selections}) == epochs, "the selection never moved"
    assert trainer.state.global_step == trainer.state.max_steps
    assert trainer.lr_scheduler.get_last_lr()[0] == 0.0


WORKERS = {
    "no workers": {},
    "workers": {"dataloader_num_workers": 2},
    "persistent workers": {"dataloader_num_workers": 2, "dataloader_persistent_workers": True},
}
PACKINGS = {
    "rows": {"k": 8},
    "bfd": {"k": 4, "packing": True, "max_length": 20},
    "bfd_split": {"k": 4, "packing": True, "max_length": 9, "packing_strategy": "bfd_split"},
    "wrapped": {"k": 4, "packing": True, "max_length": 20, "packing_strategy": "wrapped"},
}
MATRIX = [(packing, workers, lora) for packing in PACKINGS for workers in WORKERS for lora in (False, True)]
DIAGONAL = {
    ("rows", "persistent workers", False),
    ("rows", "no workers", True),
    ("bfd", "persistent workers", True),
    ("bfd_split", "no workers", False),
    ("wrapped", "workers", False),
}


@pytest.mark.parametrize(
    ("packing", "workers", "lora"),
    [pytest.param(*case, marks=() if case in DIAGONAL else pytest.mark.heavy) for case in MATRIX],
)
def test_an_epoch_trains_on_its_selection(
    packing: str, workers: str, lora: bool, rows: Dataset, tmp_path: Path
) -> None:
    options: dict[str, Any] = {**PACKINGS[packing], **WORKERS[workers]}
    trainer = run(tmp_path, rows, lora=lora, gradient_accumulation_steps=2, **options)
    assert_trained_on_the_selection(trainer)


@pytest.mark.parametrize("packing", ["rows", "bfd"])
@pytest.mark.parametrize("step", [3, 4])
def test_a_resumed_run_ends_on_the_same_weights(packing: str, step: int, rows: Dataset, tmp_path: Path) -> None:
    options: dict[str, Any] = {**PACKINGS[packing], "save_strategy": "steps", "save_steps": 1}
    if packing == "bfd":  # two steps an epoch: 3 is inside, 4 at the end
        options |= {"num_train_epochs": 4}
    whole = run(tmp_path, rows, **options)
    again = run(tmp_path, rows, resume=tmp_path / f"checkpoint-{step}", **options)
    steps_an_epoch = whole.state.max_steps // int(whole.args.num_train_epochs)
    first = step // steps_an_epoch
    skipped = (step % steps_an_epoch) * 2
    lines = len(again.noted[first])
    if packing == "rows":
        assert again.noted[first] == whole.noted[first][skipped : skipped + lines]
    for epoch in range(first + 1, int(whole.args.num_train_epochs)):
        assert again.noted[epoch] == whole.noted[epoch]
    assert largest_difference(weights(whole.model), weights(again.model)) == 0.0


def test_a_run_without_reuse_resumes_with_the_rows_it_has_used(rows: Dataset, tmp_path: Path) -> None:
    options: dict[str, Any] = {"k": 12, "callback": {"allow_repeats": False}, "save_strategy": "epoch"}
    whole = run(tmp_path, rows, **options)
    again = run(tmp_path, rows, resume=tmp_path / "checkpoint-12", **options)
    assert again.noted[2] == whole.noted[2]
    assert largest_difference(weights(whole.model), weights(again.model)) == 0.0


def test_a_selection_that_lasts_several_epochs_survives_a_resume(rows: Dataset, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "callback": {"every_n_epochs": 2, "start_epoch": 1}, "num_train_epochs": 4, "save_strategy": "epoch"
    }  # fmt: skip
    whole = run(tmp_path, rows, **options)
    assert whole.rows_seen(1) == whole.rows_seen(2)
    assert len({tuple(whole.rows_seen(epoch)) for epoch in range(4)}) == 3
    again = run(tmp_path, rows, resume=tmp_path / "checkpoint-8", **options)
    assert again.noted[2] == whole.noted[2]
    assert largest_difference(weights(whole.model), weights(again.model)) == 0.0


def test_rows_come_once_until_the_pool_is_used_up(rows: Dataset, tmp_path: Path) -> None:
    trainer = run(tmp_path, rows, k=15, callback={"allow_repeats": False}, num_train_epochs=4)
    seen = [trainer.rows_seen(epoch) for epoch in range(4)]
    assert not set(seen[0]) & set(seen[1])
    assert set(seen[0]) | set(seen[1]) | set(seen[2]) == set(range(ROWS)), "the rows left over come first"
    second_time = set(seen[2]) & (set(seen[0]) | set(seen[1]))
    assert len(second_time) == 5
    assert not second_time & set(seen[3]), "the count began anew with the five that came twice"


def test_packs_too_come_once_until_the_pool_is_used_up(rows: Dataset, tmp_path: Path) -> None:
    trainer = run(tmp_path, rows, callback={"allow_repeats": False}, num_train_epochs=5, **{**PACKINGS["bfd"], "k": 6})
    seen = [set(trainer.rows_seen(epoch)) for epoch in range(5)]
    assert not seen[0] & seen[1]
    assert set.union(*seen[:4]) == set(range(ROWS))


def test_a_small_sample_of_the_pool_is_drawn_anew_each_time(rows: Dataset, tmp_path: Path) -> None:
    asked: list[int] = []

    def first_of(features: torch.Tensor, queries: torch.Tensor | None, k: int) -> Selection:
        asked.append(len(features))
        return Selection(torch.arange(k), torch.ones(k, dtype=torch.float64))

    trainer = run(tmp_path, rows, callback={"num_candidates": 10, "select": first_of})
    assert asked == [10, 10, 10]
    assert_trained_on_the_selection(trainer)


def test_the_warm_up_is_served_before_the_first_selection(rows: Dataset, tmp_path: Path) -> None:
    chosen = Selection(torch.arange(8, 16), torch.arange(8, 0, -1).double(), record={"method": "gip"})
    trainer = run(tmp_path, rows, callback={"start_epoch": 2, "initial_selection": chosen})
    assert trainer.rows_seen(0) == trainer.rows_seen(1) == list(range(8, 16))
    assert trainer.rows_seen(2) != list(range(8, 16))
    assert recorded(trainer, 0)["gain"] == list(range(8, 0, -1))


def test_weights_stay_with_their_rows(tmp_path: Path) -> None:
    texts = word_rows(ROWS)["text"][:]
    pairs = Dataset.from_dict({"prompt": [t.split(" ")[0] + " w1" * (i % 4 * 5) for i, t in enumerate(texts)],
                               "completion": [" w2 w3"] * ROWS})  # fmt: skip

    def weigh(features: torch.Tensor, queries: torch.Tensor | None, k: int) -> Selection:
        order = torch.arange(len(features) - 1, len(features) - 1 - k, -1)
        return Selection(order, torch.ones(k).double(), weights=1 + order.double())

    ten = torch.arange(1, 11)
    initial_selection = Selection(ten, torch.ones(10).double(), weights=ten.double())
    trainer = run(
        tmp_path,
        pairs,
        k=7,
        callback={"start_epoch": 1, "initial_selection": initial_selection, "select": weigh},
        max_length=14,
    )
    before, after = recorded(trainer, 0), recorded(trainer, 1)
    assert before["index"] == before["weight"] == [1, 2, 4, 5, 6, 8, 9], "rows 3 and 7 were dropped as too long"
    assert after["index"] == [38, 37, 36, 34, 33, 32, 30]
    assert after["weight"] == [30, 29, 28, 27, 26, 25, 24]


def test_a_target_and_scores_reach_the_selector(rows: Dataset, tmp_path: Path) -> None:
    given: list[tuple[torch.Tensor, torch.Tensor]] = []

    def towards(features: torch.Tensor, queries: torch.Tensor | None, k: int) -> Selection:
        assert queries is not None
        given.append((features, queries))
        best = (features @ queries.mean(dim=0)).topk(k)
        return Selection(best.indices, best.values.double())

    trainer = run(tmp_path, rows, callback={"select": towards, "target": rows.select([3, 5])["text"][:]})
    features, queries = given[0]
    assert features.shape == (ROWS, 16)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(ROWS))
    torch.testing.assert_close(queries, features[[3, 5]])
    assert {3, 5} <= set(trainer.rows_seen(0))


def test_the_rows_with_the_largest_loss_can_be_preferred(rows: Dataset, tmp_path: Path) -> None:
    plain = run(tmp_path / "plain", rows, num_train_epochs=1)
    by_loss = run(tmp_path / "by loss", rows, num_train_epochs=1, callback={"scores": ["loss"]})
    fresh = make_trainer(tmp_path, rows)
    found = compute_features(fresh, fresh.train_dataset, token_counts(fresh.train_dataset), "hidden", with_losses=True)
    assert found is not None
    assert found.losses is not None
    means = [float(found.losses[recorded(trainer, 0)["index"]].mean()) for trainer in (plain, by_loss)]
    assert means[1] > means[0]


def test_positions_name_the_rows_given_to_the_trainer(tmp_path: Path) -> None:
    texts = word_rows(ROWS)["text"][:]
    pairs = Dataset.from_dict({"prompt": [t.split(" ")[0] + " w1" * (i % 4 * 5) for i, t in enumerate(texts)],
                               "completion": [" w2 w3"] * ROWS})  # fmt: skip
    trainer = make_trainer(tmp_path, pairs, max_length=14, shuffle_dataset=True)
    callback = GIPSelectionCallback(trainer, 8)
    trainer.add_callback(callback)
    assert len(callback.pool) == 30, "every fourth prompt fills the row: the trainer drops it"
    trainer.train()
    assert_trained_on_the_selection(trainer)


def test_an_id_column_names_the_rows(rows: Dataset, tmp_path: Path) -> None:
    trainer = run(tmp_path, rows, callback={"id_column": "uid"}, num_train_epochs=1)
    table = recorded(trainer, 0)
    assert table["row_id"] == [f"row-{row}" for row in table["index"]]
    assert table["rank"] == list(range(8))
    assert table["epoch"] == [0] * 8


def test_every_round_is_logged(rows: Dataset, tmp_path: Path) -> None:
    trainer = run(tmp_path, rows)
    rounds = [entry for entry in trainer.state.log_history if "gip/selected" in entry]
    assert [entry["gip/selected"] for entry in rounds] == [8.0, 8.0, 8.0]
    assert "gip/overlap_prev" not in rounds[0]
    shared = set(trainer.rows_seen(0)) & set(trainer.rows_seen(1))
    assert rounds[1]["gip/overlap_prev"] == pytest.approx(len(shared) / 8)
    assert all(0 < entry["gip/captured"] <= 1 for entry in rounds)
    shares = [entry["gip/share_of_epoch"] for entry in trainer.state.log_history if "gip/share_of_epoch" in entry]
    assert len(shares) == 3
    assert all(0 < share < 1 for share in shares)


def test_a_plain_trainer_works_too(rows: Dataset, tmp_path: Path) -> None:
    from transformers import DataCollatorForLanguageModeling, Trainer, TrainingArguments

    tokenizer = word_tokenizer(ROWS)
    tokens = rows.map(lambda row: tokenizer(row["text"]))
    seen: list[int] = []

    class Noting(Trainer):
        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
            names = tokenizer.convert_ids_to_tokens(inputs["input_ids"].flatten().tolist())
            seen.extend(int(name[1:]) for name in names if name.startswith("r"))
            return super().training_step(model, inputs, num_items_in_batch)

    args = TrainingArguments(
        str(tmp_path),
        per_device_train_batch_size=2,
        num_train_epochs=2,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
    )
    trainer = Noting(
        tiny_llama(len(tokenizer)), args, DataCollatorForLanguageModeling(tokenizer, mlm=False), tokens,
        processing_class=tokenizer,
    )  # fmt: skip
    trainer.add_callback(GIPSelectionCallback(trainer, 8, features="hidden_gradient", scores=["loss"]))
    trainer.train()
    selections = [pq.read_table(path)["index"].to_pylist() for path in sorted((tmp_path / "gip").glob("*.parquet"))]
    assert [sorted(seen[:8]), sorted(seen[8:])] == [sorted(selection) for selection in selections]


# What a pass over the rows reads, against the definition.


@pytest.fixture(scope="module")
def trainer(rows: Dataset, tmp_path_factory: pytest.TempPathFactory) -> NotingTrainer:
    made = make_trainer(tmp_path_factory.mktemp("pass"), rows)
    made._prepare_for_training(1, made.get_train_dataloader(), None)
    return made


def one_by_one(trainer: NotingTrainer, row: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean last hidden state, loss, and the loss's gradient by the hidden states, summed; from the definition."""
    tokens, labels = torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]])
    model = trainer.model.eval()
    states = model.model(tokens, use_cache=False).last_hidden_state.detach().requires_grad_()
    logits = model.lm_head(states)
    loss = torch.nn.functional.cross_entropy(logits[0, :-1], labels[0, 1:])
    (slope,) = torch.autograd.grad(loss, states)
    return states[0, labels[0] != -100].mean(dim=0), loss.detach(), slope[0].sum(dim=0)


def test_features_and_losses_agree_with_the_definition(trainer: NotingTrainer) -> None:
    rows = trainer.train_dataset
    lengths = token_counts(rows)
    hidden = compute_features(trainer, rows, lengths, "hidden", with_losses=True)
    alone = compute_features(trainer, rows, lengths, "hidden")
    slopes = compute_features(trainer, rows, lengths, "hidden_gradient", with_losses=True)
    assert hidden is not None
    assert alone is not None
    assert slopes is not None
    states, losses, gradients = (
        torch.stack(column) for column in zip(*(one_by_one(trainer, row) for row in rows), strict=True)
    )
    torch.testing.assert_close(hidden.features, states, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(alone.features, states, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(slopes.features, gradients, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(hidden.losses, losses, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(slopes.losses, losses, rtol=1e-4, atol=1e-6)
    assert alone.losses is None
