"""The peer's side of `bench ppo`: TRL 1.12's PPOTrainer in a process of its own, with a folder that
holds that TRL first on PYTHONPATH.

    python -m labkit.bench.peer job.json        (bench/ppo.py writes the job and reads the report)

The trainer is used as its own example does (examples/scripts/ppo/ppo.py): four plain models, the
value model starting as the reward model. Nothing of it is broken under transformers 5; what is set
here from outside makes the two sides alike: the prompts come in the order given and not shuffled;
the warm-up is ours (transformers' own begins with an update at rate 0); Adam's eps is 1e-5; the
reward head gets the constant that our score subtracts, as a bias. Its loop clips no gradients and
has no setting for that. On a GPU it trains in bf16 by autocast, and the two frozen models are held
in bf16.
"""

import os
import sys
from pathlib import Path

import torch

from labkit.bench.watch import Watch

CUDA = torch.cuda.is_available()
os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
if CUDA:
    os.environ["ACCELERATE_MIXED_PRECISION"] = "bf16"


def main(path: str):
    """Train as the job says; the report goes to the job's folder."""
    import trl
    from datasets import Dataset
    from peft import LoraConfig
    from torch.utils.data import DataLoader
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        AutoTokenizer,
        TrainerCallback,
    )
    from trl.experimental.ppo import PPOConfig, PPOTrainer
    from trl.experimental.utils import get_reward

    watch = Watch(path)
    job, cfg, plain = watch.job, watch.job["config"], Path(watch.job["plain"])
    frozen = torch.bfloat16 if CUDA else torch.float32

    def policy(dtype=torch.float32):
        return AutoModelForCausalLM.from_pretrained(plain / "sft", dtype=dtype)

    def scorer(dtype=torch.float32):
        model = AutoModelForSequenceClassification.from_pretrained(plain / "reward", dtype=dtype)
        bare, model.score = model.score, torch.nn.Linear(model.config.hidden_size, 1, dtype=dtype)
        model.score.weight.data = bare.weight.data
        model.score.bias.data = torch.tensor([-model.config.reward_shift], dtype=dtype)
        return model

    args = PPOConfig(
        output_dir=str(watch.folder / "trl"),
        per_device_train_batch_size=cfg["batch_size"],
        gradient_accumulation_steps=1,
        num_mini_batches=cfg["batch_size"] // cfg["minibatch_size"],
        num_ppo_epochs=cfg["epochs"],
        total_episodes=cfg["updates"] * cfg["batch_size"],
        local_rollout_forward_batch_size=cfg["batch_size"],
        response_length=cfg["max_response_tokens"],
        temperature=cfg["temperature"],
        stop_token="eos",
        missing_eos_penalty=cfg["missing_eos_penalty"] or None,
        kl_coef=cfg["beta"],
        cliprange=cfg["clip"],
        cliprange_value=cfg["value_clip"],
        gamma=cfg["gamma"],
        lam=cfg["gae_lambda"],
        learning_rate=job["learning_rate"],
        adam_epsilon=1e-5,
        seed=cfg["seed"],
        bf16=CUDA,
        use_cpu=not CUDA,
        gradient_checkpointing=False,
        report_to=[],
        save_strategy="no",
        num_sample_generations=0,
        logging_steps=1,
        disable_tqdm=True,
    )

    class Timed(TrainerCallback):
        def on_train_begin(self, *_, **__):
            watch.begin()

        def on_step_end(self, args, state, control, **_):
            last = state.log_history[-1]
            watch.update(save, score=last["objective/scores"], kl=last["objective/kl"])

    def save(file):
        """The policy as plain weights; adapters, where it has them, are merged for the moment."""
        model = trainer.policy_model
        if not job["lora"]:
            return torch.save(model.state_dict(), file)
        model.merge_adapter()
        state = model.get_base_model().state_dict()
        state = {k.replace(".base_layer", ""): x for k, x in state.items() if ".lora_" not in k}
        torch.save(state, file)
        model.unmerge_adapter()

    sizes = {"r": cfg["lora_r"], "lora_alpha": cfg["lora_alpha"]}
    lora = LoraConfig(**sizes, target_modules="all-linear", task_type="CAUSAL_LM")
    tokenizer = AutoTokenizer.from_pretrained(plain / "sft", padding_side="left")
    rows = Dataset.from_list([{"input_ids": ids} for ids in job["prompt_ids"]])
    trainer = PPOTrainer(
        args=args,
        processing_class=tokenizer,
        model=policy(),
        ref_model=None if job["lora"] else policy(frozen),
        reward_model=scorer(frozen),
        value_model=scorer(),
        train_dataset=rows,
        peft_config=lora if job["lora"] else None,
        callbacks=[Timed()],
    )
    in_order = DataLoader(rows, cfg["batch_size"], collate_fn=trainer.data_collator, drop_last=True)
    trainer.dataloader = trainer.accelerator.prepare(in_order)
    trainer.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
        trainer.optimizer, lambda update: min(1.0, (update + 1) / max(1, cfg["warmup"]))
    )

    answers = job["answers"]
    ids = torch.tensor(answers["ids"], device=trainer.accelerator.device)
    with torch.no_grad():
        # Rows begin at column 0: TRL looks for the first pad from there.
        judged = (trainer.reward_model, ids, tokenizer.pad_token_id, 0)
        scores = get_reward(*judged)[1].float().cpu()
    difference = (scores - torch.tensor(answers["scores"])).abs().max().item()
    trainer.train()
    watch.end(score_difference=difference, trl=trl.__version__)


if __name__ == "__main__":
    main(sys.argv[1])
