"""Hyper-parameters of the methods that lamo is compared with: no torch here, so that `--help` answers at once.

A docstring under a field is its help text on the command line. Defaults are those of the original papers or of CORL
(arXiv 2210.07105, github.com/corl-team/CORL); docs/baselines.md names the source of each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lamo.algorithms.settings import check_chunk, need_at_least_one, need_positive, need_within


@dataclass(frozen=True)
class BCSettings:
    """Behaviour cloning: a network from observation to action, trained to answer as the data does."""

    top_fraction: float = 1.0
    """Share of the episodes, those of the highest return, that is imitated (%BC): 0.1 imitates the best tenth."""
    layers: int = 2
    """Hidden layers."""
    width: int = 256
    """Units of each hidden layer."""
    dropout: float = 0.0
    """Dropout after each hidden layer."""
    learning_rate: float = 3e-4
    """Learning rate of AdamW."""
    weight_decay: float = 0.0
    """AdamW's weight decay, on matrices."""
    chunk: int = 1
    """Actions that are predicted at once: those of this step and of the next chunk - 1 (ACT, arXiv 2304.13705)."""
    execute: int | None = None
    """How many of them are executed before the next are predicted; by default all of them."""

    def __post_init__(self) -> None:
        check_chunk(self)
        need_within(self, ["top_fraction"], 0, 1, ends="(]")
        need_at_least_one(self, "layers", "width")
        need_within(self, ["dropout"], 0, 1, ends="[)")
        need_positive(self, "learning_rate")
        need_within(self, ["weight_decay"], 0, float("inf"), ends="[)")


@dataclass(frozen=True)
class ValueSettings:
    """What the methods that learn values have in common."""

    layers: int = 2
    """Hidden layers of each network."""
    width: int = 256
    """Units of each hidden layer."""
    discount: float = 0.99
    """γ: what a reward one step later is worth."""
    polyak: float = 0.005
    """Share by which the target networks move towards the trained ones after each update."""
    reward_scaling: Literal["return-range", "minus-one", "none"] = "none"
    """return-range multiplies rewards by horizon / (highest - lowest return in the data), so that their size does not
    depend on the task; minus-one subtracts 1 from each; none leaves them as they are."""

    def __post_init__(self) -> None:
        need_at_least_one(self, "layers", "width")
        need_within(self, ["discount"], 0, 1, ends="[)")
        need_within(self, ["polyak"], 0, 1, ends="(]")


@dataclass(frozen=True)
class IQLSettings(ValueSettings):
    """Implicit Q-learning (Kostrikov et al. 2021, arXiv 2110.06169): values from the actions of the data alone, then
    imitation weighted by advantage."""

    expectile: float = 0.7
    """τ: which expectile of Q over the actions of the data V is, in (0, 1); 0.5 is their mean, towards 1 their
    maximum."""
    temperature: float = 3.0
    """β: actions are imitated with weight exp(β · advantage); towards 0 it becomes behaviour cloning."""
    weight_clip: float = 100.0
    """Largest such weight."""
    policy: Literal["gaussian", "deterministic"] = "gaussian"
    """Of continuous actions: a Gaussian whose mean depends on the observation, or its mean alone under a squared
    error."""
    dropout: float = 0.0
    """Dropout after each hidden layer of the policy (published: 0.1 on Kitchen and Adroit)."""
    actor_learning_rate: float = 3e-4
    """Adam's learning rate of the policy."""
    actor_schedule: Literal["cosine", "constant"] = "cosine"
    """How the policy's learning rate goes: to 0 along a cosine over the steps of the run, or not at all."""
    critic_learning_rate: float = 3e-4
    """Adam's learning rate of Q and V."""
    reward_scaling: Literal["return-range", "minus-one", "none"] = "return-range"
    """return-range multiplies rewards by horizon / (highest - lowest return in the data), as published for locomotion;
    minus-one subtracts 1 from each (AntMaze); none leaves them as they are (Kitchen and Adroit)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        need_within(self, ["expectile"], 0, 1, ends="()")
        need_positive(self, "temperature", "weight_clip", "actor_learning_rate", "critic_learning_rate")
        need_within(self, ["dropout"], 0, 1, ends="[)")


@dataclass(frozen=True)
class CQLSettings(ValueSettings):
    """Conservative Q-learning (Kumar et al. 2020, arXiv 2006.04779): values of actions that the data does not have are
    pushed down. Continuous actions: CQL(H) with a soft actor; discrete ones: double Q-learning."""

    conservative_weight: float | None = None
    """How hard, α. By default 10 for continuous actions (CORL) and 1 for discrete ones."""
    sampled_actions: int = 10
    """Actions per state from each of three sources (uniform, the policy here, the policy at the next state) that stand
    for all actions; continuous actions only. The cost of a step is nearly proportional to it."""
    bound_margin: float = 0.1
    """Where actions span [-1, 1]: those of the data at -1 or 1, as clipping leaves them, or beyond, are learned as
    drawn anew at each step from the outermost margin so wide; 0 leaves them, and Q grows without end there.
    Continuous actions only."""
    actor_learning_rate: float = 3e-5
    """Adam's learning rate of the policy and of the entropy's weight; continuous actions only."""
    critic_learning_rate: float = 3e-4
    """Adam's learning rate of Q."""

    def __post_init__(self) -> None:
        super().__post_init__()
        need_within(self, ["bound_margin"], 0, 1, ends="[]")
        if self.conservative_weight is not None:
            need_within(self, ["conservative_weight"], 0, float("inf"), ends="[)")
        need_at_least_one(self, "sampled_actions")
        need_positive(self, "actor_learning_rate", "critic_learning_rate")


@dataclass(frozen=True)
class TD3BCSettings(ValueSettings):
    """TD3+BC (Fujimoto and Gu 2021, arXiv 2106.06860): TD3 whose policy is also held to the actions of the data."""

    alpha: float = 2.5
    """α: weight of the value against imitation; values are divided by their mean size first."""
    policy_noise: float = 0.2
    """Standard deviation of the noise on the target policy's actions, where actions span [-1, 1]."""
    noise_clip: float = 0.5
    """Largest size of that noise."""
    policy_delay: int = 2
    """Gradient steps of Q for each of the policy and the target networks."""
    actor_learning_rate: float = 3e-4
    """Adam's learning rate of the policy."""
    critic_learning_rate: float = 3e-4
    """Adam's learning rate of Q."""

    def __post_init__(self) -> None:
        super().__post_init__()
        need_positive(self, "alpha", "actor_learning_rate", "critic_learning_rate")
        need_within(self, ["policy_noise", "noise_clip"], 0, float("inf"), ends="[)")
        need_at_least_one(self, "policy_delay")


@dataclass(frozen=True)
class BCQSettings(ValueSettings):
    """Batch-constrained Q-learning: only actions that the data's policy might take are considered. Continuous actions
    are proposed by a variational autoencoder and perturbed (Fujimoto et al. 2018, arXiv 1812.02900); discrete ones must
    be likely enough (Fujimoto et al. 2019, arXiv 1910.01708)."""

    perturbation: float = 0.05
    """Φ: how far a proposed action may be moved, where actions span [-1, 1]; continuous actions only."""
    minimum_weight: float = 0.75
    """λ: weight of the lower of two Q against the higher one in a target; continuous actions only."""
    candidates: int = 10
    """Actions proposed per next state in a target; continuous actions only."""
    acting_candidates: int = 100
    """Actions proposed when the policy acts; continuous actions only."""
    autoencoder_width: int = 750
    """Units of each of the autoencoder's two hidden layers; continuous actions only."""
    threshold: float = 0.3
    """τ: an action is considered if it is at least so likely as τ times the likeliest one; discrete actions only."""
    learning_rate: float | None = None
    """Adam's learning rate. By default 1e-3 for continuous actions and 3e-4 for discrete ones."""

    def __post_init__(self) -> None:
        super().__post_init__()
        need_within(self, ["perturbation"], 0, 2, ends="[]")
        need_within(self, ["minimum_weight", "threshold"], 0, 1)
        need_at_least_one(self, "candidates", "acting_candidates", "autoencoder_width")
        need_positive(self, "learning_rate")


@dataclass(frozen=True)
class NFQSettings:
    """Neural fitted Q iteration (Riedmiller 2005): regression on r + γ max Q, with Q frozen between regressions; what
    Q-learning does without any care for actions that the data does not have. Discrete actions."""

    iteration_steps: int = 1_000
    """Gradient steps of each regression, after which its targets are computed anew."""
    layers: int = 2
    """Hidden layers."""
    width: int = 256
    """Units of each hidden layer."""
    discount: float = 0.99
    """γ: what a reward one step later is worth."""
    learning_rate: float = 3e-4
    """Learning rate of Adam."""
    reward_scaling: Literal["return-range", "minus-one", "none"] = "none"
    """return-range multiplies rewards by horizon / (highest - lowest return in the data); minus-one subtracts 1 from
    each; none leaves them as they are."""

    def __post_init__(self) -> None:
        need_at_least_one(self, "iteration_steps", "layers", "width")
        need_within(self, ["discount"], 0, 1, ends="[)")
        need_positive(self, "learning_rate")
