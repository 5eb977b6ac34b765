"""The third-party internals that labkit leans on, one small function each.

Each docstring says what goes wrong without it. A test for each notices when a library has changed,
and when the function can go.
"""

import contextlib
import ctypes
import logging
import tempfile
import warnings
from pathlib import Path


@contextlib.contextmanager
def quiet():
    """No progress bars over things that take a second, no advice about kernels that are not
    installed, no FutureWarnings between trl, peft and transformers: nothing a learner can act on.

    Leans on transformers' own switch for its bars and on the name of bitsandbytes' logger. Without
    them the noise comes back, and nothing else breaks.
    """
    from transformers.utils import logging as transformers_logging

    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        if bars:
            transformers_logging.enable_progress_bar()


def same_arithmetic(model):
    """4-bit layers compute alike in training and in scoring, on every CPU.

    On CPUs with AVX512-BF16, bitsandbytes repacks the weights at the first scoring forward and from
    then on computes in bf16, without a gradient. Without the flag `support_avx512bf16_for_cpu`,
    PPO's first ratio is not 1 on such a CPU.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def blocks_across_rows():
    """4-bit weights of any width come back from bitsandbytes as they were stored, on a CPU too.

    Blocks of 64 weights share a scale and run on from row to row. The CPU kernel begins a new block
    with every row: a matrix whose rows are no whole number of blocks (width 160) comes back wrong
    by a quarter of its size (seen with 0.50.2). Read as one long row, it comes back right.
    """
    from bitsandbytes.backends.cpu import ops

    for name in (f"cdequantize_blockwise_cpu_nf4_{dtype}" for dtype in ("fp32", "bf16", "fp16")):
        kernel = getattr(ops.lib, name, None)
        if kernel is not None and not hasattr(kernel, "one_row"):

            def one_row(packed, absmax, out, blocksize, rows, width, kernel=kernel):
                size = ctypes.c_longlong(rows.value * width.value)
                kernel(packed, absmax, out, blocksize, ctypes.c_longlong(1), size)

            one_row.one_row = True
            setattr(ops.lib, name, one_row)


@contextlib.contextmanager
def same_gradients(model):
    """What trains inside the block is what trained before it; a new adapter is frozen or not as it
    was made.

    peft makes the adapter that it activates trainable and freezes the others. Here who trains is
    not decided by who is active: else the reference would train, or the policy would not.
    """
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    yield
    for parameter, trains in before:
        parameter.requires_grad_(trains)


@contextlib.contextmanager
def float32_trainables(model):
    """Build a TRL trainer inside the block: trainable weights come out as they went in, in float32.

    TRL casts them to bf16 under a 4-bit base. On a CPU that makes every step twice as slow (and the
    RewardTrainer fail), and it would round the policy away from its reference before the first
    step. A GPU works in half precision by autocast and keeps float32 masters as well.
    """
    kept = [(p, p.data) for p in model.parameters() if p.requires_grad]
    yield
    for parameter, data in kept:
        parameter.data = data


def one_card(arguments):
    """A trainer's `arguments` for one process on one card, however many it sees.

    transformers would wrap the model in DataParallel and multiply the batches by the cards: the
    copies know nothing of the trainers' own passes, and a run would differ from machine to machine.
    """
    arguments._n_gpu = min(1, arguments.n_gpu)


def through(wrapper, module, work):
    """work(), of tensors, as the forward pass of `module`, around which a trainer may have put
    `wrapper`.

    DistributedDataParallel adds up the gradients of what went through its `forward` and silently
    leaves alone what did not: processes would drift apart.
    """
    if wrapper is module:
        return work()
    forward, module.forward = module.forward, lambda: work()
    try:
        return wrapper()
    finally:
        module.forward = forward


def takes_ids(trainer_class):
    """`trainer_class`, one of TRL's, for rows that are token ids already: one chat template, ours,
    for all stages.

    TRL's SFT and reward trainers see that rows are tokenised; its DPOTrainer and KTOTrainer do
    not look, and would want text. Without `_prepare_dataset` it fails on the first row.
    """

    class TakesIds(trainer_class):
        def _prepare_dataset(self, dataset, *_):
            return dataset

    return TakesIds


def trainable_by_trl(module, model):
    """Give `module`, which wraps the transformers model `model`, what TRL's trainers ask of a
    transformers model: `config`, `dtype`, gradient checkpointing and `add_model_tags` (a label for
    the Hub, of no use here). Without one of them the trainer ends in an AttributeError.
    """
    module.config, module.dtype = model.config, model.dtype
    module.gradient_checkpointing_enable = model.gradient_checkpointing_enable
    module.add_model_tags = lambda tags: None


def go_on(trainer, step: int, epoch: float):
    """trainer.train(), as if `step` optimiser steps had been taken: the rows that they read are
    skipped. What the weights, the optimiser and the random numbers were is the caller's business.

    transformers goes on from a folder of its own layout; without `_load_from_checkpoint` put aside
    it looks there for the weights of a whole model, and finds none.
    """
    from transformers import TrainerState

    state = TrainerState(global_step=step, epoch=epoch, train_batch_size=trainer._train_batch_size)
    state.compute_steps(trainer.args, trainer.args.max_steps)
    trainer._load_from_checkpoint = lambda *_: None
    with tempfile.TemporaryDirectory() as folder:
        state.save_to_json(str(Path(folder) / "trainer_state.json"))
        trainer.train(resume_from_checkpoint=folder)


def set_step(scheduler, optimizer, step: int):
    """The learning rates after `step` steps, from the settings of now.

    The state dict of a scheduler would bring back the rate that the run began with.
    """
    rates = [base * of(step) for base, of in zip(scheduler.base_lrs, scheduler.lr_lambdas)]
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    scheduler.last_epoch, scheduler._last_lr = step, rates
