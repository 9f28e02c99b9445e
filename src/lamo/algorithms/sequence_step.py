"""A gradient step of sequence learners: plain, or recorded as one CUDA graph and replayed."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lamo.algorithms.sequence_losses import DeviceBatch, behaviour_losses, language_losses, parts
from lamo.models.dropout import Masks

if TYPE_CHECKING:
    from lamo.algorithms.sequence import SequenceLearner

Values = list[dict[str, Tensor]]
"""Of each of S learners what is told of a step, () each."""

WARM_UP = 3  # ordinary steps before the recording: moments, workspaces and choices of kernels are made in them


def gradient_step(learners: Sequence[SequenceLearner], batches: Sequence[DeviceBatch], masks: Masks) -> Values:
    """Gradients of all learners, clipped, and a step of each optimiser. Nothing in it waits for a GPU.

    A large batch passes in parts (`--micro-batch`), and text after it: what one of them keeps for its gradients is gone
    before the next begins.
    """
    first, batch = learners[0], batches[0]
    for learner in learners:
        learner.optimizer.zero_grad(set_to_none=True)
    totals: Values = [{} for _ in learners]
    passes = [(behaviour_losses, rows) for rows in parts(len(batch.mask), first.micro_batch)]
    if batch.text is not None:
        passes += [(language_losses, rows) for rows in parts(len(batch.text), first.micro_text)]
    for losses, rows in passes:
        results = losses(learners, batches, rows, masks)
        torch.stack([loss for loss, _ in results]).sum().backward()
        for total, (loss, info) in zip(totals, results, strict=True):
            for key, value in {"loss": loss.detach(), **info}.items():
                total[key] = total[key] + value if key in total else value
    for learner, total in zip(learners, totals, strict=True):
        trained = [p for group in learner.optimizer.param_groups for p in group["params"]]
        total["gradient_norm"] = torch.nn.utils.clip_grad_norm_(trained, learner.settings.clip)
        learner.optimizer.step()
    return totals


class RecordedStep:
    """`gradient_step` without Python: the first few are made as usual, the next is recorded, and from then on the
    recording is replayed.

    What changes from step to step lies in tensors that the recording reads where they are: the batch, learning rates,
    the states of the generators of dropout, the optimisers' moments and counts of steps.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        # not the learners, who keep this: in a cycle the graph would wait for the garbage collector
        self.count, self.device = len(seeds), device
        self.masks = Masks(seeds, 0, device)
        self.stream = torch.cuda.Stream(device)  # the default one cannot be recorded
        self.calls = 0
        self.graph: torch.cuda.CUDAGraph | None = None

    @staticmethod
    def of(learners: Sequence[SequenceLearner]) -> RecordedStep:
        """The one that these learners have together, or a new one where any of them has been loaded or packed since."""
        found = learners[0].recorded
        if found is None or found.count != len(learners) or any(each.recorded is not found for each in learners):
            found = RecordedStep([each.seed for each in learners], learners[0].device)
            for each in learners:
                each.recorded = found
        return found

    def __call__(self, learners: Sequence[SequenceLearner], batches: Sequence[DeviceBatch], number: int) -> Values:
        """A step with these batches, after `number` others. The next call overwrites what it returns."""
        self.masks.begin(number)
        self.calls += 1
        if self.calls <= WARM_UP:
            usual = torch.cuda.current_stream(self.device)
            self.stream.wait_stream(usual)
            with torch.cuda.stream(self.stream), warnings.catch_warnings():
                # AdamW wonders why it is not being recorded
                warnings.filterwarnings("ignore", "This instance was constructed with capturable=True")
                values = gradient_step(learners, batches, self.masks)
            usual.wait_stream(self.stream)
            return values
        if self.graph is None:
            self.graph = self._record(learners, batches)
        for ours, given in zip(self.inputs, batches, strict=True):
            for kept, tensor in zip(ours.tensors, given.tensors, strict=True):
                kept.copy_(tensor)
        self.graph.replay()
        return self.values

    def _record(self, learners: Sequence[SequenceLearner], batches: Sequence[DeviceBatch]) -> torch.cuda.CUDAGraph:
        self.inputs = [batch.copy() for batch in batches]
        graph = torch.cuda.CUDAGraph()
        collects = gc.isenabled()
        gc.collect()  # a graph that is freed while another is recorded spoils it
        gc.disable()
        try:
            with torch.cuda.device(self.device):
                for generator in self.masks.generators:
                    graph.register_generator_state(generator)
                with torch.cuda.graph(graph, stream=self.stream):
                    self.values = gradient_step(learners, self.inputs, self.masks)
        finally:
            if collects:
                gc.enable()
        return graph
