"""Language pretraining: a byte-level BPE tokenizer and a GPT-2 from plain text, as an ordinary Hugging Face folder.

The hidden matrices are trained by Muon (momentum orthogonalised by Newton-Schulz iterations; Jordan et al. 2024),
all else by AdamW. At 300 steps on English books Muon was where AdamW came only much later (see docs/language-model.md).
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lamo.data import text as text_data
from lamo.errors import LamoError, warn
from lamo.language import negative_log_likelihood
from lamo.models.cpu import has_fast_bfloat16, keep_freed_memory
from lamo.models.cross_entropy import linear_cross_entropy
from lamo.models.fast import refusal, run_blocks
from lamo.models.muon import Muon
from lamo.prepare import resolve_device
from lamo.signals import Interrupted, Signals

END_OF_TEXT = "<|endoftext|>"


@dataclass(frozen=True)
class PretrainSettings:
    """Shape and training of a small language model."""

    vocabulary: int = 4096
    """Size of the byte-level BPE vocabulary, in tokens (at least 257: all bytes and the end-of-text mark)."""
    width: int = 128
    """Width of the residual stream."""
    layers: int = 4
    """Number of Transformer blocks."""
    heads: int = 2
    """Attention heads per block; must divide the width."""
    context: int = 256
    """Longest text the model reads at once, in tokens."""
    passes: float = 2.0
    """Passes over the corpus."""
    batch_size: int = 32
    """Blocks of `context` tokens per step."""
    learning_rate: float = 3e-3
    """AdamW's peak learning rate, for embeddings, norms and biases."""
    matrix_learning_rate: float = 0.02
    """Muon's peak learning rate, for the matrices of the blocks."""
    warmup: int = 100
    """Steps of linear warm-up."""
    decay: float = 0.6
    """Share of the run, at its end, over which the learning rates fall linearly to zero."""
    holdout: float = 0.005
    """Share of the corpus (its end) that is held out for the figure shown while training; 0 for none."""
    eval_every: int = 250
    """Steps between held-out figures."""
    checkpoint_every: int = 250
    """Steps between checkpoints."""
    seed: int = 0
    """Seed of the weights and of the order of the blocks."""
    device: str = "auto"
    """cpu, cuda, or auto (cuda where there is one)."""

    def __post_init__(self) -> None:
        if self.vocabulary < 257:
            raise LamoError(f"--vocabulary {self.vocabulary} is too small: 256 bytes and the end-of-text mark need 257")
        for name in ("width", "layers", "heads", "context", "batch_size", "eval_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise LamoError(f"--{name.replace('_', '-')} {getattr(self, name)} must be at least 1")
        if self.width % self.heads:
            raise LamoError(f"--width {self.width} is not divisible by --heads {self.heads}; choose a divisor")
        for name in ("learning_rate", "matrix_learning_rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise LamoError(f"--{name.replace('_', '-')} {getattr(self, name)} must be a positive number")
        for name in ("seed", "warmup"):
            if getattr(self, name) < 0:
                raise LamoError(f"--{name} {getattr(self, name)} must not be negative")
        if not 0 <= self.decay <= 1:
            raise LamoError(f"--decay {self.decay} must lie in [0, 1]")
        if not 0 <= self.holdout < 0.5:
            raise LamoError(f"--holdout {self.holdout} must lie in [0, 0.5)")
        if not 0 < self.passes < 1e6:
            raise LamoError(f"--passes {self.passes} must be positive and below a million")


# ------------------------------------------------------------------------------------------------------------ pieces


def train_tokenizer(text: str, vocabulary: int) -> Any:
    """A byte-level BPE (GPT-2's kind) of `vocabulary` tokens; token 0 marks the end of a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text_data.pieces(text), trainer)
    return tokenizer


def build_model(settings: PretrainSettings, vocabulary: int) -> Any:
    """A GPT-2 of the given shape with random weights drawn from `settings.seed`, without dropout, in float32."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=vocabulary,
        n_positions=settings.context,
        n_embd=settings.width,
        n_layer=settings.layers,
        n_head=settings.heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        activation_function="gelu_pytorch_tanh",  # GPT-2's gelu, as one kernel instead of eight
        bos_token_id=0,
        eos_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return GPT2LMHeadModel(config)


def learning_rate_factor(step: int, steps: int, warmup: int, decay: float) -> float:
    """Trapezoid: linear up over `warmup` steps, flat, linear to zero over the last `decay` share of the run."""
    up = (step + 1) / max(1, min(warmup, steps))
    down = (steps - step) / max(1.0, decay * steps)
    return min(1.0, up, down)


# ---------------------------------------------------------------------------------------------------------- the loop


def _replace_folder(folder: Path, target: Path) -> None:
    old = target.with_name(target.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    folder.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _save_checkpoint(work: Path, step: int, model: Any, optimizers: Sequence[torch.optim.Optimizer], log: dict) -> None:
    tensors: dict[str, Tensor] = {f"model.{k}": v for k, v in model.state_dict().items() if k != "lm_head.weight"}
    for i, optimizer in enumerate(optimizers):
        for j, state in optimizer.state_dict()["state"].items():
            tensors.update({f"optimizer.{i}.{j}.{k}": torch.as_tensor(v) for k, v in state.items()})
    new = work / "checkpoint.new"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    save_file({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, new / "state.safetensors")
    (new / "state.json").write_text(json.dumps({"step": step, **log}))
    _replace_folder(new, work / "checkpoint")


def _load_checkpoint(work: Path, model: Any, optimizers: Sequence[torch.optim.Optimizer]) -> dict | None:
    for name in ("checkpoint", "checkpoint.old"):
        folder = work / name
        if not folder.exists():
            continue
        try:
            meta = json.loads((folder / "state.json").read_text())
            tensors = load_file(folder / "state.safetensors")
        except Exception as error:  # a torn file may fail in many ways; the older checkpoint is tried next
            warn(f"checkpoint {folder} cannot be read ({error}); looking for an older one")
            continue
        weights = {k[len("model.") :]: v for k, v in tensors.items() if k.startswith("model.")}
        model.load_state_dict(weights, strict=False)
        model.tie_weights()
        for i, optimizer in enumerate(optimizers):
            state_dict = optimizer.state_dict()
            states: dict[int, dict[str, Tensor]] = {}
            for key, value in tensors.items():
                if key.startswith(f"optimizer.{i}."):
                    _, _, j, field = key.split(".", 3)
                    states.setdefault(int(j), {})[field] = value
            state_dict["state"] = states
            optimizer.load_state_dict(state_dict)
        return meta
    return None


def pretrain(
    corpus: Sequence[Path], out: Path, settings: PretrainSettings, *, resume: bool = False, quiet: bool = False
) -> dict:
    """Train tokenizer and model on `corpus` (plain or gzipped text files) and write a Hugging Face folder to `out`.

    While it trains, everything lives in `<out>.training/`; with `resume` a run that was stopped goes on from its
    newest checkpoint.
    Returns {"bits_per_byte" (held-out, None without a holdout), "tokens", "passes", "steps", "seconds", "parameters"}.
    """
    out, work = Path(out), Path(f"{out}.training")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise LamoError(f"--out {out} exists and is not empty; choose another folder")
    if work.exists() and not resume:
        raise LamoError(f"{work} holds an unfinished pretraining; continue it with --resume or remove it")
    if resume and not work.exists():
        raise LamoError(f"{work}: no unfinished pretraining to go on with; drop --resume")
    device = torch.device(resolve_device(settings.device))
    keep_freed_memory()
    text = text_data.read_text(corpus)
    cut = len(text) - int(len(text) * settings.holdout)
    config = {"settings": asdict(settings), "characters": len(text)}
    tokenizer, ids, held, held_bytes = _tokens(text, cut, work, config, resume)
    del text
    if tokenizer.get_vocab_size() < settings.vocabulary:
        warn(
            f"the corpus yields {tokenizer.get_vocab_size()} distinct tokens, fewer than --vocabulary "
            f"{settings.vocabulary}"
        )

    model = build_model(settings, tokenizer.get_vocab_size()).to(device)
    matrices = [p for p in model.transformer.h.parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(others, lr=settings.learning_rate, betas=(0.9, 0.95), weight_decay=0.0, foreach=True),
        Muon(matrices, lr=settings.matrix_learning_rate),
    ]
    peaks = [settings.learning_rate, settings.matrix_learning_rate]

    length = settings.context + 1
    blocks_per_pass = (len(ids) - length) // length  # every pass has at least this many, whatever its offset
    steps = max(1, math.ceil(settings.passes * blocks_per_pass / settings.batch_size))
    log: dict[str, Any] = {"seconds": 0.0}
    step = 0
    if resume and (meta := _load_checkpoint(work, model, optimizers)) is not None:
        step, log = meta["step"], {"seconds": meta["seconds"]}
    began, seconds_before = time.perf_counter(), log["seconds"]

    def held_out() -> float | None:
        if not len(held):
            return None
        model.eval()
        nats = negative_log_likelihood(model, held, settings.context, settings.context)
        model.train()
        return nats / math.log(2) / held_bytes

    def hidden_states(block: torch.Tensor) -> torch.Tensor:
        body = model.transformer
        if fast:
            return run_blocks([body], body.wte(block) + body.wpe.weight[: block.shape[1]], None)
        return body(block).last_hidden_state

    progress = _progress(steps, step, quiet)
    in_bfloat16 = device.type == "cuda" or has_fast_bfloat16()
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=in_bfloat16)
    fast = refusal(model) is None and not in_bfloat16
    starts, pass_number, bits, loss_mean = np.zeros(0, np.int64), -1, None, float("nan")
    model.train()
    with (work / "metrics.jsonl").open("a") as metrics, Signals(quiet) as stop:
        while step < steps:
            wanted_pass, first = divmod(step * settings.batch_size, blocks_per_pass)
            if wanted_pass != pass_number:
                pass_number = wanted_pass
                starts = text_data.epoch_blocks(ids, length, pass_number, settings.seed)
            rows = starts[first : first + settings.batch_size]
            block = torch.from_numpy(ids[rows[:, None] + np.arange(length)].astype(np.int64)).to(device)  # (b, T+1)
            with autocast:
                hidden = hidden_states(block[:, :-1])
            flat = hidden.reshape(-1, settings.width).float()
            loss = linear_cross_entropy(flat, model.lm_head.weight, block[:, 1:].reshape(-1))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            factor = learning_rate_factor(step, steps, settings.warmup, settings.decay)
            for optimizer, peak in zip(optimizers, peaks, strict=True):
                for group in optimizer.param_groups:
                    group["lr"] = peak * factor
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            step += 1
            value = float(loss.detach())
            if not math.isfinite(value):
                progress.close()
                raise LamoError(
                    f"the loss is {value} at step {step}; the last good checkpoint is in {work}; lower "
                    f"the learning rates"
                )
            loss_mean = value if math.isnan(loss_mean) else 0.98 * loss_mean + 0.02 * value
            log["seconds"] = seconds_before + time.perf_counter() - began
            if step % settings.eval_every == 0 or step == steps:
                bits = held_out()
                metrics.write(
                    json.dumps({"step": step, "loss": loss_mean, "held_out_bits_per_byte": bits, **log}) + "\n"
                )
                metrics.flush()
            if (stop.caught or step % settings.checkpoint_every == 0) and step < steps:
                _save_checkpoint(work, step, model, optimizers, log)
            progress.set_postfix(
                loss=f"{loss_mean:.3f}", held_out_bits_per_byte=f"{bits:.3f}" if bits else "-", refresh=False
            )
            progress.update(1)
            if stop.caught and step < steps:
                progress.close()
                raise Interrupted(step, "the same command and --resume", stop.caught)
    progress.close()
    result = {
        "bits_per_byte": bits,
        "tokens": steps * settings.batch_size * settings.context,
        "corpus_tokens": len(ids),
        "passes": settings.passes,
        "steps": steps,
        "seconds": log["seconds"],
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    write_folder(out, model, tokenizer, settings, result)
    shutil.rmtree(work)
    return result


def _tokens(text: str, cut: int, work: Path, config: dict, resume: bool) -> tuple[Any, np.ndarray, np.ndarray, int]:
    """Tokenizer and token ids (training part, held-out part, bytes of the latter); cached in `work` for a resumed
    run."""
    from tokenizers import Tokenizer

    cache = [work / n for n in ("config.json", "tokenizer.json", "train.npy", "held.npy")]
    held_bytes = len(text[cut:].encode())
    if resume and all(p.exists() for p in cache):
        if json.loads(cache[0].read_text()) != config:
            raise LamoError(f"{work} was begun with another corpus or other settings; give the same ones or remove it")
        return Tokenizer.from_file(str(cache[1])), np.load(cache[2]), np.load(cache[3]), held_bytes
    tokenizer = train_tokenizer(text[:cut], config["settings"]["vocabulary"])
    ids = text_data.tokenize(tokenizer, text[:cut])
    if len(ids) < (block := config["settings"]["context"] + 1):
        raise LamoError(f"the corpus has {len(ids)} tokens, fewer than one block of {block}; give more text")
    held = text_data.tokenize(tokenizer, text[cut:])
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LamoError(f"--out {work.with_suffix('')}: cannot be written: {error.strerror or error}") from None
    tokenizer.save(str(cache[1]))
    np.save(cache[2], ids)
    np.save(cache[3], held)
    cache[0].write_text(json.dumps(config))  # last: its presence says that the others are whole
    return tokenizer, ids, held, held_bytes


def write_folder(out: Path, model: Any, tokenizer: Any, settings: PretrainSettings, result: dict) -> None:
    """Write model, tokenizer and `pretraining.json` (settings and result) as a Hugging Face folder, at once."""
    from transformers import PreTrainedTokenizerFast

    from lamo.models.pretrained import quiet_transformers

    new = out.with_name(f".{out.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    with quiet_transformers():
        model.save_pretrained(new)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        unk_token=END_OF_TEXT,
        model_max_length=settings.context,
    )
    wrapped.save_pretrained(new)
    for weights in new.glob("*.safetensors"):
        weights.chmod(0o644)  # safetensors leaves them to their owner alone
    (new / "pretraining.json").write_text(json.dumps({"settings": asdict(settings), "result": result}, indent=1) + "\n")
    if out.exists():
        out.rmdir()  # known to be empty
    os.replace(new, out)


def _progress(steps: int, done: int, quiet: bool) -> Any:
    from tqdm import tqdm

    return tqdm(
        total=steps, initial=done, unit="step", desc="pretraining", disable=quiet, dynamic_ncols=True, mininterval=1.0
    )
