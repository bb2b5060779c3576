"""Runs beside each other: what differs, which are seeds of one setting, what is said of a difference."""

import json
from pathlib import Path

import pytest

from dunwu._utils.terminal_text import display_width
from dunwu.errors import ConfigError
from dunwu.reports.comparison import compare_runs
from dunwu.reports.settings import flat_options, same_setting
from run_folders import answers, edit_json, make_run


def of(comparison: object, name: str) -> dict[str, object]:
    return next(verdict for verdict in json.loads(comparison.json())["verdicts"] if verdict["figure"] == name)  # type: ignore[attr-defined]


def test_only_options_that_differ_are_shown_and_never_the_folder(tmp_path: Path) -> None:
    first = make_run(tmp_path / "a", after=answers(10, 40))
    second = make_run(tmp_path / "b", after=answers(10, 40), options={"train.beta": "0.5", "lora.r": "4"})
    comparison = compare_runs([first, second])
    assert comparison.differing == ("train.beta", "lora.r")
    assert [dict(one.options) for one in comparison.settings] == [
        {"train.beta": "0.008", "lora.r": "default"},
        {"train.beta": "0.5", "lora.r": "4"},
    ]
    assert "output_dir" not in comparison.table()


def test_versions_commit_and_machine_that_differ_are_shown(tmp_path: Path) -> None:
    first, second = make_run(tmp_path / "a"), make_run(tmp_path / "b", options={"train.beta": "0.5"})
    edit_json(second / "run.json", machine="aarch64, 8 cores", versions={"dunwu": "0.2.0", "torch": "2.13.0"})
    assert compare_runs([first, second]).differing == ("train.beta", "dunwu (version)", "machine")


def test_a_clear_difference_over_the_same_prompts_is_beyond_noise(tmp_path: Path) -> None:
    """10 and 30 of the same 40 prompts: 20 pairs changed, all to the better: p = 2 / 2^20."""
    first = make_run(tmp_path / "a", after=answers(10, 40))
    second = make_run(tmp_path / "b", after=answers(30, 40), options={"train.beta": "0.5"})
    comparison = compare_runs([first, second])
    verdict = of(comparison, "greedy_strict")
    assert verdict["ahead"] == "beta=0.5" and verdict["beyond_noise"] and verdict["prompts"] == 40
    assert verdict["p"] == pytest.approx(2 / 2**20) and verdict["gap"] == pytest.approx(0.5)
    assert "correct, greedy: beta=0.5 is ahead of beta=0.008 by 50.0 points, beyond noise (p < 0.001)" in " ".join(
        comparison.table().split()
    )
    assert "another seed" in comparison.table()


def test_a_small_difference_cannot_be_told_from_noise(tmp_path: Path) -> None:
    """Two pairs changed, both to the better: p = 2 / 2^2."""
    first = make_run(tmp_path / "a", after=answers(10, 40))
    second = make_run(tmp_path / "b", after=answers(12, 40), options={"train.beta": "0.5"})
    comparison = compare_runs([first, second])
    assert of(comparison, "greedy_strict")["p"] == 0.5
    assert "cannot be told apart" in comparison.table() and "beyond noise" not in comparison.table()


def test_pairs_show_what_the_intervals_alone_do_not(tmp_path: Path) -> None:
    """30 and 38 of 100: the intervals overlap widely, but all 8 changes are to the better."""
    first = make_run(tmp_path / "a", after=answers(30, 100))
    second = make_run(tmp_path / "b", after=answers(38, 100), options={"train.beta": "0.5"})
    assert of(compare_runs([first, second]), "greedy_strict")["beyond_noise"]
    for folder in (first, second):
        (folder / "evaluation_after.jsonl").unlink()
    verdict = of(compare_runs([first, second]), "greedy_strict")
    assert not verdict["beyond_noise"] and verdict["tests"] == ["intervals"]


def test_other_prompts_are_not_paired(tmp_path: Path) -> None:
    first = make_run(tmp_path / "a", after=answers(30, 100))
    second = make_run(tmp_path / "b", after=answers(38, 100), options={"task.seed": "7"})
    lines = (second / "evaluation_after.jsonl").read_text().replace("3 14 ", "9 14 ")
    (second / "evaluation_after.jsonl").write_text(lines)
    assert of(compare_runs([first, second]), "greedy_strict")["tests"] == ["intervals"]


def test_runs_that_differ_by_their_seed_alone_are_one_setting(tmp_path: Path) -> None:
    for seed, right in ((1, 10), (2, 14)):
        make_run(tmp_path / f"low-{seed}", after=answers(right, 40), options={"train.seed": str(seed)})
    for seed, right in ((1, 30), (2, 34)):
        changed = {"train.seed": str(seed), "train.beta": "0.5"}
        make_run(tmp_path / f"high-{seed}", after=answers(right, 40), options=changed)
    comparison = compare_runs([tmp_path])
    assert [[run.path.name for run in one.runs] for one in comparison.settings] == [
        ["high-1", "high-2"],
        ["low-1", "low-2"],
    ]
    assert comparison.differing == ("train.beta",), "the seed is none of the differences"
    figure = comparison.settings[1].figures["greedy_strict"]
    assert figure.value == pytest.approx(0.3) and figure.deviation == pytest.approx(0.1 / 2**0.5)
    assert "30.0 % ± 7.1" in comparison.table()
    # Over seeds t = 0.5 / √(2 · 0.005 / 2) = 7.07 with 2 degrees, p = 0.019; pairs say less than 0.001.
    assert of(comparison, "greedy_strict")["p"] == pytest.approx(0.0194, abs=2e-4)


def test_a_verdict_must_hold_over_seeds_and_over_prompts(tmp_path: Path) -> None:
    """Three seeds a side that agree to the digit, 2 prompts apart: over seeds certain, over prompts nothing."""
    for name, right, beta in (("a", 10, "0.1"), ("b", 12, "0.2")):
        for seed in (1, 2, 3):
            changed = {"train.seed": str(seed), "train.beta": beta}
            make_run(tmp_path / f"{name}{seed}", after=answers(right, 40), options=changed)
    verdict = of(compare_runs([tmp_path]), "greedy_strict")
    assert verdict["tests"] == ["pairs", "seeds"] and verdict["p"] == 0.5


def test_seeds_of_one_setting_are_shown_each_and_with_their_mean(tmp_path: Path) -> None:
    for seed, right in ((1, 10), (2, 14), (3, 12)):
        make_run(tmp_path / f"seed={seed}", after=answers(right, 40), options={"train.seed": str(seed)})
    table = compare_runs([tmp_path]).table()
    assert "3 runs of one setting" in table
    assert all(text in table for text in ("seed 1", "seed 2", "seed 3", "mean", "30.0 % ± 5.0"))


def test_one_recipe_twice_with_one_seed_is_two_settings() -> None:
    first = flat_options({"model": "m", "train": {"seed": 1, "beta": 0.1}})
    other = flat_options({"model": "m", "train": {"seed": 2, "beta": 0.1, "output_dir": "x"}})
    assert same_setting([first, first]) == [[0], [1]]
    assert same_setting([first, other]) == [[0, 1]]
    assert same_setting([first, other, other]) == [[0, 1], [2]]


def test_with_several_settings_p_is_raised_and_the_best_is_named(tmp_path: Path) -> None:
    for i, right in enumerate((10, 12, 30)):
        make_run(tmp_path / f"r{i}", after=answers(right, 40), options={"train.beta": f"0.{i + 1}"})
    comparison = compare_runs([tmp_path])
    assert len(comparison.verdicts) == 6, "three pairs, sampled and greedy"
    text = " ".join(comparison.table().split())
    assert "correct, greedy: highest is beta=0.3; beyond noise ahead of beta=0.1, beta=0.2" in text
    assert "3 comparisons (Holm)" in text
    # 20, 18 and 2 pairs changed: 2 / 2^20 three times, 2 / 2^18 twice, 2 / 2^2 once.
    raised = sorted(one.p for one in comparison.verdicts if one.figure == "greedy_strict")
    assert raised == pytest.approx([6 / 2**20, 4 / 2**18, 0.5])


def test_tasks_without_right_answers_are_compared_by_reward(tmp_path: Path) -> None:
    wrong = answers(0, 30)
    for i in range(2):
        paid = [[0.1 * i + row / 100] * 3 for row in range(30)]
        make_run(tmp_path / f"r{i}", after=wrong, paid=paid, options={"train.beta": f"0.{i + 1}"})
    verdict = of(compare_runs([tmp_path]), "reward")
    assert verdict["ahead"] == "beta=0.2" and verdict["beyond_noise"] and verdict["gap"] == pytest.approx(0.1)


def test_rewards_that_are_not_the_same_are_not_compared(tmp_path: Path) -> None:
    make_run(tmp_path / "a", after=answers(0, 30))
    make_run(tmp_path / "b", after=answers(0, 30), options={"train.reward_weights": "[1, 1, 1]"})
    assert compare_runs([tmp_path]).verdicts == ()


def test_different_tasks_get_no_verdict(tmp_path: Path) -> None:
    make_run(tmp_path / "a", after=answers(3, 30))
    second = make_run(tmp_path / "b", after=answers(20, 30))
    recipe = second / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("name: countdown", "name: gsm8k"))
    assert compare_runs([tmp_path]).verdicts == ()


def test_runs_without_an_evaluation_show_their_last_steps(tmp_path: Path) -> None:
    first = make_run(tmp_path / "a", rewards=[0.5] * 20 + [1.5] * 20)
    second = make_run(tmp_path / "b", rewards=[0.5] * 40, options={"train.beta": "0.5"})
    comparison = compare_runs([first, second])
    assert [one.figures["train/reward"].value for one in comparison.settings] == [1.5, 0.5]
    assert comparison.verdicts == (), "one seed each, no held-out answers: nothing is known of the noise"
    assert "reward, last steps" in comparison.table()


def test_without_an_evaluation_seeds_still_tell_settings_apart_by_their_rewards(tmp_path: Path) -> None:
    """Means 1.1 and 2.1, spread 0.1: t = 1 / √(2 · 0.01 / 3) = 12.2 with 4 degrees, p = 0.0003."""
    for name, beta, reward in (("a", "0.1", 1.0), ("b", "0.2", 2.0)):
        for seed in range(3):
            changed = {"train.seed": str(seed), "train.beta": beta}
            make_run(tmp_path / f"{name}{seed}", rewards=[reward + 0.1 * seed] * 40, options=changed)
    verdict = of(compare_runs([tmp_path]), "train/reward")
    assert verdict["ahead"] == "beta=0.2" and verdict["tests"] == ["seeds"]
    assert verdict["p"] == pytest.approx(0.00026, abs=2e-5)


def test_a_run_that_has_not_begun_is_left_out_of_a_sweep_and_refused_by_name(tmp_path: Path) -> None:
    make_run(tmp_path / "sweep" / "a", after=answers(3, 30))
    make_run(tmp_path / "sweep" / "b", after=answers(3, 30), options={"train.beta": "0.5"})
    empty = make_run(tmp_path / "sweep" / "c", rewards=(), ended="running", options={"train.beta": "0.6"})
    comparison = compare_runs([tmp_path / "sweep"])
    assert comparison.left_out == (empty,) and "c" in comparison.markdown()
    with pytest.raises(ConfigError, match="has not finished a step yet"):
        compare_runs([tmp_path / "sweep" / "a", empty])


def test_folders_of_before_run_json_and_with_standard_errors_are_compared(tmp_path: Path) -> None:
    first = make_run(tmp_path / "a", after=answers(10, 40))
    second = make_run(tmp_path / "b", after=answers(30, 40), options={"train.beta": "0.5"})
    for folder in (first, second):
        for name in ("run.json", "evaluation_after.jsonl"):
            (folder / name).unlink()
        part = json.loads((folder / "summary.json").read_text())["after"]
        share = part["greedy_strict"]
        old = {"greedy": share, "greedy_strict": share, "greedy_strict_error": 0.07, "prompts": 40.0, "samples": 4.0}
        edit_json(folder / "summary.json", after=old)
    comparison = compare_runs([first, second])
    assert of(comparison, "greedy_strict")["beyond_noise"]
    assert "25.0 % [11.3, 38.7]" in comparison.table()


@pytest.mark.parametrize("count", [2, 3, 4, 7])
def test_the_table_has_80_columns_whatever_is_in_it(tmp_path: Path, count: int) -> None:
    for i in range(count):
        long = {"train.importance_sampling_level": "sequence" if i else "token", "train.beta": f"0.{'1' * (i + 1)}"}
        folder = tmp_path / f"run-{i}-with-a-rather-long-name-that-goes-on"
        make_run(folder, after=answers(10 + i, 40), options={**long, "train.learning_rate": f"1e-{i + 3}"})
    folders = {len(str(run)) for run in tmp_path.iterdir()}
    table = compare_runs([tmp_path]).table()
    lines = [line for line in table.splitlines() if str(tmp_path) not in line]
    assert folders and max(map(display_width, lines)) <= 80
    assert "25.0 % " in table
    assert all(f"{10.0 ** -(i + 3):g}" in table for i in range(count)), "each setting's options are told"


def test_what_stands_in_a_recipe_cannot_break_the_page_or_the_terminal(tmp_path: Path) -> None:
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", options={"model": "evil|<script>\x1b[2J`"})
    comparison = compare_runs([tmp_path])
    assert "\x1b" not in comparison.table() + comparison.markdown()
    row = next(line for line in comparison.markdown().splitlines() if line.startswith("| model"))
    assert row.count("|") - row.count("\\|") == 4 and "<script>" not in row


def test_the_same_run_twice_is_one_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    with pytest.raises(ConfigError, match="at least two runs"):
        compare_runs([run, tmp_path / "." / "a"])


def test_runs_are_found_in_folders_of_folders_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for seed in (10, 9):
        make_run(tmp_path / "grid" / f"seed={seed}", options={"train.seed": str(seed)})
    (only,) = compare_runs([tmp_path]).settings
    assert [run.path.name for run in only.runs] == ["seed=9", "seed=10"]
