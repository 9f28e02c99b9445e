"""DT, Wiki-RL and LaMo: one learner of return-conditioned sequence models, and the policy it makes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lamo.algorithms.deployed import MISFIT, Deployed
from lamo.algorithms.late import late_rows
from lamo.algorithms.resident import ResidentWindows
from lamo.algorithms.sequence_losses import DeviceBatch, SequenceBatch
from lamo.algorithms.sequence_policy import SequencePolicy
from lamo.algorithms.sequence_step import RecordedStep, gradient_step
from lamo.algorithms.settings import SequenceSettings
from lamo.config import Spec
from lamo.data.actions import Scaling, action_scaling
from lamo.data.episodes import Episodes
from lamo.data.text import random_blocks
from lamo.data.windows import WindowBatch, Windows
from lamo.errors import LamoError
from lamo.models.alignment import word_centres
from lamo.models.cpu import keep_freed_memory
from lamo.models.dropout import Masks
from lamo.models.made import deployed_model, scratch_model
from lamo.models.pretrained import forget_words, load_language_model, weights_digest
from lamo.models.sequence import DecisionModel
from lamo.models.text import corpus_tokens

MAY_DIFFER = ("learning_rate", "lm_learning_rate", "weight_decay", "warmup_steps", "clip", "lm_seed")
PERPLEXITY_BLOCKS = 16  # held-out blocks read for the perplexity before and after


class SequenceLearner:
    """Trains a `DecisionModel` on windows of `episodes`. See `lamo.algorithms` for the protocol."""

    name = "sequence"

    def __init__(
        self,
        settings: SequenceSettings,
        spec: Spec,
        episodes: Episodes,
        *,
        device: str = "cpu",
        batch_size: int = 64,
        seed: int = 0,
        steps: int | None = None,  # of the run; warm-up has a length of its own
    ) -> None:
        keep_freed_memory()
        self.settings, self.spec, self.device, self.batch_size = settings, spec, torch.device(device), batch_size
        self.seed = seed
        if settings.cuda_graph and self.device.type != "cuda":
            raise LamoError(f"--cuda-graph: the device is {self.device}, and a CUDA graph needs a GPU; drop it")
        self.statistics = episodes.statistics()
        self.windows = Windows(episodes, settings.context, spec.return_scale, self.statistics)
        self.scaling: Scaling | None = None  # of actions, to [-1, 1]
        if spec.action_kind == "continuous":
            self.scaling = action_scaling(spec.action_low, spec.action_high, episodes.extremes("actions"))
        self.rescaling = None if self.scaling is None or self.scaling.identity else self.scaling
        self.resident: ResidentWindows | None = None
        if ResidentWindows.fit(self.windows, self.device):
            self.resident = ResidentWindows(self.windows, self.rescaling, settings.chunk, self.device)
        self.text: tuple[np.ndarray, np.ndarray] | None = None
        self.lm_digest: str | None = None
        torch.manual_seed(seed)
        if settings.initialise == "scratch":
            lm = scratch_model(settings, seed)
        else:
            drawn = None
            if settings.initialise == "random":
                drawn = seed if settings.lm_seed is None else settings.lm_seed
            lm, tokenizer = load_language_model(settings.lm, random_seed=drawn)
            self.lm_digest = weights_digest(lm)
            if settings.corpus not in ((), ("none",)):
                context = getattr(lm.config, "max_position_embeddings", None) or 1024
                self.block = min(settings.text_block, context)
                self.text = corpus_tokens(settings.corpus, lm, tokenizer, self.block, self.device)
        self.centres: Tensor | None = None  # of the word embeddings, for the alignment term
        if settings.cosine_weight > 0 and self.lm_digest is not None:
            self.centres = word_centres(lm, self.lm_digest, settings.cosine_centres).to(self.device)
        self.lm_parameters = sum(p.numel() for p in lm.parameters())
        if self.text is None and self.centres is None and settings.adapt != "full":
            forget_words(lm)
        self.model = DecisionModel(lm, settings, spec, self.device).to(self.device).train()
        # rows of windows, and of text, that pass through the model at a time
        self.micro_batch, self.micro_text = (
            settings.micro_batch or self.model.backbone.rows_at_a_time(tokens)
            for tokens in (3 * settings.context, settings.text_block)
        )
        if settings.cuda_graph and not self.model.backbone.fast:
            raise LamoError("--cuda-graph: only the fast blocks can be recorded (--blocks); drop it")
        self.recorded: RecordedStep | None = None
        self.optimizer = self._optimizer()
        self.steps = 0
        self.late = False

    def _optimizer(self) -> torch.optim.Optimizer:
        """AdamW; groups: the Transformer's own parameters and the rest, each with and without weight decay (norms,
        biases, tables).

        Parameters are told apart by identity, not by name: the released code matches a string that never occurs.
        """
        settings = self.settings
        lm_rate = settings.learning_rate if settings.lm_learning_rate is None else settings.lm_learning_rate
        groups = []
        in_lm = {id(p) for p in self.model.backbone.parameters()}
        for of_lm, rate in ((True, lm_rate), (False, settings.learning_rate)):
            params = [p for p in self.model.parameters() if p.requires_grad and (id(p) in in_lm) == of_lm]
            for decay, chosen in (
                (settings.weight_decay, [p for p in params if p.ndim >= 2]),
                (0.0, [p for p in params if p.ndim < 2]),
            ):
                if chosen:
                    at = torch.tensor(rate, device=self.device) if settings.cuda_graph else rate
                    groups.append({"params": chosen, "lr": at, "peak": rate, "weight_decay": decay})
        return torch.optim.AdamW(groups, eps=1e-6, fused=True, capturable=settings.cuda_graph)

    def batches(self, rng: np.random.Generator) -> Iterator[SequenceBatch]:
        """An endless stream, all of it drawn with `rng`."""
        reads = self.text is not None and self.settings.language_weight > 0
        while True:
            steps = self.windows.draw(rng, self.batch_size)
            windows, wanted = self._windows(steps) if self.resident is None else (None, None)
            text = None
            if reads and self.text is not None:
                text = random_blocks(self.text[0], self.block + 1, self.settings.text_batch, rng)
            yield SequenceBatch(steps, windows, text, wanted)

    def _windows(self, steps: np.ndarray) -> tuple[WindowBatch, tuple[np.ndarray, np.ndarray] | None]:
        """Windows with scaled actions, and with chunks what is to be predicted."""
        windows, wanted = self.windows.at(steps), None
        scaling = self.rescaling
        if scaling is not None:  # padding stays zero
            windows = windows._replace(actions=scaling.to_unit(windows.actions) * windows.mask[..., None])
        if self.settings.chunk > 1:
            actions, real = self.windows.futures(steps, self.settings.chunk)
            wanted = (actions if scaling is None else scaling.to_unit(actions)), real
        return windows, wanted

    def on_device(self, batch: SequenceBatch) -> DeviceBatch:
        """What a gradient step reads."""
        text = None if batch.text is None else torch.from_numpy(batch.text).to(self.device, non_blocking=True)
        if self.resident is not None:
            return self.resident.at(batch.steps, text)
        assert batch.windows is not None
        padded = self.settings.cuda_graph or not batch.windows.mask.all()
        returns_to_go, observations, actions, timesteps, mask = (
            torch.from_numpy(array).to(self.device, non_blocking=True) for array in batch.windows
        )
        wanted, real = actions, mask
        if batch.wanted is not None:
            wanted, real = (torch.from_numpy(array).to(self.device, non_blocking=True) for array in batch.wanted)
        return DeviceBatch(returns_to_go, observations, actions, timesteps, mask, wanted, real, text, bool(padded))

    def update(self, batch: SequenceBatch) -> dict[str, float]:
        """One step of AdamW on action loss + λ · language loss. The text forward happens only where the batch has
        text. Waits for the numbers of the step, unless `late`: a `LateRow` then."""
        return self.update_together([self], [batch])[0]

    @staticmethod
    def update_together(
        learners: Sequence[SequenceLearner], batches: Sequence[SequenceBatch]
    ) -> list[dict[str, float]]:
        """A step of each of S learners, whose shared frozen Transformer runs once over all their batches.

        Learners must have passed `pack` (one alone need not). Gradients do not mix: each run's rows reach its own
        parameters only.
        """
        first = learners[0]
        for learner in learners:
            if not learner.model.training:  # to set it walks through all modules: a quarter of a GPU's step
                learner.model.train()
            learner._warm_up()
        there = [learner.on_device(batch) for learner, batch in zip(learners, batches, strict=True)]
        if first.settings.cuda_graph:
            values = RecordedStep.of(learners)(learners, there, first.steps)
        else:
            masks = Masks([learner.seed for learner in learners], first.steps, first.device)
            values = gradient_step(learners, there, masks)
        rates = [learner._took() for learner in learners]
        rows = late_rows(values, rates)
        return [row if first.late else row.read() for row in rows]

    def _warm_up(self) -> None:
        """Set the learning rates of the next step."""
        self.warmth = min(1.0, (self.steps + 1) / max(1, self.settings.warmup_steps))
        for group in self.optimizer.param_groups:
            rate = group["peak"] * self.warmth
            if isinstance(group["lr"], Tensor):  # which a recorded step reads where it is
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def _took(self) -> dict[str, float]:
        """Count a step, and tell of it what the host knows."""
        self.steps += 1
        return {"learning_rate": self.settings.learning_rate * self.warmth}

    @staticmethod
    def pack(learners: Sequence[SequenceLearner]) -> str | None:
        """Let learners share the first one's frozen weights, for `update_together`. None, or why they cannot.

        They may differ in what changes no shape: seeds, data, learning rates, weight decay, warm-up, clipping.
        """
        first = learners[0]
        if first.settings.adapt == "full":
            return "the whole Transformer trains in each run"
        if not first.model.backbone.fast or first.settings.lora_bias:
            return "only the fast blocks with all biases frozen can be shared (--blocks, --lora-bias)"
        for other in learners[1:]:
            for field in fields(first.settings):
                mine, theirs = (getattr(learner.settings, field.name) for learner in (first, other))
                if mine != theirs and field.name not in MAY_DIFFER:
                    return f"--{field.name.replace('_', '-')} is {mine} in one run and {theirs} in another"
            if (first.batch_size, first.device) != (other.batch_size, other.device):
                return "batch size or device differ"
            pairs = list(zip(first.model.backbone.parameters(), other.model.backbone.parameters(), strict=True))
            if not all(a.requires_grad or torch.equal(a, b) for a, b in pairs):
                return "the frozen weights differ; random ones are equal only with one --lm-seed"
            for a, b in pairs:
                if not a.requires_grad:
                    b.data = a.data
            if first.resident is not None and other.resident is not None:
                other.resident.share(first.resident)
            other.recorded = None  # it reads the weights of before
        return None

    @torch.no_grad()
    def perplexity(self) -> float | None:
        """Perplexity of held-out text under the Transformer as it is now, or None where the run has no text."""
        if self.text is None:
            return None
        self.model.eval()
        ids, length = self.text[1], self.block + 1
        n = min(PERPLEXITY_BLOCKS, max(1, (len(ids) - 1) // self.block))
        blocks = np.stack(
            [ids[i * self.block : i * self.block + length] for i in range(n) if i * self.block + length <= len(ids)]
        )
        losses = [
            self.model.backbone.text_loss(torch.from_numpy(b[None].astype(np.int64)).to(self.device)) for b in blocks
        ]
        return math.exp(float(torch.stack(losses).mean()))

    def policy(self) -> SequencePolicy:
        """A policy that acts with this learner's model, whatever its weights are at that moment."""
        return SequencePolicy(self.model, self.settings, self.spec, self.statistics, self.scaling)

    def state_dict(self) -> dict[str, Tensor]:
        """Trainable weights, optimiser moments and the step: with the config, all that goes on. Frozen weights come
        from the LM again."""
        state = {f"model.{k}": v for k, v in self._trained().items()}
        for i, values in self.optimizer.state_dict()["state"].items():
            state |= {f"optimizer.{i}.{k}": torch.as_tensor(v) for k, v in values.items()}
        if self.centres is not None:  # k-means on several threads does not round alike twice
            state["centres"] = self.centres
        if (box := self._action_box()) is not None:
            state["action_box"] = box
        return state | {"steps": torch.tensor(self.steps)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """The inverse of `state_dict`. Raises `LamoError` if the state is of another model."""
        box, known = self._action_box(), state.get("action_box")
        alike = torch.equal(box, known.cpu()) if box is not None and known is not None else box is known
        if not alike:
            raise LamoError(
                "the checkpoint learned actions in another box, or as they were before lamo scaled them to [-1, 1]; "
                "start over with --config and a new --out"
            )
        trained = self._trained()
        given = {k[len("model.") :]: v for k, v in state.items() if k.startswith("model.")}
        if given.keys() != trained.keys() or any(given[k].shape != trained[k].shape for k in trained):
            raise LamoError(
                "the checkpoint is of another model than the config describes; was the config or the LM changed?"
            )
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(given[name])
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in state.items():
            if key.startswith("optimizer."):
                _, i, field = key.split(".", 2)
                moments.setdefault(int(i), {})[field] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        self.recorded = None  # it writes to the moments of before
        if self.centres is not None:
            self.centres = state["centres"].to(self.device)
        self.steps = int(state["steps"])

    def _action_box(self) -> Tensor | None:
        """(2, A) lower and upper bounds between which actions are scaled to [-1, 1]; None where nothing is."""
        return None if self.rescaling is None else torch.from_numpy(np.stack(self.rescaling).astype(np.float32))

    def _trained(self) -> dict[str, Tensor]:
        return {k: p for k, p in self.model.named_parameters() if p.requires_grad}

    def summary(self) -> dict[str, Any]:
        """Parameter counts. `lora_share`: adapters (and biases trained with them) over the LM's own parameters;
        None without LoRA."""
        parameters = list(self.model.parameters())
        total, trainable = (
            sum(p.numel() for p in ps) for ps in (parameters, [p for p in parameters if p.requires_grad])
        )
        lora = sum(p.numel() for p in self.model.backbone.parameters() if p.requires_grad)
        return {
            "parameters": {
                "total": total,
                "frozen": total - trainable,
                "trainable": trainable,
                "lm": self.lm_parameters,
                "lora_share": lora / self.lm_parameters if self.settings.adapt == "lora" else None,
            },
            "base_dtype": str(self.model.backbone.base_dtype).removeprefix("torch."),
            "lm_digest": self.lm_digest,
        }

    def export(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What acting needs: every weight of the control path (no vocabulary), and settings, spec, statistics, the box
        that actions are scaled from, LM shape as JSON."""
        skip = text_only_names(self.model)
        tensors = {k: v for k, v in self.model.state_dict().items() if k not in skip}
        of = Deployed(self.settings, self.spec, self.statistics, self.scaling)
        backbone = self.model.backbone
        dtype = str(backbone.product_dtype).removeprefix("torch.")
        return tensors, {**of.to_json(self.name), "lm_config": backbone.lm.config.to_dict(), "product_dtype": dtype}

    @staticmethod
    def load_policy(tensors: dict[str, Tensor], metadata: dict[str, Any], device: str = "cpu") -> SequencePolicy:
        """The inverse of `export`. Products are in the format of training, however fast they are here; policies that
        do not name it take what this machine would train in."""
        try:
            settings, spec, statistics, scaling = Deployed.of_json(metadata)
            dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16, None: None}[metadata.get("product_dtype")]
            with torch.random.fork_rng(devices=[]):
                model = DecisionModel(deployed_model(metadata["lm_config"]), settings, spec, device, dtype)
        except (KeyError, TypeError, ValueError) as error:
            raise LamoError(f"{MISFIT}: {error}; copy the whole policy folder again") from None
        own = model.state_dict()
        wanted = own.keys() - text_only_names(model)
        if wanted - tensors.keys() or any(own[k].shape != tensors[k].shape for k in wanted):
            raise LamoError("policy.safetensors does not fit policy.json; copy the whole policy folder again")
        model.load_state_dict({k: tensors[k] for k in wanted}, strict=False)
        return SequencePolicy(model.to(device), settings, spec, statistics, scaling)


def text_only_names(model: DecisionModel) -> set[str]:
    """Names of weights that only text uses: token embeddings and the language head."""
    lm = model.backbone.lm
    unused = {
        id(module.weight) for module in (lm.get_input_embeddings(), lm.get_output_embeddings()) if module is not None
    }
    return {name for name, p in model.named_parameters(remove_duplicate=False) if id(p) in unused}
