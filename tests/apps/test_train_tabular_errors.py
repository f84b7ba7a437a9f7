"""Mistakes that a user can make with the tabular app: one line that says what to do, exit code 2, nothing written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kan_tabular.cli import main
from kan_tabular.tasks import TabularTask

QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"]
FILE = ["--data.file=my.csv", "--data.target=y"]


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KAN_DATA", raising=False)
    monkeypatch.setattr(TabularTask, "figures", lambda task, datamodule: iter(()))  # drawing is tested elsewhere


@pytest.fixture
def fails(capsys):
    """`fails(args, part, ...)`: the app exits with 2 and one line on stderr that has every part; nothing is written."""

    def check(args, *parts):
        before = sorted(path for path in Path.cwd().rglob("*") if path.is_file())
        assert main(args) == 2
        stderr = capsys.readouterr().err
        assert len(stderr.splitlines()) == 1, stderr
        for part in parts:
            assert part in stderr
        assert sorted(path for path in Path.cwd().rglob("*") if path.is_file()) == before

    return check


def train(*options):
    return [*options, "--trainer.max_epochs=1", "--twin=none", *QUIET]


def table(rows=120, **columns):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.normal(size=rows).round(3), "b": rng.choice(["u", "v"], rows)})
    return frame.assign(y=np.where(frame["a"] > 0, "yes", "no")).assign(**columns)


def write(frame, name="my.csv", **options):
    frame.to_csv(name, index=False, **options)


def test_the_target_is_no_column(fails):
    write(table())
    fails(train("--data.file=my.csv", "--data.target=Y"), "my.csv", "no column 'Y'", "did you mean 'y'")


def test_no_target_is_named(fails):
    write(table())
    fails(train("--data.file=my.csv"), "my.csv", "--data.target")


def test_missing_targets(fails):
    frame = table()
    frame.loc[4:6, "y"] = None
    write(frame)
    fails(train(*FILE), "target 'y' is missing in 3 of 120 rows", "row 5")


def test_a_single_class(fails):
    write(table(y="yes"))
    fails(train(*FILE), "target 'y' has one value only, 'yes'")


def test_infinite_values(fails):
    write(table(c=[1.0] * 7 + [float("inf")] + [2.0] * 112))
    fails(train(*FILE), "column 'c' is infinite in row 8")


def test_duplicate_column_names(fails):
    write(pd.concat([table(), table()[["a"]]], axis=1))
    fails(train(*FILE), "two columns are called 'a'")


def test_mixed_types(fails):
    write(table(c=["12"] * 100 + ["broken"] * 20))
    fails(train(*FILE), "column 'c' mixes numbers and text", "'broken' in row 101", "--data.na_values")


@pytest.mark.parametrize("content", ["", "a,b,y\n"])
def test_an_empty_file(fails, content):
    Path("my.csv").write_text(content)
    fails(train(*FILE), "my.csv")


def test_a_missing_file(fails):
    fails(train(*FILE), "my.csv: there is no such file")


def test_a_wrong_separator(fails):
    write(table())
    fails(train(*FILE, "--data.separator=;"), "my.csv", "1 column was found", "--data.separator")


def test_rows_of_other_lengths(fails):
    write(table())
    with Path("my.csv").open("a") as file:
        file.write("1,u\n2,v,yes,no\n")
    fails(train(*FILE), "my.csv", "2 row(s)", "line 122")


def test_all_missing_and_constant_columns_are_right():
    write(table(nothing=np.nan, same=1, word="w"))
    assert main(train(*FILE)) == 0


def test_a_broken_parquet_file(fails):
    pytest.importorskip("pyarrow")
    Path("my.parquet").write_bytes(b"PAR1 nothing")
    fails(train("--data.file=my.parquet", "--data.target=y"), "my.parquet cannot be read as Parquet")


def test_prediction_of_other_columns(fails, capsys):
    write(table())
    assert main(train("fit", *FILE, "--name=run")) == 0
    capsys.readouterr()
    checkpoint = ["--ckpt_path=outputs/tabular/run/checkpoints/best.ckpt", *QUIET]
    write(table()[["b", "a"]], "order.csv")
    fails(["predict", "order.csv", *checkpoint], "order.csv", "in another order", "column 1 is 'b'")
    write(table().rename(columns={"a": "aa"})[["aa", "b"]], "names.csv")
    fails(["predict", "names.csv", *checkpoint], "names.csv", "column 'a' of the training table is missing", "'aa'")
    write(table()[["a"]].assign(b="u", a="text"), "kinds.csv")
    fails(["predict", "kinds.csv", *checkpoint], "kinds.csv", "column 'a' holds numbers in training")
    fails(["predict", "none.csv", *checkpoint], "none.csv: there is no such file")
    # another table under the same options
    write(table(a=np.arange(120) / 7))
    fails(train("fit", *FILE, "--ckpt_path=outputs/tabular/run/checkpoints/last.ckpt"), "not the one")


@pytest.mark.parametrize(
    ("args", "parts"),
    {
        "file and set": (train(*FILE, "--data.dataset=iris"), ("dataset=iris does not go with file=my.csv",)),
        "unknown set": (train("--data.dataset=irsi"), ("unknown data set 'irsi'", "iris", "--data.file")),
        "missing set": (train("--data.dataset=adult", "--data.root=."), ("adult/adult.data is missing", "https://")),
        "unknown column": (train('--data.drop=["radius"]'), ("no column 'radius'",)),
        "unknown model": (train("--model.model=kann"), ("unknown model 'kann'", "kan")),
        "refused argument": (train("--model.model_kwargs.depth=3"), ("model 'kan'", "depth")),
        "task": (train("--data.task=clustering"), ("--data.task", "clustering")),
        "task that cannot be": (train("--data.task=regression"), ("cannot be regression",)),
        "option": (train("--data.shuffle=true"), ("unknown option --data.shuffle",)),
        "prediction without a run": (["predict", "a.csv"], ("--ckpt_path",)),
        "two files": (["predict", "a.csv", "b.csv"], ("b.csv",)),
    }.values(),
)
def test_mistakes_are_one_line(fails, args, parts):
    write(table())
    fails(args, *parts)
