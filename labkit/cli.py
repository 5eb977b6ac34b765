"""The command line: python -m labkit info | run | train | chat | export | ratings | bench.
 Results go to standard output, progress and warnings to standard error; with --json standard output
holds one JSON object and nothing else. Exit codes: 0 done, 1 a LabError (one line that says what to
do), 2 wrong usage, 130 interrupted.
 Every command is a function of the parsed arguments that returns (report, text): a dict for --json
and the same for people. What is heavy (torch, transformers, plotly) is imported inside the
commands, so that --help and a mistyped name answer at once.
"""

import argparse
import ast
import contextlib
import inspect
import json
import math
import sys
from dataclasses import asdict, fields
from pathlib import Path

from labkit import LabError, __version__, config, runs
from labkit.charts.tables import table, visible, written

TALKS = ("dpo", "ppo", "sft", "pretrain")  # stages whose runs write text, the furthest along first
CONTINUATION = 100  # tokens that a base model adds to a text


def main(argv=None) -> int:
    """Run one command; returns the exit code."""
    for stream in (
        sys.stdout,
        sys.stderr,
    ):  # a terminal that can't show 玉山 should still show the rest
        with contextlib.suppress(AttributeError):
            stream.reconfigure(errors="backslashreplace")
    args = parser().parse_args(argv)
    try:
        # Under --json whatever a library prints becomes a message, too: standard output is for the
        # object alone.
        with contextlib.redirect_stdout(sys.stderr) if args.json else contextlib.nullcontext():
            report, text = args.command(args)
        print(json.dumps(finite(report)) if args.json else text)
        return 0
    except LabError as error:
        # An interrupted run says in a LabError where it lies (runs.start); it is an interrupt all
        # the same.
        return fail(str(error), 130 if isinstance(error.__context__, KeyboardInterrupt) else 1)
    except KeyboardInterrupt:
        return fail("Stopped.", 130)
    except OSError as error:
        if error.filename is None:
            raise
        return fail(
            f"{error.filename} can't be used ({error.strerror}). Choose another place, or set"
            " LABKIT_RUNS to a folder of yours.",
            1,
        )


def fail(message: str, code: int) -> int:
    """Say it in one line on standard error; returns the exit code."""
    print(f"labkit: {visible(message)}", file=sys.stderr)
    return code


def finite(value):
    """The value with null for NaN and infinities, which JSON does not have."""
    if isinstance(value, dict):
        return {key: finite(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def lines(report: dict) -> str:
    """ "key: value" a line; a dict inside is written in one line."""

    def shown(value):
        if isinstance(value, dict):
            return ", ".join(f"{key} {shown(v)}" for key, v in value.items())
        return (
            ", ".join(map(shown, value)) if isinstance(value, (list, tuple)) else written(value, 4)
        )

    return "\n".join(f"{key}: {shown(value)}" for key, value in report.items())


# --- commands ------------------------------------------------------------------------------------


def info(args):
    """What this machine would train: profile, device, the 4-bit base and its adapter."""
    profile = config.profile(args.profile)
    from labkit import models

    model, _ = models.load_base(profile.sft.base)
    name = model.base_info["name"]
    described = models.describe(models.add_lora(model, profile.sft))
    report = {
        "profile": profile.name,
        "device": runs.device().type,
        "model": name,
        **described,
        "versions": runs.versions(),
    }
    return report, lines(report)


def train(args):
    """Train one stage into a run of its own, or go on with one that stopped."""
    from labkit import charts

    if getattr(args, "resume", None):
        begin = runs.resume(args.resume, **given(args, config.Ppo))
    else:
        cfg = settings(args, getattr(config.profile(args.profile), args.stage))
        begin = runs.start(args.stage, cfg, args.name)
    from labkit import stages

    stage = stages.module(args.stage)
    with begin as run:
        run.listeners.append(charts.live(run))
        stage.train(run.config, run)
    report = {
        "run": run.name,
        "folder": str(run.path),
        "seconds": run.info["seconds"],
        "evaluation": run.evaluation,
    }
    return (
        report,
        f"{run.name} is trained ({run.info['seconds']:.0f} s): {run.path}\n{lines(run.evaluation)}",
    )


def run_series(args):
    """The series without notebooks: every stage, then a report."""
    profile = config.profile(args.profile)
    if args.seeds < 1:
        raise LabError(f"--seeds is {args.seeds}, but it must be 1 or more.")
    from labkit import series

    report = series.run(profile, seeds=args.seeds, base=args.base)
    if args.ship:
        series.ship(report)
    names = [f"seed {one['seed']}" for one in report["seeds"]]
    rows = [
        {
            "figure": key,
            **{name: one[key] for name, one in zip(names, report["seeds"])},
            "mean": mean,
            "spread": report["spread"][key],
        }
        for key, mean in report["mean"].items()
    ]
    habits = "\n".join(
        f"{key}: {written(value, 3)}" for key, value in report.get("habits", {}).items()
    )
    seconds = "\n".join(
        f"{name}: " + ", ".join(f"{stage} {value:.0f} s" for stage, value in one["seconds"].items())
        for name, one in zip(names, report["seeds"])
    )
    return (
        report,
        f"{habits}\n\n{table(rows, digits=3)}\n\n{seconds}\nThe whole report:"
        f" {runs.root() / 'report.json'}".lstrip(),
    )


def chat(args):
    """Talk to a run; without a prompt, a line at a time until Ctrl-D."""
    run = speaker(args.run)
    prompt = " ".join(args.prompt)
    if args.json and not prompt:
        raise LabError("chat --json answers one prompt: give it after the options.")
    from labkit import models

    model, tokenizer = models.load_policy(run)
    if args.seed is not None:
        runs.seed_everything(args.seed)
    if run.stage == "pretrain":
        print(
            f"{run.name} is a base model: it continues your text instead of answering.",
            file=sys.stderr,
        )
    else:
        print(f"{run.name} answers.", file=sys.stderr)
    if prompt:
        answer = reply(model, tokenizer, run, prompt, args.temperature)
        return {"run": run.name, "prompt": prompt, "answer": answer}, visible(answer, newline="\n")
    with contextlib.suppress(ImportError):  # arrow keys and history, where there is readline
        import readline  # noqa: F401
    with contextlib.suppress(EOFError):
        while True:
            prompt = input("> " if sys.stdin.isatty() else "").strip()
            try:
                if prompt:
                    print(
                        visible(
                            reply(model, tokenizer, run, prompt, args.temperature), newline="\n"
                        ),
                        flush=True,
                    )
            except LabError as error:
                fail(str(error), 1)
    return {}, ""


def speaker(name: str):
    """The run to talk to: `name`, else your newest run that can talk, else the shipped one that is
    furthest along.
    """
    own = [run for run in runs.listing() if run.stage in TALKS]
    run = (
        runs.load(name)
        if name
        else own[-1]
        if own
        else next(filter(None, map(runs.shipped, TALKS)), None)
    )
    if run is None:
        raise LabError("There is no run to talk to yet. Train one: python -m labkit train pretrain")
    if run.stage not in TALKS:
        raise LabError(
            f"{run.name!r} is a {run.stage} run: it scores answers and writes none. Name a run of"
            f" {', '.join(TALKS)}."
        )
    return run


def reply(model, tokenizer, run, prompt: str, temperature: float | None) -> str:
    """The answer of a run; a base goes on from the prompt instead. temperature None: greedy, but
    0.8 for a base, which would repeat itself.
    """
    from labkit import rollout
    from labkit.data.chat import encode_prompt, encode_text

    base = run.stage == "pretrain"
    if temperature is None:
        temperature = 0.8 if base else 0.0
    if temperature < 0:
        raise LabError(f"--temperature is {temperature:g}, but it must be 0 or more.")
    asked = len((encode_text if base else encode_prompt)(tokenizer, prompt))
    context = model.config.max_position_embeddings
    room = min(CONTINUATION if base else run.info["config"]["max_response_tokens"], context // 2)
    if asked + room > context:
        raise LabError(
            f"The prompt has {asked} tokens, but this model reads {context} at a time and {room} of"
            " them are for its answer. Shorten the prompt."
        )
    text = rollout.answer(model, tokenizer, [prompt], room, temperature, framed=not base)[0]
    return prompt + text if base else text


def export(args):
    """Write a run as a plain Hugging Face folder."""
    run = runs.load(args.run)
    from labkit import models

    folder = models.export(run, args.folder)
    loader = (
        "AutoModelForSequenceClassification" if run.stage == "reward" else "AutoModelForCausalLM"
    )
    return (
        {"run": run.name, "folder": str(folder)},
        (
            f"{run.name} → {folder}\nLoad it with transformers:"
            f" {loader}.from_pretrained({str(folder)!r})"
        ),
    )


def ratings_list(args):
    """Show the ratings in the store, oldest first."""
    kept = store(args)
    judged = kept.all(args.rater, args.mode)
    report = {
        "store": str(kept.path),
        "count": len(judged),
        "ratings": [asdict(one) for one in judged],
    }
    shown = [
        {
            "time": one.time[:19],
            "rater": one.rater,
            "mode": one.mode,
            "prompt": short(one.prompt),
            "verdict": verdict(one),
            "tags": ", ".join(one.tags),
            "seconds": one.seconds or None,
        }
        for one in judged
    ]
    return (
        report,
        f"{table(shown, digits=1) if shown else ''}\n\n{len(judged):,} ratings in {kept.path}".lstrip(),
    )


def verdict(one) -> str:
    """What a judgement says, in its responses' own words."""
    if isinstance(one.verdict, str):
        return one.verdict
    if one.mode == "thumb":
        return f"{'up' if one.verdict else 'down'}: {short(one.responses[0])}"
    if one.mode == "scale":
        return ", ".join(
            f"{score}: {short(text)}" for score, text in zip(one.verdict, one.responses)
        )
    order = one.verdict if one.mode == "rank" else (one.verdict, 1 - one.verdict)
    return " > ".join(short(one.responses[i]) for i in order)


def short(text: str) -> str:
    """The beginning of a text, in one line."""
    return visible(text if len(text) <= 40 else text[:39] + "…") or "(empty)"


def ratings_export(args):
    """Write the ratings to FOLDER: ratings.jsonl (everything), preferences.jsonl and thumbs.jsonl
    (for training).
    """
    kept = store(args)
    report = {"count": len(kept)} | {
        name: str(path) for name, path in kept.export(args.folder).items()
    }
    return report, lines(report)


def ratings_import(args):
    """Add the ratings of a file, whole or not at all; what is there already is passed over.

    SOURCE: ratings.jsonl of an export, pairs (chosen, rejected) as text, messages or hh-rlhf's
    dialogues, thumbs (label), PandaLM's three annotators, or a Hub id.
    """
    from labkit.feedback import Store

    kept = Store(args.store)
    report = {"new": kept.load(args.source), "count": len(kept), "store": str(kept.path)}
    return report, f"{report['new']:,} new ratings; {kept.path} now holds {report['count']:,}."


def ratings_agreement(args):
    """Do raters agree, with one another and with themselves? With 95 % intervals."""
    kept = store(args)
    judged = kept.all(args.rater, args.mode)
    if not judged:
        raise LabError(f"{kept.path} holds no such rating. See: python -m labkit ratings list")
    from labkit.feedback.agreement import agreement

    report = agreement(judged)
    raters = [
        {
            "rater": name,
            **{
                key: figure(value) if key in ("consistency", "left") else value
                for key, value in one.items()
            },
        }
        for name, one in report["raters"].items()
    ]
    parts = [str(table(raters, digits=1))]
    for kind in ("comparisons", "thumbs"):
        found = [
            {
                "raters": " and ".join(one["raters"]),
                "agreement": figure(one["agreement"]),
                "Cohen's κ": figure(one["cohen"]),
            }
            for one in report[kind]["pairs"]
        ]
        if found:
            parts.append(
                f"{kind}\n{table(found)}\n\nFleiss' κ of all raters:"
                f" {figure(report[kind]['fleiss'])}"
            )
    return report, "\n\n".join(parts)


def figure(one: dict | None) -> str:
    """ "0.85 (0.82 to 0.88, n 999)" """
    if one is None or one["value"] is None:
        return "–"
    interval = f"{one['low']:.2f} to {one['high']:.2f}, " if one["low"] is not None else ""
    return f"{one['value']:.2f} ({interval}n {one['n']:,})"


def store(args):
    """The store to read from. A command that only looks makes none."""
    from labkit.feedback import Store

    path = Path(args.store or runs.root() / "feedback.sqlite").expanduser()
    if not path.exists():
        raise LabError(
            f"There are no ratings yet: {path} is not there. Rate something in notebook 05, or"
            " import a file."
        )
    return Store(path)


def bench_feedback(args):
    """How long a rating takes to reach the disk when 10,000 are in the store."""
    from labkit import bench

    report = bench.feedback()
    return report, lines(report)


def bench_series(args):
    """Execute the notebooks: seconds and peak memory of each."""
    profile = config.profile(args.profile).name
    from labkit import bench

    report = bench.series(args.notebooks, profile)
    rows = [
        {"notebook": name, "seconds": found["seconds"], "peak MB": found["peak_rss_bytes"] / 1e6}
        for name, found in report["notebooks"].items()
    ]
    return report, f"{table(rows, digits=1)}\n\ntotal: {report['total_seconds']:.1f} s"


def bench_pretrain(args):
    """Pre-training against the machine's matrix rate, and against plain AdamW; 120 steps unless
    --steps says otherwise.
    """
    from labkit import bench

    cfg = settings(args, config.change(config.profile(args.profile).pretrain, steps=bench.STEPS))
    report = bench.pretrain(cfg)
    return report, lines(report)


def bench_rollout(args):
    """Sampling against transformers' generate on one 4-bit model, at three batch sizes."""
    run = runs.latest("sft", args.run)
    from labkit import atlas, bench, models

    report = bench.rollout(
        *models.load_policy(run),
        atlas.prompts("train", 0, max(bench.BATCHES)),
        repeats=args.repeats,
    )
    rows = [
        {
            "batch": batch,
            "ours tokens/s": found["tokens_per_second"]["ours"],
            "generate tokens/s": found["tokens_per_second"]["generate"],
            "ratio": found["ratio_tokens_per_second"],
            "ratio, rows that end": found["natural"]["ratio_tokens_per_second"],
            "of the bound": found["fraction_of_bound"],
        }
        for batch, found in report["batches"].items()
    ]
    return report, table(rows, digits=2)


def bench_ppo(args):
    """PPO against TRL 1.12's, the last with a PPO: seconds to the same reward, samples per second,
    peak memory.
    """
    from labkit.bench import ppo as bench_ppo

    report = bench_ppo.compare(
        settings(args, config.profile(args.profile).ppo), args.peer, args.repeats
    )
    keys = (
        "samples_per_second",
        "seconds_per_update",
        "seconds_to_reward",
        "final_reward",
        "kl",
        "peak_bytes",
        "imported_bytes",
    )
    rows = [
        {"median": key, **{side: report[side].get(key) for side in ("ours", "peer")}}
        for key in keys
    ]
    return (
        report,
        (
            f"{table(rows, digits=2)}\n\n{lines({key: value for key, value in report.items() if key.startswith('ratio') or key == 'note'})}"
        ),
    )


def bench_overoptimization(args):
    """Proxy and gold against KL, for PPO with several cures and for best-of-n, over seeds: notebook
    08's record.
    """
    from labkit.labs import overoptimization

    report = overoptimization.measure(config.profile(args.profile), args.seeds)
    return report, table(overoptimization.summary(report), digits=2)


def bench_gpu(args):
    """Check and time everything on a CUDA card."""
    from labkit.bench import gpu as bench_gpu

    report = bench_gpu.gpu(args.base or bench_gpu.BASE, args.peer, args.device)
    return report, lines(report)


# --- arguments -----------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    """The whole grammar; a stage's options are the fields of its dataclass."""
    top = argparse.ArgumentParser(
        prog="python -m labkit",
        description="RLHF Labs: make a language model in three stages.",
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"rlhf-labkit {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    add(commands, "info", info)
    one = add(commands, "run", run_series)
    one.add_argument(
        "--seeds",
        type=int,
        default=1,
        metavar="N",
        help="how often, each time with another seed [1]",
    )
    one.add_argument(
        "--base",
        default="",
        metavar="RUN",
        help="a pretrain run (or Hub id) to start from [pre-train one]",
    )
    one.add_argument(
        "--ship",
        action="store_true",
        help="for maintainers: make the result the checkpoints in data/checkpoints",
    )
    stages = group(commands, "train", "train one stage: " + ", ".join(config.STAGES), "STAGE")
    for stage in config.STAGES:
        kind = config.KINDS[stage]
        one = add(stages, stage, train, kind.__doc__)
        one.set_defaults(stage=stage)
        one.add_argument("--name", metavar="RUN", help=f"the run's name [{stage}-001 and on]")
        if stage == "ppo":
            one.add_argument(
                "--resume", metavar="RUN", help="go on with a run that stopped, from its checkpoint"
            )
        add_settings(one, kind)
    one = add(commands, "chat", chat)
    one.add_argument(
        "prompt", nargs="*", metavar="PROMPT", help="one prompt; without it, a prompt loop"
    )
    one.add_argument(
        "--run",
        default="",
        metavar="RUN",
        help="who answers [your newest run that can talk, else the shipped one]",
    )
    one.add_argument(
        "--temperature",
        type=float,
        metavar="X",
        help="0: the likeliest answer [0; for a base model 0.8]",
    )
    one.add_argument("--seed", type=int, metavar="N", help="makes a sampled answer repeatable")
    one = add(commands, "export", export)
    one.add_argument("run", metavar="RUN")
    one.add_argument("folder", metavar="FOLDER", help="a new or empty folder")
    ratings = group(commands, "ratings", "what was rated: list, export, import, agreement", "WHAT")
    for name, function, argument in (
        ("list", ratings_list, ""),
        ("export", ratings_export, "folder"),
        ("import", ratings_import, "source"),
        ("agreement", ratings_agreement, ""),
    ):
        one = add(ratings, name, function)
        one.add_argument(
            "--store",
            default="",
            metavar="FILE",
            help="the store [feedback.sqlite in the runs folder]",
        )
        if argument:
            one.add_argument(argument, metavar=argument.upper())
        else:
            one.add_argument("--rater", metavar="NAME", help="of this rater only")
            one.add_argument(
                "--mode",
                metavar="MODE",
                help="of this mode only: pair, regenerated, thumb, rank or scale",
            )
    benches = group(
        commands,
        "bench",
        "measure: series, pretrain, feedback, rollout, ppo, overoptimization, gpu",
        "WHAT",
    )
    one = add(benches, "series", bench_series)
    one.add_argument(
        "notebooks", nargs="*", metavar="NOTEBOOK", help="[every notebook of notebooks/]"
    )
    add_settings(add(benches, "pretrain", bench_pretrain), config.Pretrain)
    add(benches, "feedback", bench_feedback)
    repeats = dict(
        type=int, default=5, metavar="N", help="runs of each side, of which the medians count [5]"
    )
    peer = dict(default="", metavar="FOLDER", help="where TRL 1.12 is installed")
    one = add(benches, "rollout", bench_rollout)
    one.add_argument(
        "--run", default="", metavar="RUN", help="the SFT run that answers [the newest]"
    )
    one.add_argument("--repeats", **repeats)
    one = add(benches, "ppo", bench_ppo)
    one.add_argument("--peer", **peer)
    one.add_argument("--repeats", **repeats)
    add_settings(one, config.Ppo)
    one = add(benches, "overoptimization", bench_overoptimization)
    one.add_argument("--seeds", type=int, default=3, metavar="N", help="how many seeds [3]")
    one = add(benches, "gpu", bench_gpu)
    one.add_argument(
        "--base",
        default="",
        metavar="BASE",
        help="a Hub id, a folder or a pretrain run [HuggingFaceTB/SmolLM2-135M]",
    )
    one.add_argument("--peer", **peer)
    one.add_argument(
        "--device", default="cuda", help=argparse.SUPPRESS
    )  # cpu: try the code without a card
    return top


def group(commands, name: str, text: str, metavar: str):
    """A command that has commands of its own."""
    return commands.add_parser(
        name, help=text, description=text, allow_abbrev=False
    ).add_subparsers(required=True, metavar=metavar)


def add(commands, name: str, function, text: str = "") -> argparse.ArgumentParser:
    """One command with the options that all have."""
    text = (text or function.__doc__ or "").strip()
    one = commands.add_parser(
        name, help=text.partition("\n")[0].replace("%", "%%"), description=text, allow_abbrev=False
    )
    one.set_defaults(command=function)
    one.add_argument("--json", action="store_true", help="print one JSON object")
    one.add_argument(
        "--profile",
        metavar="NAME",
        help=f"{', '.join(config.PROFILES)} [LABKIT_PROFILE, else tiny]",
    )
    return one


def add_settings(one, kind):
    """An option for every field of a stage's dataclass: learning_rate → --learning-rate."""
    texts, options = (
        docstrings(),
        one.add_argument_group("settings (in brackets: the value in the profile tiny)"),
    )
    for f in fields(kind):
        text = next(
            (texts[c.__name__, f.name] for c in kind.__mro__ if (c.__name__, f.name) in texts), ""
        )
        options.add_argument(
            "--" + f.name.replace("_", "-"),
            type=f.type,
            default=argparse.SUPPRESS,
            metavar={int: "N", float: "X"}.get(f.type, "TEXT"),
            help=f"{text} [{f.default}]".strip().replace("%", "%%"),
        )


def settings(args, cfg):
    """`cfg` with the settings that were given on the command line."""
    return config.change(cfg, **given(args, cfg))


def given(args, kind) -> dict:
    """The settings of a config class (or instance) that the command line names."""
    return {f.name: getattr(args, f.name) for f in fields(kind) if hasattr(args, f.name)}


def docstrings() -> dict:
    """{(class, field): the string under the field} of config.py; Python itself keeps no such
    strings.
    """
    found = {}
    for node in ast.parse(inspect.getsource(config)).body:
        for field, text in zip(getattr(node, "body", []), getattr(node, "body", [])[1:]):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
            ):
                found[node.name, field.target.id] = text.value.value
    return found
