"""Tables of a study fit the terminal."""

from __future__ import annotations

import re
from types import SimpleNamespace

from table_texts import CHOSEN, HEADLINES, LONG, WIDTHS, assert_complete, lines_of

from vqlab.cli import metric_tables, trial_tables
from vqlab.sweep import SweepResult, TrialKey, TrialOnTest, TrialRow


@WIDTHS
def test_tables_of_a_study_fit(width: int) -> None:
    params = {
        "detector.codebook_size": 512, "training.learning_rate": 1e-4,
        "detector.scoring.terms": '["error","context"]', "detector.commitment": 0.0712345,
    }  # fmt: skip
    trials = [
        TrialRow(TrialKey(recipe, n), state, value, params, "0123456789ab", 12.3, reason, None)
        for n, state, value, reason, recipe in (
            (0, "COMPLETE", 0.812345, "", "memory_bank"), (11, "PRUNED", None, "epoch 3", "vqvae"),
            (12, "COMPLETE", 0.7, "", "paper/vqflow_mvtec"),
        )
    ]  # fmt: skip
    values = [{f"{split}/{key}": 0.8123 for key in HEADLINES} for split in ("validation", "test")]
    why = ("winner", "earlier winner", "on request")
    tested = [
        TrialOnTest(row.key, reason, "0123456789ab", *values, ())  # type: ignore[arg-type]
        for row, reason in zip(trials, why, strict=True)
    ]
    result: SweepResult = SimpleNamespace(  # type: ignore[assignment]
        study="cable-all-quick-9f3d", objective="validation/pixel_ap", best=trials[0],
        trials=trials, tested=tested, recipes={""
        "memory_bank": trials[0], LONG: None}, comparisons={},
    )  # fmt: skip
    lines = lines_of(trial_tables.trials_table(result), width)
    chosen = ["codebook_size=512", "learning_rate=0.0001", "terms=error+context"]
    assert_complete(
        lines, width, [*chosen, "commitment=0.07123", "(epoch 3)", "paper/vqflow_mvtec:12"]
    )
    for words in chosen:
        assert sum(words in line for line in lines) == 3  # not wrapped
    lines = lines_of(trial_tables.tested_table(result), width)
    assert_complete(
        lines, width, ["earlier winner", "on request", "01234567", "paper/vqflow_mvtec:12"]
    )
    assert len([line for line in lines if line.startswith("┏")]) == 1
    digits = 3 if width == 80 else 4
    assert len(re.findall(rf"\b0\.\d{{{digits}}}\b", "\n".join(lines))) == 3 * 4 * 2
    assert_complete(
        lines_of(trial_tables.recipes_table(result), width), width, [LONG, "s per trial", "0.8123"]
    )
    keyed = {"validation": (values[0], "validation"), "test": (values[1], "test")}
    lines = lines_of(
        metric_tables.figures_table("best", keyed, warned=True, thresholds=CHOSEN), width
    )
    assert_complete(
        lines, width, ["validation", "test ⚠", "conformal", "image metrics may be inflated"]
    )
