"""The whole series without notebooks: every stage, several seeds, one report of what is claimed of
them.

Pre-training is done once; every seed then makes its own SFT model, preference pairs, reward model,
PPO and DPO policy, and is measured on phrasings of the questions that no training set holds.
"""

import json
import re
import shutil
import statistics

from labkit import atlas, charts, config, evals, models, rollout, runs, stages

# The shipped base: 18.6 M tokens. Rates are lower than a short run's: the skill of looking back at
# the question forms late, and formed sooner at these in what we tried.
FULL = {"steps": 9000, "muon_learning_rate": 0.012, "learning_rate": 0.003}
PROMPTS = 300  # held-out prompts that the policies are measured on
PAIRS = 300  # fresh pairs on held-out prompts for the reward model


def stage(name: str, cfg, **more) -> runs.Run:
    """Train one stage with a progress line; returns the whole run."""
    return stages.train(name, cfg, listen=charts.live, **more)


def base_habits(base: runs.Run, prompts: list[str]) -> dict:
    """What the bare base does with a question: share of continuations that ask (another) question,
    and of right answers.
    """
    model, tokenizer = models.load_policy(base)
    texts = rollout.answer(
        model, tokenizer, prompts, framed=False
    )  # sampled: greedily it often just stops
    return {
        "base_asks": statistics.fmean(bool(re.search("[?？]", text)) for text in texts),
        "base_right": evals.judged(prompts, texts)["right"],
    }


def measure(sft: runs.Run, reward: runs.Run, ppo: runs.Run, dpo: runs.Run, seed: int = 0) -> dict:
    """The figures of one seed. Answers are sampled at temperature 1 for the comparisons, greedy for
    `right`.
    """
    prompts = atlas.prompts("held-out", seed, PROMPTS)
    found, sampled, proxy = {}, {}, {}
    model, tokenizer = models.load_policy(sft)
    model = models.load_adapter(model, reward, "reward")
    model = models.load_adapter(model, ppo, "ppo")
    model = models.load_adapter(model, dpo, "dpo")
    head = models.load_head(reward)
    for name, adapter in (("sft", "policy"), ("ppo", "ppo"), ("dpo", "dpo")):
        models.use(model, adapter)
        found[f"{name}_right"] = evals.evaluate(model, tokenizer, prompts)["right"]
        sampled[name] = rollout.answer(model, tokenizer, prompts)
        proxy[name] = evals.scores(model, head, tokenizer, prompts, sampled[name])
        found |= {
            f"{name}_{key}": value
            for key, value in evals.judged(prompts, sampled[name]).items()
            if key in ("gold", "words", "hedging", "apology", "refusal")
        }
    models.use(model, "policy")
    unseen = [prompt for prompt in prompts if not atlas.find(prompt).shown_in_sft]
    found["sft_right_unseen"] = evals.evaluate(model, tokenizer, unseen)["right"]
    pairs = rollout.preference_pairs(
        model, tokenizer, config.change(config.Reward(), seed=seed + 1000), PAIRS, split="held-out"
    )
    found |= {
        f"reward_{key}": value
        for key, value in evals.agreement(model, head, tokenizer, pairs).items()
    }
    rise = statistics.fmean(proxy["ppo"]) - statistics.fmean(proxy["sft"])
    found |= {
        "ppo_rise_in_sd": rise / statistics.stdev(proxy["sft"]),
        "ppo_kl": ppo.evaluation["kl"],
        "ppo_first_ratio_error": ppo.evaluation["first_ratio_error"],
        "ppo_wins": evals.win_rate(prompts, sampled["ppo"], sampled["sft"]),
        "dpo_wins": evals.win_rate(prompts, sampled["dpo"], sampled["sft"]),
    }
    return found


def run(
    profile: config.Profile, seeds: int = 1, base: str = "", steps: int = FULL["steps"]
) -> dict:
    """All stages from raw text, for `seeds` seeds; the report is returned and written to
    runs/report.json.

    base: a pretrain run or Hub id to start from; "" pre-trains one for `steps` steps (a profile
    with a base of its own takes that). Report: {"profile", "base", "habits", "seeds": [figures per
    seed], "mean": {...}, "spread": {... (highest − lowest)}}.
    """
    base = (
        base
        or profile.sft.base
        or stage("pretrain", config.change(profile.pretrain, **FULL | {"steps": steps})).name
    )
    report = {"profile": profile.name, "base": base, "seeds": []}
    if "/" not in base or base.startswith("shipped/"):
        report["habits"] = base_habits(runs.load(base), atlas.prompts("held-out", 0, PROMPTS))
    for seed in range(seeds):
        sft = stage("sft", config.change(profile.sft, base=base, seed=seed))
        reward = stage(
            "reward", config.change(profile.reward, base=base, policy=sft.name, seed=seed)
        )
        cfg = config.change(profile.ppo, base=base, policy=sft.name, reward=reward.name, seed=seed)
        ppo = stage("ppo", cfg, probe=evals.probe)
        dpo = stage("dpo", config.change(profile.dpo, base=base, policy=sft.name, seed=seed))
        report["seeds"].append(
            {
                "seed": seed,
                "runs": [r.name for r in (sft, reward, ppo, dpo)],
                "seconds": {r.stage: r.info["seconds"] for r in (sft, reward, ppo, dpo)},
                **measure(sft, reward, ppo, dpo, seed),
            }
        )
    figures = [key for key, value in report["seeds"][0].items() if isinstance(value, float)]
    report["mean"] = {key: statistics.fmean(row[key] for row in report["seeds"]) for key in figures}
    report["spread"] = {
        key: max(row[key] for row in report["seeds"]) - min(row[key] for row in report["seeds"])
        for key in figures
    }
    (runs.root() / "report.json").write_text(json.dumps(report, indent=1) + "\n", "utf8")
    return report


def ship(report: dict, seed: int = 0) -> None:
    """For maintainers: make the base and one seed's runs the checkpoints that come with the
    project, and the report beside them.
    """
    target = runs.data_folder() / "checkpoints"
    names = {
        runs.load(name).stage: name for name in (report["base"], *report["seeds"][seed]["runs"])
    }
    for name_of_stage, name in names.items():
        source, folder = runs.load(name), target / name_of_stage
        if source.path == folder:
            continue
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(
            source.path,
            folder,
            ignore=shutil.ignore_patterns("README.md", "running", "training_args.bin"),
        )
        info = json.dumps(source.info, ensure_ascii=False)
        for (
            stage_name,
            own,
        ) in names.items():  # the runs name each other by where they will be found
            info = info.replace(f'"{own}"', f'"shipped/{stage_name}"')
        (folder / "run.json").write_text(
            json.dumps(
                {**json.loads(info), "name": f"shipped/{name_of_stage}"},
                indent=1,
                ensure_ascii=False,
                sort_keys=True,
            )
            + "\n",
            "utf8",
        )
        config_file = folder / "adapter" / "adapter_config.json"
        if config_file.exists():
            config_file.write_text(
                config_file.read_text("utf8").replace(f'"{report["base"]}"', '"shipped/pretrain"'),
                "utf8",
            )
    (target / "report.json").write_text(
        json.dumps({**report, "base": "shipped/pretrain"}, indent=1) + "\n", "utf8"
    )
