"""Evaluation: environment steps per second with all episodes at once, as a ratio to one episode at a time.

    python benchmarks/evaluation.py                   # a 6-layer, 256-wide GPT-2 with LoRA
    python benchmarks/evaluation.py --lm tiny         # the embedded language model
    python benchmarks/evaluation.py --preset dt       # a Decision Transformer
    python benchmarks/evaluation.py --env HalfCheetah-v5 --context 20

The policy is untrained: what it does is of no account here, how long it takes is. Both ways run in turn, in one
process, with the environments already open; the figures are medians of the rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
from transformers.utils import logging

from lamo.algorithms import PRESETS, get_algorithm, settings_type
from lamo.config import Spec
from lamo.data.collect import collect
from lamo.evaluate import EnvPool, rollout

AIM = 6.0


def policy(pool: EnvPool, preset: str, lm: str, context: int, horizon: int):
    """An untrained policy of that preset for the environments of `pool`."""
    episodes = collect(pool.env_id, 2, policy="random", horizon=min(horizon, 100))
    spec = Spec(
        observation_dim=pool.observation_dim,
        action_dim=pool.action_dim,
        action_kind="continuous",
        action_low=tuple(np.asarray(pool.action_low).tolist()),
        action_high=tuple(np.asarray(pool.action_high).tolist()),
        horizon=horizon,
        return_scale=10.0,
        targets=(40.0, 76.0),
        env=pool.env_id,
    )
    algorithm, changes, _ = PRESETS[preset]
    changes = {**changes, "language_weight": 0.0, "corpus": ("none",), "lm": lm, "context": context}
    if changes.get("initialise") != "scratch":
        changes["initialise"] = "random"  # as fast as any weights
    learner = get_algorithm(algorithm)(settings_type(algorithm)(**changes), spec, episodes, device="cpu", seed=0)
    return learner.policy()


def shape_of(layers: int, width: int, folder: str) -> str:
    """A GPT-2 of that size with random weights and a tokenizer of two words, as a folder."""
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    config = GPT2Config(n_layer=layers, n_embd=width, n_head=width // 64, vocab_size=2, n_positions=128, **ends)
    GPT2LMHeadModel(config).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0, "b": 1}, "a"))).save_pretrained(folder)
    return folder


def speed(act, pool: EnvPool, targets: int, episodes: int, parallel: int, horizon: int) -> float:
    """Environment steps per second of one rollout."""
    start = time.perf_counter()
    records = rollout(
        act, pool.env_id, [40.0, 76.0][:targets], episodes, 0, max_parallel=parallel, horizon=horizon, pool=pool
    )
    return sum(record["length"] for record in records) / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--env", default="Reacher2d-v0", help="Gymnasium id")
    parser.add_argument("--preset", default="lamo", choices=PRESETS, help="whose policy")
    parser.add_argument(
        "--lm", default=None, help="language model; by default a GPT-2 of 6 layers and width 256 with random weights"
    )
    parser.add_argument("--context", type=int, default=5, help="steps that the policy sees (5, as on Reacher2d)")
    parser.add_argument("--episodes", type=int, default=40, help="episodes at once")
    parser.add_argument("--single", type=int, default=4, help="episodes timed one at a time")
    parser.add_argument("--rounds", type=int, default=3, help="times that each way is timed")
    parser.add_argument("--horizon", type=int, default=100, help="steps of an episode")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of PyTorch")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder, EnvPool(arguments.env) as pool:
        lm = arguments.lm or shape_of(6, 256, folder)
        act = policy(pool, arguments.preset, lm, arguments.context, arguments.horizon)
        speed(act, pool, 2, arguments.episodes // 2, arguments.episodes, 5)  # opens the environments, warms the kernels
        at_once, one_by_one = [], []
        for _ in range(arguments.rounds):
            one_by_one.append(speed(act, pool, 1, arguments.single, 1, arguments.horizon))
            at_once.append(speed(act, pool, 2, arguments.episodes // 2, arguments.episodes, arguments.horizon))
    ratio = statistics.median(a / b for a, b in zip(at_once, one_by_one, strict=True))
    result = {
        "env": arguments.env,
        "preset": arguments.preset,
        "context": arguments.context,
        "episodes": arguments.episodes,
        "threads": arguments.threads,
        "steps_per_second_at_once": round(statistics.median(at_once)),
        "steps_per_second_one_by_one": round(statistics.median(one_by_one)),
        "ratio": round(ratio, 2),
        "aim": AIM,
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
