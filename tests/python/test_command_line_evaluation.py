"""``it3 evaluate``: the rows and groups that a configuration gives are those of it3.evaluate."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import it3
import pytest
import torch

pytest.importorskip("typer")

from command_line import answer, error
from configurations import CONFIG, changed, configured
from it3.command_line.printing import plain


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with configured(tmp_path, monkeypatch) as module:
        yield module


EVALUATION = """
reference = "train"
groups = "configured_parts:labels"
clusters = ["a", "b", "a"]

[evaluation.repairs]
clipped = "configured_parts.py:clip"

[evaluation.others]
other = "configured_parts:other_network"
"""


def rows_of(found: dict[str, Any]) -> list[Any]:
    names = ("name", "score", "low", "high", "worst", "worst_group", "groups")
    return [[plain(row[name]) for name in names] for row in found["rows"]]


def test_evaluate_gives_more_rows_and_groups(parts: Any) -> None:
    answer("train", CONFIG)
    found = answer("evaluate", changed('metric = "accuracy"', f'metric = "accuracy"{EVALUATION}'))
    expected = it3.evaluate(
        it3.load("inside/engine.pt"),
        parts.test(),
        "accuracy",
        {"5 steps": {"num_steps": 5}, "sgd": {"optimizer_name": "sgd", "lr": 0.1}},
        reference=torch.cat([y for _, y in parts.train()]),
        groups=parts.labels,
        clusters=["a", "b", "a"],
        repairs={"clipped": parts.clip},
        others={"other": parts.other_network},
    )
    assert {"majority class", "0 steps, clipped", "other"} < {row["name"] for row in found["rows"]}
    assert rows_of(found) == rows_of({"rows": expected.rows})
    new = 'metric = "accuracy"\nreference = "configured_parts:constant"\nothers = "configured_parts:of_engine"'
    rows = {row["name"]: row["score"] for row in answer("evaluate", changed('metric = "accuracy"', new))["rows"]}
    share = torch.cat([y for _, y in parts.test()]).eq(1).double().mean().item()
    assert rows["reference"] == pytest.approx(share)
    assert rows["thirds"] == rows["0 steps"]


@pytest.mark.parametrize(
    ("new", "code", "words"),
    [
        ("repair = 1", 2, "unknown key 'repair' in [evaluation]; did you mean 'repairs'?"),
        ('reference = "trian"', 2, "'trian' names nothing that can be imported"),
        ("reference = 3", 2, "reference in [evaluation] of inside/changed.toml must be text, not 3"),
        ('groups = "configured_parts:lables"', 2, "configured_parts has no 'lables'; did you mean 'labels'?"),
        ("groups = ['a']", 1, "groups has 1 entries for the 3 batches of run 0"),
        ("clusters = true", 2, "clusters in [evaluation] of inside/changed.toml must be text or a list, not True"),
        ("repairs = ['clip']", 2, "repairs in [evaluation] of inside/changed.toml must be a table, not ['clip']"),
        (
            "repairs = {clipped = 3}",
            2,
            "'clipped' in [evaluation.repairs] of inside/changed.toml must",
        ),
        (
            "others = {mine = 'configured_parts:labels'}",
            1,
            "the method 'mine' of others must be an IT3Engine",
        ),
    ],
)
def test_errors_of_rows_and_groups_are_one_line(new: str, code: int, words: str, parts: Any) -> None:
    answer("train", CONFIG)
    assert words in error("evaluate", changed('metric = "accuracy"', f'metric = "accuracy"\n{new}'), code=code)
