"""The numbers of a report, against runs whose episodes are known."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from run_folders import RunMaker, write_json, write_rows

from lamo.algorithms import PRESETS
from lamo.config import Experiment
from lamo.report.collect import read_run, read_runs
from lamo.report.figures import color_index
from lamo.report.groups import make_sections
from lamo.report.measure import MAX_POINTS, compare_pairs, jsonable, measure
from lamo.report.scores import seconds_at, window_steps
from lamo.report.tables import auto_target_lines, held_out_error, improvement, markdown, method_rows


def numbers(paths: list[Any], seed: int = 0) -> dict[str, Any]:
    return jsonable(measure(make_sections(read_runs(paths)), seed))


@pytest.mark.parametrize(
    ("steps", "window"),
    [
        ([100_000 - 2_500 * i for i in range(40)], [82_500, 85_000, 87_500, 90_000, 92_500, 95_000, 97_500, 100_000]),
        ([2_500, 5_000, 7_500, 10_000], [10_000]),  # 20 % of 10 000 reaches back to 8 000
        ([800, 900, 1_000], [900, 1_000]),  # the window is open at its early end
        ([200_000, 179_999, 180_001], [180_001, 200_000]),  # never more than 20 000
        ([0], [0]),
    ],
)
def test_last_window(steps: list[int], window: list[int]) -> None:
    assert window_steps(sorted(steps)) == window


def test_windows_checkpoints_and_best_targets(make_run: RunMaker) -> None:
    # At 76: 10 per 1000 steps, but a peak at step 3000. At 40: always 85. Seeds add 1, episodes ±1 around the mean.
    def value(seed: int) -> Any:
        def at(step: int, target: float | None, episode: int) -> float:
            base = 85.0 if target == 40 else 99.0 if step == 3_000 else step / 100
            return base + seed + (episode - 1)

        return at

    found = numbers([make_run(f"{seed}", seed=seed, episodes=3, value=value(seed)) for seed in range(3)])
    (method,) = found["sections"][0]["methods"]
    high, low = method["targets"]
    assert (high["target"], low["target"]) == (76, 40)
    assert high["last_window"]["values"] == [95, 96, 97] and high["last_window"]["steps"] == [[9_000, 10_000]] * 3
    assert high["last_window"]["estimate"] == 96 and high["final"]["estimate"] == 101
    assert high["best_checkpoint"]["values"] == [100, 101, 102]  # step 10 000 beats the peak at 3000
    assert high["best_checkpoint"]["steps"] == [10_000] * 3
    assert low["last_window"]["estimate"] == 86
    assert method["best_target"] == 0 and method["best_checkpoint_target"] == 0
    window = high["last_window"]
    assert (window["over"], window["runs"], window["episodes"]) == ("seeds", 3, 3 * 2 * 3)
    assert 95 <= window["low"] < 96 < window["high"] <= 97
    assert found["sections"][0]["metric"] == "score"


def test_intervals_are_over_episodes_below_three_seeds(make_run: RunMaker) -> None:
    def value(step: int, target: float | None, episode: int) -> float:
        return 10.0 * episode

    paths = [make_run(f"{seed}", seed=seed, episodes=4, targets=(76.0,), value=value) for seed in range(2)]
    window = numbers(paths)["sections"][0]["methods"][0]["targets"][0]["last_window"]
    assert window["over"] == "episodes" and window["values"] == [15, 15] and window["low"] < 15 < window["high"]
    # Two evaluations in the window, but the same four start states in both: they count once. The interval is that
    # of the mean over runs of four draws from {0, 10, 20, 30} each.
    spread = 1.96 * math.sqrt(125 / 8)
    assert window["high"] - 15 == pytest.approx(spread, rel=0.1)


def test_one_episode_has_no_interval(make_run: RunMaker) -> None:
    window = numbers([make_run(episodes=1)])["sections"][0]["methods"][0]["targets"][0]["last_window"]
    assert window["over"] is None and window["low"] is None and window["estimate"] is not None


def test_returns_stand_in_where_a_score_is_missing(make_run: RunMaker) -> None:
    some = make_run("a", value=lambda s, t, e: (7.0, None if e == 0 else 70.0))
    section = numbers([some, make_run("b", preset="dt", value=lambda s, t, e: (5.0, 50.0))])["sections"][0]
    assert section["metric"] == "return"
    assert [m["targets"][0]["last_window"]["estimate"] for m in section["methods"]] == [7, 5]
    assert any("Some episodes have no score" in note for note in section["notes"])


def test_a_return_that_is_not_finite_is_said_and_not_averaged_away(make_run: RunMaker) -> None:
    def value(step: int, target: float | None, episode: int) -> Any:
        return (math.nan, None) if target == 76 and episode == 0 else (5.0, None)

    section = numbers([make_run(f"{seed}", seed=seed, value=value) for seed in range(3)])["sections"][0]
    (method,) = section["methods"]
    assert method["targets"][0]["last_window"]["estimate"] is None and method["best_target"] == 1
    assert any("no finite return" in note for note in section["notes"])
    json.dumps(section, allow_nan=False)


def test_runs_that_are_not_done_are_named(make_run: RunMaker) -> None:
    paths = [make_run("0", seed=0), make_run("1", seed=1, steps=5_000, finished=False, config={"steps": 10_000})]
    paths.append(make_run("2", seed=2, finished=False))
    (paths[2] / "episodes.jsonl").unlink()
    section = numbers(paths)["sections"][0]
    (method,) = section["methods"]
    said = "\n".join(section["notes"])
    assert (
        "seed 2: no evaluation yet" in said and "seeds 1, 2 are not finished" in said and "seed 1 at step 5,000" in said
    )
    assert method["evaluated_seeds"] == [0, 1] and method["seeds"] == [0, 1, 2]
    assert [point["step"] for point in method["curves"][0]] == list(range(1_000, 5_001, 1_000))


def test_no_evaluation_at_all(make_run: RunMaker) -> None:
    path = make_run()
    (path / "episodes.jsonl").unlink()
    section = numbers([path])["sections"][0]
    assert section["methods"][0]["targets"] == [] and section["comparisons"] == []


def test_seconds_are_read_between_rows(make_run: RunMaker) -> None:
    path = make_run(steps=200, every=100)
    write_rows(path / "timing.jsonl", [{"step": 100, "seconds": 10.0}, {"step": 200, "seconds": 40.0}])
    found = seconds_at(read_run(path), [0, 50, 150, 200, 400])
    assert found is not None and found.tolist() == [0, 5, 25, 40, 80]
    (path / "timing.jsonl").unlink()
    assert seconds_at(read_run(path), [100]) is None


def test_the_datas_own_mean_and_best(make_run: RunMaker) -> None:
    paths = [make_run(f"{seed}", seed=seed) for seed in range(2)]
    for path in paths:
        provenance = json.loads((path / "provenance.json").read_text())
        provenance["task"]["score_range"] = [-12.0, 188.0]
        write_json(path / "provenance.json", provenance)
    data = numbers(paths)["sections"][0]["data"]
    assert data["return_mean"] == 40.5 and data["score_max"] == 50.0 and data["varies_by_seed"]
    (paths[0] / "provenance.json").unlink()
    (paths[1] / "provenance.json").unlink()
    assert numbers(paths)["sections"][0]["data"] is None


def test_parameters_perplexity_and_times(make_run: RunMaker) -> None:
    (method,) = numbers([make_run(pace=50.0)])["sections"][0]["methods"]
    assert method["parameters"] == {"total": 12.4e6, "frozen": 12e6, "trainable": 4e5, "lora_share": 0.0047}
    assert method["perplexity"] == {"before": 31.2, "after": 33.9}
    assert method["seconds"] == 200.0 and method["runs"][0]["steps_per_second"] == 50.0


def test_a_run_that_goes_on_knows_its_model(make_run: RunMaker) -> None:
    path = make_run(finished=False)
    provenance = json.loads((path / "provenance.json").read_text())
    write_json(path / "provenance.json", {**provenance, "model": {"parameters": {"total": 7}}})
    assert numbers([path])["sections"][0]["methods"][0]["parameters"] == {"total": 7.0}


def test_pairs_put_the_better_first(rng: np.random.Generator) -> None:
    values = {"a": [np.array([1.0, 2.0, 3.0])], "b": [np.array([7.0, 8.0, 9.0])], "c": [np.array([2.0, 2.0, 8.0])]}
    pairs = {(pair["a"], pair["b"]): pair for pair in compare_pairs(values, rng)}
    assert set(pairs) == {("b", "a"), ("c", "a"), ("b", "c")}
    apart = pairs["b", "a"]
    assert apart["difference"] == 6 and apart["probability"] == 1
    assert apart["separated_by_luck"] == 0.1  # 2 of the 20 ways to deal six runs into threes
    assert pairs["c", "a"]["separated_by_luck"] is None and pairs["c", "a"]["low"] < pairs["c", "a"]["high"]


def test_comparisons_need_three_seeds(make_run: RunMaker) -> None:
    paths = [
        make_run(f"{preset}{seed}", preset=preset, seed=seed, rollout=False)
        for preset in ("dt", "lamo")
        for seed in range(2)
    ]
    assert numbers(paths)["sections"][0]["comparisons"] == []
    paths += [make_run(f"{preset}2", preset=preset, seed=2, rollout=False) for preset in ("dt", "lamo")]
    assert len(numbers(paths)["sections"][0]["comparisons"]) == 1


def test_over_tasks(make_run: RunMaker) -> None:
    paths = []
    for task, base in (("a", 0.0), ("b", 50.0)):
        for preset, plus in (("lamo", 10.0), ("dt", 0.0)):
            for seed in range(3):
                value = base + plus + seed
                settings: dict[str, Any] = {"targets": (76.0,), "rollout": False, "value": lambda s, t, e, v=value: v}
                paths.append(make_run(f"{task}{preset}{seed}", task=task, preset=preset, seed=seed, **settings))
    found = numbers(paths)
    lamo, dt = found["aggregate"]["methods"]
    assert found["aggregate"]["tasks"] == 2 and lamo["runs"] == 6
    assert lamo["mean"]["estimate"] == 36 and dt["mean"]["estimate"] == 26  # (11 + 61) / 2, (1 + 51) / 2
    assert lamo["iqm"]["estimate"] == 36  # of 10 11 12 60 61 62, the middle four: (11 + 12 + 60 + 61) / 4
    (pair,) = found["aggregate"]["comparisons"]
    assert (pair["a"], pair["probability"], pair["difference"]) == ("lamo", 1, 10)
    assert pair["separated_by_luck"] == 2 / 20**2  # apart on both tasks, the same way round
    assert improvement(pair) == "1.00"
    assert "second, on each task. Two equal methods" in markdown(found) and "in 0.5 % of cases" in markdown(found)
    assert numbers(paths[:6])["aggregate"] is None  # one task


def contexts(make_run: RunMaker, plan: dict[tuple[str, int], float], published: dict[str, Any] | None = None) -> Any:
    """The report on three seeds for each (task, context) -> score; `published`: each task's context, if it is known."""
    paths = []
    for (task, context), value in plan.items():
        for seed in range(3):
            table = None if published is None else {"context": published[task]}
            algorithm = {"algorithm": {"name": "sequence", "context": context}}
            settings: dict[str, Any] = {"steps": 1_000, "episodes": 1, "rollout": False, "targets": (76.0,)}
            settings["value"] = lambda s, t, e, v=value + seed: v
            name = f"{len(plan)}-{task}-{context}-{seed}"
            paths.append(
                make_run(name, preset="dt", task=task, seed=seed, config=algorithm, published=table, **settings)
            )
    return numbers(paths)


def test_a_method_is_the_same_on_every_task_by_its_settings(make_run: RunMaker) -> None:
    found = contexts(make_run, {("a", 5): 10.0, ("a", 20): 50.0, ("b", 20): 60.0})
    labels = [[method["label"] for method in section["methods"]] for section in found["sections"]]
    assert labels == [["dt (context 5)", "dt (context 20)"], ["dt (context 20)"]]
    assert color_index(found) == {"dt (context 5)": 0, "dt (context 20)": 1}
    (row,) = found["aggregate"]["methods"]
    assert (row["label"], row["mean"]["estimate"]) == ("dt (context 20)", 56)
    note = "dt (context 5): left out, for it has no scores of 3 seeds on b, 10 % of the data."
    assert found["aggregate"]["notes"] == [note]
    assert "left out, for it has no scores" in markdown(found)


def test_methods_that_no_two_tasks_share_are_not_merged(make_run: RunMaker) -> None:
    found = contexts(make_run, {("a", 5): 10.0, ("b", 20): 60.0})
    assert [section["methods"][0]["label"] for section in found["sections"]] == ["dt (context 5)", "dt (context 20)"]
    assert found["aggregate"]["methods"] == found["aggregate"]["comparisons"] == []
    assert len(found["aggregate"]["notes"]) == 2
    assert "## Over 2 tasks" in markdown(found)


@pytest.mark.parametrize(
    ("plan", "labels", "whole"),
    [
        # the tables differ: the published settings are one method
        ({("a", 5): 10.0, ("b", 20): 60.0}, ["dt", "dt"], ["dt"]),
        # on a, the context that b publishes is a choice of one's own
        (
            {("a", 5): 10.0, ("a", 20): 50.0, ("b", 20): 60.0},
            ["dt (context as published)", "dt (context 20)", "dt (context as published)"],
            ["dt (context as published)"],
        ),
        (
            {("a", 5): 10.0, ("a", 7): 50.0, ("b", 20): 60.0, ("b", 7): 70.0},
            ["dt (context as published)", "dt (context 7)"] * 2,
            ["dt (context as published)", "dt (context 7)"],
        ),
    ],
)
def test_what_a_task_publishes_is_no_choice(
    make_run: RunMaker, plan: dict[tuple[str, int], float], labels: list[str], whole: list[str]
) -> None:
    found = contexts(make_run, plan, {"a": 5, "b": 20})
    assert [method["label"] for section in found["sections"] for method in section["methods"]] == labels
    assert [row["label"] for row in found["aggregate"]["methods"]] == whole


@pytest.mark.parametrize("preset", list(PRESETS))
def test_a_preset_is_one_method_on_all_rows_of_the_table(preset: str, make_run: RunMaker) -> None:
    settings: dict[str, Any] = {"steps": 1_000, "episodes": 1, "rollout": False}
    paths = []
    for task in ("hopper-medium", "reacher2d-medium", "kitchen-complete"):
        told = Experiment.of(preset, task)
        paths.append(make_run(task, preset=preset, published=told.published, config=told.to_json(), **settings))
    assert [group.label for section in make_sections(read_runs(paths)) for group in section.groups] == [preset] * 3


def test_what_is_asked_for_and_watched_tells_no_tasks_apart(make_run: RunMaker) -> None:
    settings: dict[str, Any] = {"steps": 1_000, "episodes": 1, "rollout": False}
    paths = [make_run("a", task="a", **settings), make_run("b", task="b", targets=(1.0, 2.0), every=500, **settings)]
    assert [section["methods"][0]["label"] for section in numbers(paths)["sections"]] == ["lamo", "lamo"]


def test_returns_of_tasks_have_no_common_unit(make_run: RunMaker) -> None:
    paths = [make_run(t, task=t, value=lambda s, t, e: (1.0, None), rollout=False) for t in ("a", "b")]
    assert numbers(paths)["aggregate"] is None


def test_the_seed_is_of_the_bootstrap_alone(make_run: RunMaker) -> None:
    paths = [make_run(f"{seed}", seed=seed, rollout=False) for seed in range(4)]
    first, again, other = (numbers(paths, seed)["sections"][0]["methods"][0] for seed in (0, 0, 1))
    assert first == again != other
    windows = [method["targets"][0]["last_window"] for method in (first, other)]
    assert windows[0]["estimate"] == windows[1]["estimate"]


def test_held_out_error(make_run: RunMaker) -> None:
    runs = [make_run(f"a{seed}", seed=seed, steps=1_000, every=500) for seed in (0, 1)]
    plain = numbers(runs)["sections"][0]["methods"][0]
    assert plain["holdout"] is None
    for seed, run in enumerate(runs):
        with (run / "metrics.jsonl").open("a") as file:
            for step, error in ((500, 0.4 + seed), (1_000, 0.2 + seed)):
                file.write(json.dumps({"step": step, "holdout_action_error": error}) + "\n")
    found = numbers(runs)["sections"][0]["methods"][0]
    points = [(point["step"], pytest.approx(point["loss"])) for point in found["holdout"]["points"]]
    assert points == [(500, 0.9), (1_000, 0.7)]
    assert found["holdout"]["last"] == pytest.approx(0.7)
    assert found["loss"] == plain["loss"]  # a row of its own does not hide the loss of its step


def test_the_last_held_out_error_is_of_the_last_evaluation(make_run: RunMaker) -> None:
    run = make_run(steps=1_000, every=500)
    errors = [{"step": step, "holdout_action_error": 1000.0 - step} for step in range(1, 402)]
    write_rows(run / "metrics.jsonl", errors)
    (method,) = numbers([run])["sections"][0]["methods"]
    assert len(method["holdout"]["points"]) <= MAX_POINTS  # means of neighbours
    assert held_out_error(method) == "599"
    errors.pop()
    write_rows(run / "metrics.jsonl", errors)
    assert held_out_error(numbers([run])["sections"][0]["methods"][0]) == "600"


def test_targets_that_differ_by_seed(make_run: RunMaker) -> None:
    """As `task_for_env` takes them from each seed's share of the data: a row stands for each run's own."""

    def runs(targets: list[tuple[float, ...]]) -> list[Any]:
        return [
            make_run(f"{len(targets)}{asked}{seed}", seed=seed, episodes=2, steps=1_000, every=1_000, rollout=False,
                     targets=asked, value=lambda s, t, e: 10.0 * t, config={"targets": None})
            for seed, asked in enumerate(targets)
        ]  # fmt: skip

    section = numbers(runs([(3.0, 5.0), (4.0, 6.0), (2.0, 7.0)]))["sections"][0]
    high, low = section["methods"][0]["targets"]
    assert (high["target"], high["last_window"]["values"]) == ("own #1", [50, 60, 70])
    assert (low["target"], low["last_window"]["values"]) == ("own #2", [30, 40, 20])
    assert section["methods"][0]["best_target"] == 0
    assert section["notes"][0] == (
        "lamo: its return targets differ by seed (seed 0: 3, 5; seed 1: 4, 6; seed 2: 2, 7); "
        "own #1 is each run's highest, and so on."
    )
    assert [cells[2] for cells, _ in method_rows(section)] == ["own #1", "own #2"]
    short = numbers(runs([(3.0, 5.0), (4.0,)]))["sections"][0]
    assert [target["target"] for target in short["methods"][0]["targets"]] == ["own #1"]
    assert "is left out" in short["notes"][0] and method_rows(short)[0][0][2:4] == ("own #1", "45.0 [45.0, 45.0]")
    shared = numbers(runs([(3.0, 5.0), (4.0, 5.0), (5.0,), (5.0, 7.0)]))["sections"][0]
    assert [target["target"] for target in shared["methods"][0]["targets"]] == [5]
    assert "some return targets were evaluated in some of its runs only" in shared["notes"][0]


def test_targets_chosen_from_the_data(make_run: RunMaker) -> None:
    runs = [make_run(f"a{seed}", seed=seed, steps=1_000, every=500) for seed in (0, 1)]
    assert numbers(runs)["sections"][0]["methods"][0]["auto_targets"] == []
    for seed, run in enumerate(runs):
        summary = json.loads((run / "summary.json").read_text())
        row = {"target": 52.0 + seed, "episodes": 5, "return_mean": 33.0 + seed, "score_mean": 44.0 + seed}
        choice = {"target": 52.0 + seed, "candidates": [], "evaluation": row if seed else None}
        write_json(run / "summary.json", {**summary, "auto_target": choice})
    section = numbers(runs)["sections"][0]
    assert section["methods"][0]["auto_targets"] == [
        {"seed": 0, "target": 52.0, "mean": None, "episodes": None},
        {"seed": 1, "target": 53.0, "mean": 45.0, "episodes": 5.0},
    ]
    said = auto_target_lines(section)
    assert said == [
        "lamo, return target chosen from the data alone: seed 0 asks for 52, score –; seed 1 asks for 53, score 45.0."
    ]
    for damaged in (3, {"target": "x"}, {"target": 1.0, "evaluation": [1]}):
        summary = json.loads((runs[0] / "summary.json").read_text())
        write_json(runs[0] / "summary.json", {**summary, "auto_target": damaged})
        assert len(numbers(runs)["sections"][0]["methods"][0]["auto_targets"]) in (1, 2)


def test_relabelled_data_are_pointed_out(make_run: RunMaker) -> None:
    paths = [make_run(f"{seed}", seed=seed) for seed in range(2)]
    assert not any("relabelled" in note for note in numbers(paths)["sections"][0]["notes"])
    for path in paths:
        told = json.loads((path / "provenance.json").read_text())
        told["dataset"]["relabelled"] = ["delayed: \u202eat the end", 3]
        write_json(path / "provenance.json", told)
    notes = numbers(paths)["sections"][0]["notes"]
    words = "The data's rewards are relabelled (delayed: at the end; then 3); an evaluation pays the environment's own."
    assert notes.count(words) == 1
