"""Rhymed quatrains and a reward that needs no rater: a rule reads the poem and says 1 or 0.

This is where RLHF and reinforcement learning with verifiable rewards meet (RLVR, arXiv 2411.15124,
6): policy gradient, clip and KL stay; reward model and raters are gone. A poet of a million weights
learns from the quatrains of the Tang in three stages, as everything here: a base that reads, SFT
that is asked for a 七言絕句 and shown whatever quatrain comes (so that it writes 五言 too, as the
lecture's model did), and then PPO or TRL's GRPO (arXiv 2402.03300) on a rule.

form_jobs.py measures it over seeds; its record lies in data/checkpoints/form.json.
"""

import functools
import random
import re
import time
from collections import Counter
from dataclasses import dataclass
from statistics import fmean

import torch

from labkit import LabError, compat, config, data, models, rollout, runs
from labkit.data import chat
from labkit.labs import poems, records
from labkit.labs.records import with_spread
from labkit.maths import logprobs
from labkit.stages import ppo, pretrain, sft, trl

ASKED = "寫一首七言絕句："  # and the character to begin with
RHYME = "上平聲十一真"  # the given rhyme (限韻): 人春新身 …
TEMPERATURE = 0.5  # at which the poet writes, learns and is measured
LONGEST = 40  # tokens of a poem, its [END] included: a 七言絕句 has 33
HAN = "[\u3400-\u9fff]"
QUATRAIN = re.compile(f"({HAN}{{7}}，{HAN}{{7}}。){{2}}")


# --- rules ---------------------------------------------------------------------------------------


@functools.cache
def rhymes() -> dict[str, frozenset[str]]:
    """{character: the rhymes that it belongs to}, by 平水韻 (data/tang/rhymes.txt): 106 rhymes,
    8,550 characters, of which a fifth have more than one reading.
    """
    lines = data.read_text(runs.data_folder() / "tang/rhymes.txt").split("\n")
    found = {}
    for name, characters in (line.split() for line in lines if line):
        for character in characters:
            found[character] = found.get(character, frozenset()) | {name}
    return found


def rhyme(a: str, b: str) -> bool:
    """Whether two characters rhyme: they share a rhyme, and are not the same character."""
    table = rhymes()
    return a != b and bool(table.get(a, frozenset()) & table.get(b, frozenset()))


def seven(poem: str) -> bool:
    """Four lines of seven Chinese characters, closed by ，。，。, and nothing else."""
    return bool(QUATRAIN.fullmatch(poem))


def ends(poem: str) -> list[str]:
    """The last character of each line."""
    return re.findall(f"({HAN})[，。]", poem)


def rhymed(poem: str) -> bool:
    """Whether lines 2 and 4 of four rhyme."""
    last = ends(poem)
    return len(last) == 4 and rhyme(last[1], last[3])


def well_formed(poem: str) -> bool:
    """What the full rule asks for: form and rhyme."""
    return seven(poem) and rhymed(poem)


# --- the poet ------------------------------------------------------------------------------------


def settings(**changes) -> config.Pretrain:
    """The base's sizes and rates: two minutes on a CPU core. corpus: "tang" or a text file with a
    poem a line.
    """
    sizes = dict(vocab_size=2600, layers=2, intermediate_size=448, context=64, sequence_length=48)
    return poems.settings(**{**sizes, "batch_size": 32, "steps": 400, "warmup": 20, **changes})


def base() -> str:
    """The folder of the base that came with the project (train_base made it)."""
    folder = runs.data_folder() / "checkpoints/poet"
    if not (folder / "config.json").exists():
        raise LabError(
            f"There is no poet's base at {folder}. Make one: python -m labkit bench form"
        )
    return str(folder)


def demonstrations(corpus: str = "tang", seed: int = 0) -> list[data.Demo]:
    """The poems, shuffled, each as the answer to somebody who asks for a 七言絕句 that begins with
    its first character, which is not what he always gets.
    """
    found = [data.Demo(ASKED + poem[0], poem) for poem in poems.load(corpus)]
    random.Random(seed).shuffle(found)
    return found


def character_tokenizer(demos: list[data.Demo], size: int):
    """A token for each of the most frequent characters of prompts and poems, and for the marks of
    the chat frame: `size` in all.
    """
    from tokenizers import Tokenizer, decoders
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    counts = Counter("".join(demo.prompt + demo.response for demo in demos))
    marks = (chat.PAD, chat.EOS, chat.USER, chat.AI)
    tokens = (*marks, *(character for character, _ in counts.most_common(size - len(marks))))
    tokenizer = Tokenizer(BPE({token: id for id, token in enumerate(tokens)}, []))
    tokenizer.decoder = decoders.Fuse()  # without merges every token is a character
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=chat.PAD,
        eos_token=chat.EOS,
        additional_special_tokens=[chat.USER, chat.AI],
    )


def known(demos: list[data.Demo], tokenizer) -> list[data.Demo]:
    """Those whose every character has a token."""
    characters = set(tokenizer.get_vocab())
    return [demo for demo in demos if set(demo.prompt + demo.response) <= characters]


def train_base(cfg, run):
    """Pre-train a Llama on the framed poems of cfg.corpus; `run` then is a Hugging Face folder, its
    weights in half precision, ready to be shipped. Logs loss (nats per token).

    Raises LabError where fewer poems are left than fill a batch: those with a rare character, or
    too long for cfg.sequence_length, are left out.
    """
    demos = demonstrations(cfg.corpus, cfg.seed)
    tokenizer = character_tokenizer(demos, cfg.vocab_size)
    rows = [
        chat.encode(tokenizer, demo.prompt, demo.response)[0] for demo in known(demos, tokenizer)
    ]
    rows = [row for row in rows if len(row) <= cfg.sequence_length]
    if len(rows) < cfg.batch_size:
        raise LabError(
            f"{cfg.corpus!r} gives {len(rows)} poems of frequent characters that fit into"
            f" {cfg.sequence_length} tokens, but a batch takes {cfg.batch_size}. Give it more"
            " poems, one a line, or raise vocab_size or sequence_length."
        )
    end, width = tokenizer.eos_token_id, max(map(len, rows))
    ids = torch.tensor([row + [end] * (width - len(row)) for row in rows]).to(runs.device())
    model = models.new_base(cfg, tokenizer).to(runs.device()).train()
    for step, loss in enumerate(pretrain.steps(model, ids, cfg), 1):
        if step % 10 == 1 or step == cfg.steps:
            run.log(step=step, steps=cfg.steps, loss=loss.item())
    models.save_base(model.half(), tokenizer, run.path)
    parameters = sum(p.numel() for p in model.parameters())
    run.finish(loss=loss.item(), poems=len(rows), parameters=parameters)


def fine_tune(base: str, seed: int = 0, name: str | None = None, n: int = 1600, corpus="tang"):
    """The poet: an SFT run on the 4-bit `base`, with `n` of the poems as demonstrations."""
    _, tokenizer = models.load_base(base)
    demos = known(demonstrations(corpus, seed), tokenizer)[:n]
    file = data.save_jsonl(demos, runs.root() / f"poet-demos-{seed}.jsonl")
    sizes = dict(examples=0, max_prompt_tokens=16, max_response_tokens=LONGEST)
    cfg = config.Sft(base=base, data=str(file), seed=seed, **sizes)
    with runs.start("poet", cfg, name, aside=True) as run:
        sft.train(cfg, run)
    return run


def prompts(n: int, seed: int, corpus: str = "tang") -> list[str]:
    """`n` requests, their characters as frequent as at the beginning of a poem."""
    return [demo.prompt for demo in demonstrations(corpus, seed)[:n]]


# --- rules as rewards ----------------------------------------------------------------------------


def to_rhyme(poem: str, different: bool = True) -> float:
    """The full rule, a rhyme given (限韻): a third for the form, and then a third for each of lines
    2 and 4 that ends in RHYME, the second time on another character.
    """
    if not seven(poem):
        return 0.0
    _, second, _, fourth = ends(poem)
    first, again = (RHYME in rhymes().get(one, ()) for one in (second, fourth))
    return (1 + first + (again and not (different and second == fourth))) / 3


def any_rhyme(poem: str) -> float:
    """The same without a given rhyme: a half for the form, and 1 for form and rhyme."""
    return (seven(poem) + well_formed(poem)) / 2


def same_allowed(poem: str) -> float:
    """A weak rule: `to_rhyme`, but a character may rhyme with itself."""
    return to_rhyme(poem, different=False)


def counted(poem: str) -> float:
    """A weak rule: characters counted, in quatrains' worth (28), and nothing else."""
    return len(re.findall(HAN, poem)) / 28


RULES = {
    "a given rhyme": to_rhyme,
    "any rhyme": any_rhyme,
    "same allowed": same_allowed,
    "counted": counted,
}


class Judge:
    """A rule as the function that PPO and TRL's GRPO ask: (prompts, responses) → rewards. It keeps
    what it saw: `rows`, one a call, with "seconds" since it was made, "samples" so far, the mean
    "reward", and `figures`.
    """

    def __init__(self, rule):
        if not callable(rule):
            raise LabError(f"A rule is a function of a poem that gives a number, not {rule!r}.")
        self.rule, self.__name__ = rule, getattr(rule, "__name__", "rule")
        self.rows, self.samples, self.began = [], 0, time.perf_counter()

    def __call__(self, prompts, responses=None, completions=None, **_):
        responses = completions if responses is None else responses
        rewards = [self.mark(poem) for poem in responses]
        self.samples += len(rewards)
        row = {"seconds": time.perf_counter() - self.began, "samples": self.samples}
        self.rows.append(row | {"reward": fmean(rewards), **figures(prompts, responses)})
        return rewards

    def mark(self, poem: str) -> float:
        try:
            return float(self.rule(poem))
        except (TypeError, ValueError) as error:
            raise LabError(
                f"The rule {self.__name__!r} gave no number for the poem {poem[:16]!r} ({error})."
                " It must return one for every text, an empty one too."
            ) from error


def figures(prompts: list[str], said: list[str]) -> dict[str, float]:
    """What can be counted of poems, whatever the rule: shares of "well-formed", "seven" (the form),
    "rhymed" and "as asked" (the first character); "distinct": different characters of a poem as a
    share of its characters; "repeated": the share of its most frequent one; "endings": different
    last characters of line 4 (of any text, its last), as a share of the poems.
    """
    if not said:
        raise LabError("There is no poem to look at: the list is empty.")
    letters = [re.findall(HAN, poem) for poem in said]
    full_ones = [one for one in letters if one] or [["無"]]
    asked = [prompt.removesuffix(chat.AI)[-1:] for prompt in prompts]
    return {
        "well-formed": fmean(map(well_formed, said)),
        "seven": fmean(map(seven, said)),
        "rhymed": fmean(map(rhymed, said)),
        "as asked": fmean(poem[:1] == first for poem, first in zip(said, asked, strict=True)),
        "distinct": fmean(len(set(one)) / len(one) for one in full_ones),
        "repeated": fmean(max(Counter(one).values()) / len(one) for one in full_ones),
        "endings": len({one[-1] for one in full_ones}) / len(said),
    }


@torch.no_grad()
def logps(model, tokenizer, prompts: list[str], said: list[str], size: int = 64) -> torch.Tensor:
    """(N,): log-probability (nats) of each poem and its [END] under the active adapter, at
    TEMPERATURE.
    """
    found = []
    for at in range(0, len(prompts), size):
        both = zip(prompts[at : at + size], said[at : at + size], strict=True)
        rows = [chat.encode(tokenizer, *one, max_response_tokens=LONGEST) for one in both]
        ids, attention_mask = chat.pad([ids for ids, _ in rows], tokenizer.pad_token_id)
        mask, _ = chat.pad([mask for _, mask in rows], 0)
        logits = model(input_ids=ids, attention_mask=attention_mask).logits
        each = logprobs.response_logprobs(logits, ids, TEMPERATURE)
        found.append(logprobs.masked_sum(each, logprobs.shift_mask(mask), dim=1))
    return torch.cat(found)


# --- the two ways to learn from a rule -----------------------------------------------------------


def learn(method: str, policy: str, base: str, judge: Judge, name: str | None = None, **changes):
    """A run of "PPO" (ours) or "GRPO" (TRL's) from the run `policy`, paid by `judge`, on 2,000
    prompts; the run is of stage "poet", so that no other notebook takes it for its own.
    """
    if method not in ("PPO", "GRPO"):
        raise LabError(f'There is no method {method!r}: take "PPO" or "GRPO".')
    rows = [{"prompt": prompt} for prompt in prompts(2000, seed=1)]
    file = data.save_jsonl(rows, runs.root() / "poet-prompts.jsonl")
    make = ppo_settings if method == "PPO" else Grpo
    cfg = make(policy=policy, base=base, prompts=str(file), **changes)
    train = ppo.train if method == "PPO" else grpo
    with runs.start("poet", cfg, name, aside=True) as run:
        train(cfg, run, judge=judge)
    return run


def ppo_settings(**changes) -> config.Ppo:
    """Our PPO's settings on a rule. changes: policy (a run), base, prompts (a file), …"""
    sizes = dict(updates=56, batch_size=128, minibatch_size=64, micro_batch_size=64)
    sizes |= dict(max_prompt_tokens=16, max_response_tokens=LONGEST, checkpoint_every=0)
    rates = dict(learning_rate=3e-3, critic_learning_rate=3e-3, beta=0.005, target_kl=0.0)
    # At the usual 1.0 one rare batch, after many quiet ones, was a step that broke the policy.
    rates |= dict(max_grad_norm=0.1, temperature=TEMPERATURE)
    return config.Ppo(**{**sizes, **rates, **changes})


@dataclass
class Grpo(config.Adapted):
    """GRPO (arXiv 2402.03300): PPO's clipped policy gradient without a critic. The baseline of an
    answer is the mean reward of the answers to the same prompt.
    """

    policy: str = ""
    """The run that the policy starts from and the reference stays at."""
    prompts: str = ""
    """A file of prompts."""
    updates: int = 60
    batch_size: int = 64
    """Answers per update."""
    group: int = 8
    """Answers to each prompt; divides batch_size."""
    max_prompt_tokens: int = 16
    max_response_tokens: int = LONGEST
    learning_rate: float = 3e-3
    beta: float = 0.005
    """Weight of the KL estimate, here a part of the loss and not of the reward."""
    temperature: float = TEMPERATURE

    def __post_init__(self):
        super().__post_init__()
        if self.group < 2 or self.batch_size % self.group:
            raise LabError(
                f"A group of {self.group} answers can't be: it must be 2 or more, and divide"
                f" batch_size={self.batch_size}."
            )


@compat.quiet()
def grpo(cfg: Grpo, run, judge: Judge):
    """Improve a policy with TRL's GRPOTrainer; leaves adapter/ in `run`. transformers' `generate`
    samples. Logs what TRL reports: reward, kl, entropy, the share of groups without a difference.
    """
    from trl import GRPOConfig, GRPOTrainer

    policy = runs.policy(cfg.policy)
    model, tokenizer = models.load_base(models.base_of(policy, cfg.base))
    model = models.load_adapter(model, policy, "default", trainable=True)
    asked = data.load_prompts(cfg.prompts)
    chat.check_lengths(tokenizer, asked, cfg.max_prompt_tokens)
    random.Random(cfg.seed).shuffle(asked)
    trainer = trl.fit(
        functools.partial(GRPOTrainer, reward_funcs=[judge]),
        GRPOConfig,
        model,
        tokenizer,
        [{"prompt": f"{chat.USER}{prompt}{chat.AI}"} for prompt in asked],
        cfg,
        run,
        logging_steps=1,
        bf16=False,
        max_steps=cfg.updates,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=3,
        per_device_train_batch_size=cfg.batch_size,
        num_generations=cfg.group,
        max_completion_length=cfg.max_response_tokens,
        temperature=cfg.temperature,
        top_k=0,
        beta=cfg.beta,
        loss_type="grpo",
        max_grad_norm=0.1,
        gradient_checkpointing=False,
    )
    models.save_adapter(model, run, "default")
    run.info["policy"] = models.adapter_id(policy)
    return trainer


def sampling_speed(model, tokenizer, prompts: list[str], repeats: int = 2) -> dict[str, float]:
    """Seconds to answer `prompts` by our sampler ("ours") and by transformers' `generate`, as TRL
    calls it; the best of `repeats`.
    """
    rows = [chat.encode_prompt(tokenizer, prompt) for prompt in prompts]
    ids, mask = (x.to(model.device) for x in chat.pad(rows, tokenizer.pad_token_id, side="left"))
    how = dict(do_sample=True, temperature=TEMPERATURE, top_k=0, max_new_tokens=LONGEST)
    ways = {
        "ours": lambda: rollout.sample(model, tokenizer, prompts, LONGEST, TEMPERATURE),
        "generate": lambda: model.generate(input_ids=ids, attention_mask=mask, **how),
    }

    def seconds(sample):
        began = time.perf_counter()
        sample()
        return time.perf_counter() - began

    return {name: min(seconds(way) for _ in range(repeats)) for name, way in ways.items()}


# --- the record ----------------------------------------------------------------------------------


def load(path=None) -> dict:
    """The record (default: the one that came with the project). LabError where there is none."""

    def whole(record):
        return record["ways"] and [
            (row["poet"]["best_of_n"], [row["ways"][way]["end"]["kl"] for way in record["ways"]])
            for row in record["seeds"]
        ]

    return records.load("form", whole, "verifiable rewards", path)


def way(record: dict, name: str, every: int = 4, column: str = "well-formed") -> list[dict]:
    """A learner's way, `every` updates at a time: "seconds" and "samples" so far, and `column` of
    the poems it was judged on, mean, lowest and highest of the seeds.
    """
    curves, rows = [row["ways"][name]["curve"] for row in record["seeds"]], []
    updates = min(len(curve["samples"]) for curve in curves)
    for start in range(0, updates, every):
        part = slice(start, min(start + every, updates))
        row = {key: fmean(c[key][part.stop - 1] for c in curves) for key in ("seconds", "samples")}
        rows.append(row | with_spread(column, [fmean(curve[column][part]) for curve in curves]))
    return rows


def reached(record: dict, name: str, share: float = 0.9, width: int = 4) -> list[dict]:
    """Per seed, where the share well-formed, a mean over `width` updates, first reaches `share`:
    "seconds" and "samples" (None: never), with the run's "highest" and how long it was in all.
    """
    rows = []
    for row in record["seeds"]:
        curve = row["ways"][name]["curve"]
        well = curve["well-formed"]
        means = [fmean(well[max(0, i - width + 1) : i + 1]) for i in range(len(well))]
        at = next((i for i in range(width - 1, len(well)) if means[i] >= share), None)
        found = {"seed": row["seed"], "first": well[0], "highest": max(means)}
        for key in ("seconds", "samples"):
            found |= {key: None if at is None else curve[key][at], f"{key} in all": curve[key][-1]}
        rows.append(found)
    return rows


def ends_of(record: dict) -> list[dict]:
    """A row per policy: figures of its poems at the end, means over the seeds; "well-formed" with
    its lowest and highest seed, and "greedy", the share of its likeliest poems that are
    well-formed. The first is the SFT poet.
    """
    seeds = record["seeds"]
    at = [row["poet"]["temperatures"] for row in seeds]
    found = {"SFT": [(one[str(TEMPERATURE)], one["0.0"]) for one in at]}
    for name in record["ways"]:
        found[name] = [(row["ways"][name]["end"], row["ways"][name]["greedy"]) for row in seeds]
    rows = []
    for name, each in found.items():
        row = {"policy": name}
        row |= with_spread("well-formed", [end["well-formed"] for end, _ in each])
        row |= with_spread("greedy", [greedy["well-formed"] for _, greedy in each])
        keys = [key for key in each[0][0] if key != "well-formed"]
        rows.append(row | {key: fmean(end[key] for end, _ in each) for key in keys})
    return rows


def controls(record: dict) -> list[dict]:
    """What needs no training: the SFT poet by temperature, and the best of n by the rule; the share
    well-formed, mean, lowest and highest of the seeds, and "by dice" of a random one of the n.
    """
    poets, rows = [row["poet"] for row in record["seeds"]], []
    for t in poets[0]["temperatures"]:
        each = [poet["temperatures"][t] for poet in poets]
        row = {"poems": "greedy" if float(t) == 0 else f"temperature {t}"}
        row |= with_spread("well-formed", [one["well-formed"] for one in each])
        rows.append(row | {"different": fmean(one["different"] for one in each)})
    for same in zip(*(poet["best_of_n"] for poet in poets), strict=True):
        row = {"poems": f"best of {same[0]['n']}"}
        row |= with_spread("well-formed", [one["by the rule"] for one in same])
        rows.append(row | {"by dice": fmean(one["by dice"] for one in same)})
    return rows
