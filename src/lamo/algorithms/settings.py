"""Hyper-parameters of each algorithm, as frozen dataclasses: no torch here, so that `--help` answers at once.

A docstring under a field is its help text on the command line.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from lamo.errors import LamoError


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def need_positive(settings: Any, *names: str) -> None:
    """Raise `LamoError` for one of these settings that is not positive and finite; None passes."""
    for name in names:
        value = getattr(settings, name)
        if value is not None and not 0 < value < float("inf"):
            raise LamoError(f"{_flag(name)} {value} must be a positive number")


def need_at_least_one(settings: Any, *names: str) -> None:
    """Raise `LamoError` for one of these settings below 1; None passes."""
    for name in names:
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise LamoError(f"{_flag(name)} {value} must be at least 1")


def need_within(settings: Any, names: Iterable[str], low: float, high: float, *, ends: str = "[]") -> None:
    """Raise `LamoError` for one of these settings outside an interval, NaN too. `ends` says which of the two bounds
    belong to it: `[`, `]` do, `(`, `)` do not.
    """
    for name in names:
        value = getattr(settings, name)
        above = value >= low if ends[0] == "[" else value > low
        below = value <= high if ends[1] == "]" else value < high
        if not (above and below):
            raise LamoError(f"{_flag(name)} {value} must lie in {ends[0]}{low:g}, {high:g}{ends[1]}")


def check_chunk(settings: Any) -> None:
    """Raise `LamoError` for a chunk below 1, and for more actions executed than are predicted."""
    if settings.chunk < 1:
        raise LamoError(f"--chunk {settings.chunk} must be at least 1")
    if settings.execute is not None and not 1 <= settings.execute <= settings.chunk:
        raise LamoError(f"--execute {settings.execute} must lie between 1 and --chunk {settings.chunk}")


@dataclass(frozen=True)
class SequenceSettings:
    """Return-conditioned sequence modelling: Decision Transformer, Wiki-RL and LaMo are settings of it
    (docs/method.md)."""

    lm: str = "tiny"
    """Language model: `tiny` (embedded), a Hugging Face folder, or a name on the Hugging Face hub. Unused with
    initialise=scratch."""
    initialise: Literal["pretrained", "random", "scratch"] = "pretrained"
    """Weights to start from: the LM's own; the LM's shape with random weights (the control); or a small GPT-2 of
    layers × width × heads."""
    lm_seed: int | None = None
    """Seed of the LM's weights with initialise=random; None: the run's own. Runs of several seeds can share random
    weights only where this is given."""
    adapt: Literal["lora", "full", "frozen"] = "lora"
    """What of the Transformer trains: LoRA adapters, everything, or nothing."""
    layers: int = 3
    """Transformer blocks when initialise=scratch (DT: 3)."""
    width: int = 128
    """Width of the Transformer when initialise=scratch (DT: 128)."""
    heads: int = 1
    """Attention heads when initialise=scratch (DT: 1)."""
    lora_rank: int = 16
    """Rank of the adapters on the query/key/value projections."""
    lora_alpha: int = 32
    """Adapters are scaled by lora_alpha / lora_rank."""
    lora_dropout: float = 0.1
    """Dropout on the adapters' input."""
    lora_form: Literal["fused", "separate"] = "fused"
    """One pair of matrices for GPT-2's fused qkv projection (peft's own form), or a pair each for q, k and v (the
    paper's count)."""
    lora_bias: bool = False
    """Train the biases of the adapted projections too, as the paper does."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Number format of a frozen base; auto is bfloat16 where the device multiplies it fast, float32 elsewhere.
    Trainable parts are float32."""
    attention: Literal["auto", "eager", "sdpa"] = "auto"
    """Attention kernel of transformers' own blocks, which are used where one is named; auto leaves it to the blocks
    (of transformers' own eager on a CPU, which is faster for short windows, and sdpa on CUDA)."""
    blocks: Literal["auto", "fast", "library"] = "auto"
    """What computes the Transformer: few large products with their gradients by hand (GPT-2 shapes), or transformers'
    own modules; auto is fast where it can be. The same function; only the draws of dropout differ."""
    gradient_checkpointing: bool = False
    """Keep one residual per block and compute the rest again in the backward pass: less memory, more time, the same
    numbers."""
    cuda_graph: bool = False
    """On a GPU: record a training step once and replay it, so that no time goes into launching its kernels. The same
    step; needs the fast blocks, without --gradient-checkpointing and --cosine-weight."""
    micro_batch: int | None = None
    """Windows of a batch, or blocks of text, that pass through the model at a time; their gradients add up to the same
    step in less memory. None: on a CPU as many as keep about 384 MiB for their gradients, on a GPU all."""
    positions: Literal["off", "on"] = "off"
    """GPT-2's own position embeddings on the control path; the timestep embedding does that work. Text always has
    them."""
    embedding: Literal["mlp", "linear"] = "mlp"
    """How return, state and action become tokens: W1 x + W2 gelu(W1 x), or one linear map."""
    action_head: Literal["mlp", "linear"] = "mlp"
    """From the state token to the action: Linear-GELU-Linear, or one linear map."""
    tanh_head: bool = False
    """Squash continuous actions into [-1, 1] by tanh, which is the box that they are scaled to."""
    chunk: int = 1
    """Actions that are predicted at once: those of this step and of the next chunk - 1 (ACT, arXiv 2304.13705;
    Diffusion Policy, arXiv 2303.04137)."""
    execute: int | None = None
    """How many of them are executed, without looking at the policy again, before the next are predicted; by default all
    of them."""
    context: int = 20
    """Steps (return, state, action) that the model sees, K."""
    span: int | None = None
    """Banded attention, beyond the paper: each token sees the last `span` steps at every layer, so that acting costs
    three tokens per step, not 3 × context; train on a longer context than the span. None: the whole window, as
    published."""
    dropout: float = 0.1
    """Dropout of the Transformer while it trains on behaviour (residual, attention and embedding)."""
    learning_rate: float = 1e-4
    """AdamW's learning rate for embeddings and heads (and all of a Transformer that is trained in full)."""
    lm_learning_rate: float | None = None
    """Learning rate of adapters, or of a pretrained Transformer trained in full; by default the same as
    learning_rate."""
    weight_decay: float = 1e-5
    """AdamW's weight decay, on matrices that train."""
    warmup_steps: int = 500
    """Steps of linear warm-up, constant after it (published: 2500, for runs of 100 000 steps)."""
    clip: float = 0.25
    """Largest norm of the gradient."""
    language_weight: float = 0.1
    """λ: total loss = action loss + λ · language cross-entropy; 0 costs nothing."""
    corpus: tuple[str, ...] = ("self",)
    """Text of the language loss: text file(s), a Hugging Face dataset name, `self` (sampled once from the LM
    itself, cached), or `none`."""
    text_dropout: bool = False
    """Dropout of the Transformer on text too, as published. Off by default: an LM that was pretrained without dropout,
    as `tiny` was, reads text much worse with it (4.3 -> 6.1 nats per token)."""
    text_batch: int = 2
    """Blocks of text per step."""
    text_block: int = 1024
    """Tokens per block of text; cut to the LM's context."""
    cosine_weight: float = 0.0
    """Wiki-RL: weight of the largest cosine similarity between each input token and the centres of the LM's word
    embeddings, which is maximised; 0 costs nothing."""
    cosine_steps: int = 5_000
    """Steps by which that weight has vanished, on a logistic curve that is at one half in their middle (published:
    5000, and 15 000 with a language loss, of 100 000)."""
    cosine_centres: int = 1_000
    """Centres that the word embeddings are clustered into by k-means; cut to the LM's vocabulary."""

    def __post_init__(self) -> None:
        check_chunk(self)
        whole = ("layers", "width", "heads", "lora_rank", "context", "text_batch", "text_block")
        need_at_least_one(self, *whole, "cosine_steps", "cosine_centres", "micro_batch")
        need_within(self, ["dropout", "lora_dropout"], 0, 1, ends="[)")
        need_positive(self, "learning_rate", "lm_learning_rate", "clip", "lora_alpha")
        weights = ["language_weight", "cosine_weight", "weight_decay", "warmup_steps"]
        need_within(self, weights, 0, float("inf"), ends="[)")
        if self.cuda_graph and (self.gradient_checkpointing or self.cosine_weight > 0):
            why = (
                "--gradient-checkpointing"
                if self.gradient_checkpointing
                else "--cosine-weight, which changes as it goes"
            )
            raise LamoError(f"--cuda-graph does not go with {why}; drop one of them")
        if self.blocks == "fast" and self.attention != "auto":
            raise LamoError(f"--attention {self.attention} is a kernel of the other blocks; drop --blocks fast, or it")
        if self.span is not None and not 1 <= self.span <= self.context:
            raise LamoError(f"--span {self.span} must lie between 1 and --context {self.context}")
        if self.span is not None and self.positions == "on":
            raise LamoError("--span needs --positions off: a token must be the same wherever it stands")
        if self.initialise == "scratch":
            if self.adapt != "full":
                raise LamoError(
                    f"--initialise scratch with --adapt {self.adapt} would leave random weights "
                    f"untrained; use --adapt full"
                )
            if self.language_weight > 0:
                raise LamoError("--initialise scratch has no language model, so --language-weight must be 0")
            if self.cosine_weight > 0:
                raise LamoError("--initialise scratch has no words, so --cosine-weight must be 0")
            if self.width % self.heads:
                raise LamoError(f"--width {self.width} is not divisible by --heads {self.heads}")
        if self.language_weight > 0 and self.corpus in ((), ("none",)):
            raise LamoError("--corpus none with a --language-weight above 0; give a corpus or --language-weight 0")
        if self.language_weight > 0 and self.adapt == "frozen":
            raise LamoError("--adapt frozen trains nothing that reads text; use --language-weight 0")
        if self.lora_form == "separate" and self.adapt != "lora":
            raise LamoError(f"--lora-form separate has no effect with --adapt {self.adapt}; drop it")

    @property
    def idle(self) -> dict[str, str]:
        """Names of the settings that the chosen start and adaptation leave without effect -> the flag that does."""
        of_lm, of_scratch = ("lm", "corpus", "text_dropout", "text_batch", "text_block"), ("layers", "width", "heads")
        start, adaptation = f"--initialise {self.initialise}", f"--adapt {self.adapt}"
        found = dict.fromkeys(of_lm if self.initialise == "scratch" else of_scratch, start)
        if self.initialise != "random":
            found["lm_seed"] = start
        if self.adapt != "lora":
            found |= dict.fromkeys(("lora_rank", "lora_alpha", "lora_dropout", "lora_bias"), adaptation)
        if self.adapt == "frozen":
            found["lm_learning_rate"] = adaptation
        return found
