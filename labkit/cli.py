"""The command line: python -m labkit info | doctor | run | train | chat | export | runs | …

A verb is a function. tyro makes its options out of its arguments, and those of a stage's settings
out of the dataclass in config.py and the strings under the fields. It returns its report, a dict,
or (report, text) where people read more than "key: value" a line. Results go to standard output,
progress and warnings to standard error; with --json standard output holds one JSON object and
nothing else. Exit codes: 0 done, 1 a LabError (one line that says what to do) or what doctor found
to stop the labs, 2 wrong usage, 130 interrupted.

What is heavy (torch, transformers, plotly) is imported inside the verbs, so that --help and a
mistyped name answer at once.
"""

import contextlib
import functools
import json
import math
import os
import sys
from dataclasses import asdict, dataclass, fields, make_dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import tyro
from tyro.conf import Positional, arg, subcommand

from labkit import LabError, __version__, config, ranks, runs

# Stages whose runs write text, the furthest along first.
TALKS = ("kto", "dpo", "ppo", "sft", "pretrain")
DATA = ("corpus", "prompts")  # settings that --data names too: every stage has one such option
CONTINUATION, ANSWER = 100, 256  # tokens that a base adds to a text; that a chat model may answer


def main(argv=None) -> int:
    """Run one verb; returns the exit code. Wrong usage and --help raise SystemExit."""
    # A terminal that can't show 玉山 should still show the rest.
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):
            stream.reconfigure(errors="backslashreplace")
    argv = sys.argv[1:] if argv is None else argv
    if argv == ["--version"]:
        print(f"rlhf-labkit {__version__}")
        return 0
    if any("\ud800" <= c <= "\udfff" for word in argv for c in word):
        return fail("The command line holds bytes that are no UTF-8. Write it in UTF-8.")
    command = parse(argv)
    try:
        with spoken(command.json):
            found = command()
            report, text = found if isinstance(found, tuple) else (found, lines(found))
    except LabError as error:
        # An interrupted run says in a LabError where it lies (runs.start).
        return fail(error, 130 if isinstance(error.__context__, KeyboardInterrupt) else 1)
    except KeyboardInterrupt:
        return fail("Stopped.", 130)
    except OSError as error:
        if error.filename is None:
            raise
        said = f"{error.filename} can't be used ({error.strerror}). Choose another place, or set"
        return fail(LabError(f"{said} LABKIT_RUNS to a folder of yours."))  # of a readable length
    if command.json:
        with contextlib.suppress(AttributeError):
            sys.stdout.reconfigure(encoding="utf8")
        text = strict(report)
    if ranks.main():
        print(text)
    return int(report.get("ok") is False)  # doctor's


@contextlib.contextmanager
def spoken(as_json: bool):
    """Under --json whatever is printed inside becomes a message, too; of several processes only
    rank 0 is heard, beside the errors of all.
    """
    with contextlib.ExitStack() as apart:
        if not ranks.main():
            nowhere = apart.enter_context(open(os.devnull, "w"))
            apart.enter_context(contextlib.redirect_stdout(nowhere))
            apart.enter_context(contextlib.redirect_stderr(nowhere))
        elif as_json:
            apart.enter_context(contextlib.redirect_stdout(sys.stderr))
        yield


def parse(argv):
    """The command line as a dataclass: `json`, and the verb, which runs when it is called."""

    @dataclass
    class Command(grammar(VERBS)):
        json: bool = False
        """Print one JSON object."""

    return tyro.cli(
        Command,
        prog="python -m labkit",
        description="RLHF Labs: make a language model in three stages. (--version says which.)",
        args=argv,
        config=(
            tyro.conf.CascadeSubcommandArgs,  # --json stands anywhere
            tyro.conf.OmitArgPrefixes,
            tyro.conf.OmitSubcommandPrefixes,
            tyro.conf.PositionalMetavarFromFieldName,
            tyro.conf.FlagCreatePairsOff,
            tyro.conf.DisallowNone,
        ),
    )


def grammar(verbs: dict):
    """A table of verbs, or of such tables, as a dataclass that tyro makes subcommands of. Called,
    an instance runs the verb that was named.
    """

    def waiting(verb):
        @functools.wraps(verb)
        def bound(*args, **options):
            return functools.partial(verb, *args, **options)

        return bound

    kinds = [
        Annotated[Any, subcommand(name, constructor=grammar(verb), description=", ".join(verb))]
        if isinstance(verb, dict)
        else Annotated[Any, subcommand(name, constructor=waiting(verb))]
        for name, verb in verbs.items()
    ]
    run = {"__call__": lambda self: self.verb()}
    return make_dataclass("Verbs", [("verb", Union[tuple(kinds)])], namespace=run)  # noqa: UP007


def options(stage: str):
    """A dataclass of a stage's settings, each None until the command line names it. It inherits
    from the stage's own for the strings under the fields.
    """
    kind = config.KINDS[stage]

    def option(f):
        also = ["--data"] if f.name in DATA else None
        return arg(help_behavior_hint=f"(tiny: {f.default!r})", aliases=also)

    named = [(f.name, Annotated[f.type | None, option(f)], None) for f in fields(kind)]
    return make_dataclass(stage, named, bases=(kind,), namespace={"__post_init__": lambda _: None})


def given(settings) -> dict:
    """The settings that the command line names."""
    return {name: value for name, value in vars(settings).items() if value is not None}


def fail(message, code: int = 1) -> int:
    """Say it in one line on standard error; returns the exit code."""
    message = str(message)
    if not message.isprintable():  # rare, and charts bring plotly
        from labkit.charts.tables import visible

        message = visible(message)
    who = "labkit" if ranks.main() else f"labkit, process {ranks.rank()}"
    print(f"{who}: {message}", file=sys.stderr)
    return code


def strict(report: dict) -> str:
    """JSON, with null for NaN and infinities, which JSON does not have."""
    plain = json.loads(json.dumps(report), parse_constant=lambda _: None)
    return json.dumps(plain, ensure_ascii=False)


def lines(report: dict) -> str:
    """ "key: value" a line; what a value holds is written in one line."""
    from labkit.charts.tables import written

    def shown(value):
        if isinstance(value, dict):
            return ", ".join(f"{key} {shown(v)}" for key, v in value.items())
        if isinstance(value, (list, tuple)):
            return ", ".join(map(shown, value))
        return written(value, 4)

    return "\n".join(f"{key}: {shown(value)}" for key, value in report.items())


def table(rows: list[dict], digits: int = 2) -> str:
    """The rows as a Markdown table; "" where there are none."""
    from labkit.charts import table

    return str(table(rows, digits=digits)) if rows else ""


# --- train and use -------------------------------------------------------------------------------

Profile = Annotated[str | None, arg(help="tiny, small or gpu; else what `labkit info` names.")]


def info(profile: Profile = None):
    """What this machine would train: the profile and why, which would not fit, the device, the
    4-bit base and its adapter.
    """
    settings = config.profile(profile)
    why = "--profile says so" if profile else config.chosen()[1]
    from labkit import models

    model, _ = models.load_base(settings.sft.base)
    name = model.base_info["name"]
    return {
        "profile": settings.name,
        "why": why,
        "would not fit": {name: why for name in config.PROFILES if (why := config.lacks(name))},
        "device": runs.device().type,
        "model": name,
        **models.describe(models.add_lora(model, settings.sft)),
        "versions": runs.versions(),
        "unfinished": runs.unfinished(),
    }


def runs_list():
    """The whole runs, oldest first, and the unfinished ones of trainings that stopped."""
    whole = [
        {"name": run.name, "stage": run.stage, "seconds": run.info.get("seconds")}
        for run in runs.listing()
    ]
    report = {"folder": str(runs.root()), "runs": whole, "unfinished": runs.unfinished()}
    text = "\n\n".join(filter(None, (table(whole, digits=1), table(report["unfinished"]))))
    return report, text or f"There are no runs in {runs.root()} yet."


def runs_clean():
    """Delete the unfinished runs of trainings that are dead. One that a living process holds stays,
    and so does every whole run.
    """
    report = runs.clean()
    gone = [f"{name} is deleted ({size:,} bytes)" for name, size in report["removed"].items()]
    stays = [f"{name} stays: a process is training it" for name in report["at_work"]]
    return report, "\n".join([*gone, *stays, f"{report['bytes']:,} bytes are free again."])


def run(seeds: int = 1, base: str = "", ship: bool = False, profile: Profile = None):
    """The series without notebooks: every stage, then a report, also as a page (report.html in the
    runs folder).

    Args:
        seeds: How often, each time with another seed.
        base: A pretrain run (or Hub id) to start from; else one is pre-trained.
        ship: For maintainers: make the result the checkpoints in data/checkpoints.
    """
    settings = config.profile(profile)
    if seeds < 1:
        raise LabError(f"--seeds is {seeds}, but it must be 1 or more.")
    from labkit import series

    report = series.run(settings, seeds=seeds, base=base)
    if ship:
        series.ship(report)
    from labkit.labs import report_page

    seconds = {f"seconds, seed {one['seed']}": one["seconds"] for one in report["seeds"]}
    files = " and ".join(str(runs.root() / name) for name in report_page.FILES)
    parts = (
        table(report_page.every(report), digits=3),
        lines(seconds),
        f"The whole report: {files}",
    )
    return report, "\n\n".join(filter(None, parts))


def doctor():
    """Look for what would stop the labs on this machine or slow them down, and say the command that
    mends it. Exit status 1 where something stops them.
    """
    from labkit.doctor import doctor as look

    report = look()
    said = [
        "{}  {part}: {wrong}\n      → {mend}".format("STOPS" if one["stops"] else "note", **one)
        for one in report["findings"]
    ]
    end = "The labs can run here." if report["ok"] else "The labs can't run here yet."
    return report, "\n".join([*said, f"{end} (Looked at: {', '.join(report['checked'])}.)"])


def train(stage: str):
    """The verb that trains a stage into a run of its own, or goes on with one that stopped."""

    def verb(
        settings: options(stage),
        name: str | None = None,
        resume: str | None = None,
        profile: Profile = None,
        settings_file: Annotated[str, arg(name="config")] = "",
    ):
        named = config.read(settings_file, stage) if settings_file else {}
        named |= given(settings)
        config.refuse_idle(stage, named)
        if resume:
            if name or profile:
                raise LabError(
                    f"{resume} goes on under its own name and with its own settings: leave out"
                    f" --{'name' if name else 'profile'}."
                )
            begin = runs.resume(resume, stage, **named)
        else:
            cfg = config.change(getattr(config.profile(profile), stage), **named)
            begin = runs.start(stage, cfg, name)
        from labkit import charts, data, evals, stages

        probe = {"probe": evals.probe} if stage == "ppo" else {}
        with data.showing(), begin as run:
            run.listeners.append(charts.live(run))
            stages.module(stage).train(run.config, run, **probe)
        seconds = run.info["seconds"]
        report = {"run": run.name, "folder": str(run.path), "seconds": seconds}
        text = f"{run.name} is trained ({seconds:.0f} s): {run.path}\n{lines(run.evaluation)}"
        return report | {"evaluation": run.evaluation}, text

    verb.__doc__ = f"""{config.KINDS[stage].__doc__}

    Args:
        name: The run's name; else {stage}-001 and on.
        resume: Go on with a run that stopped, from its checkpoint and with its settings.
        settings_file: A JSON or YAML file of settings; the options named beside it come first.
    """
    return verb


def chat(
    prompt: Positional[tuple[str, ...]] = (),
    run: str = "",
    temperature: float | None = None,
    seed: int | None = None,
):
    """Talk to a run; without a prompt, a line at a time until Ctrl-D.

    Args:
        prompt: One prompt; without it, a prompt loop.
        run: Who answers: a run, an exported folder (adapter or merged) or a Hub id; else your
            newest run that can talk, else the shipped one.
        temperature: 0 is the likeliest answer; else 0, but 0.8 for a base, which would repeat
            itself.
        seed: Makes a sampled answer repeatable.
    """
    talker, asked = speaker(run), " ".join(prompt)
    if temperature is not None and not 0 <= temperature < math.inf:
        raise LabError(f"--temperature is {temperature:g}, but it must be a number, 0 or more.")
    if seed is not None and not 0 <= seed < config.SEEDS:
        raise LabError(f"--seed is {seed}, but it must be between 0 and {config.SEEDS - 1}.")
    from labkit import models
    from labkit.charts.tables import visible

    model, tokenizer = models.load_policy(talker if talker.stage else talker.name)
    if seed is not None:
        runs.seed_everything(seed)
    base = continues(talker, tokenizer)
    manner = "is a base model: it continues your text instead of answering" if base else "answers"
    print(f"{talker.name} {manner}.", file=sys.stderr)
    if asked:
        answer = reply(model, tokenizer, talker, asked, temperature)
        report = {"run": talker.name, "prompt": asked, "answer": answer}
        return report, visible(answer, newline="\n")
    with contextlib.suppress(ImportError):  # arrow keys and history, where there is readline
        import readline  # noqa: F401
    turns = []
    with contextlib.suppress(EOFError):
        while True:
            asked = input("> " if sys.stdin.isatty() else "").strip()
            try:
                if asked:
                    answer = reply(model, tokenizer, talker, asked, temperature)
                    turns.append({"prompt": asked, "answer": answer})
                    print(visible(answer, newline="\n"), flush=True)
            except LabError as error:
                fail(error)
    return {"run": talker.name, "turns": turns}, ""


def continues(run, tokenizer) -> bool:
    """Whether it is a base: a pretrain run, one exported, or a Hub's without a chat template."""
    from labkit import models

    stage = run.stage or models.stage_of(run.path)
    return stage == "pretrain" or not (stage or tokenizer.chat_template)


def speaker(name: str):
    """The run to talk to: `name`, else your newest run that can talk, else the shipped one that is
    furthest along. A model from elsewhere is a Run of no stage.
    """
    if name and runs.elsewhere(name):
        return runs.Run(Path(name), "", name)
    own = [run for run in runs.series() if run.stage in TALKS][-1:]
    came = filter(None, map(runs.shipped, TALKS))
    run = runs.load(name) if name else next(iter([*own, *came]), None)
    if run is None:
        raise LabError("There is no run to talk to yet. Train one: python -m labkit train pretrain")
    if run.stage not in TALKS:
        raise LabError(
            f"{run.name!r} is a {run.stage} run: it scores answers and writes none. Name a run of"
            f" {', '.join(TALKS)}."
        )
    return run


def reply(model, tokenizer, run, prompt: str, temperature: float | None) -> str:
    """The answer of a run; a base goes on from the prompt instead."""
    from labkit import rollout
    from labkit.data.chat import encode_prompt, encode_text

    base = continues(run, tokenizer)
    if temperature is None:
        temperature = 0.8 if base else 0.0
    asked = len((encode_text if base else encode_prompt)(tokenizer, prompt))
    context = model.config.max_position_embeddings
    longest = run.info.get("config", {}).get("max_response_tokens", ANSWER)
    room = min(CONTINUATION if base else longest, context // 2)
    if asked + room > context:
        raise LabError(
            f"The prompt has {asked} tokens, but this model reads {context} at a time and {room} of"
            " them are for its answer. Shorten the prompt."
        )
    text = rollout.answer(model, tokenizer, [prompt], room, temperature, framed=not base)[0]
    return prompt + text if base else text


def export(
    run: Positional[str],
    folder: Positional[str],
    form: Literal["merged", "adapter", "gguf"] = "merged",
):
    """Write a run as a plain Hugging Face folder, an adapter in PEFT's format or GGUF, with its
    model card.

    Args:
        run: The run's name.
        folder: A new or empty folder.
        form: merged loads in transformers and vLLM, adapter in peft, gguf in llama.cpp.
    """
    whole = runs.load(run)
    from labkit import models

    task = "SequenceClassification" if whole.stage == "reward" else "CausalLM"
    loaders = {"adapter": "peft.PeftModel", "gguf": "llama.cpp"}
    return {
        "run": run,
        "folder": str(models.export(whole, folder, form)),
        "loader": loaders.get(form, f"transformers.AutoModelFor{task}"),
    }


# --- ratings -------------------------------------------------------------------------------------

At = Annotated[str, arg(help="The store; else feedback.sqlite in the runs folder.")]
Rater = Annotated[str | None, arg(help="Of this rater only.")]
Mode = Annotated[str | None, arg(help="Only these: pair, regenerated, thumb, rank or scale.")]


def opened(store: str):
    """The store to read from. A verb that only looks makes none."""
    from labkit.feedback import Store

    path = config.expanded(store or runs.root() / "feedback.sqlite")
    if not path.exists():
        raise LabError(
            f"There are no ratings yet: {path} is not there. Rate something in notebook 05, or"
            " import a file."
        )
    return Store(path)


def ratings_list(store: At = "", rater: Rater = None, mode: Mode = None):
    """Show the ratings in the store, oldest first."""
    kept = opened(store)
    judged = kept.all(rater, mode)
    rows = [
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
    report = {"store": str(kept.path), "count": len(judged)}
    text = f"{table(rows, digits=1)}\n\n{len(judged):,} ratings in {kept.path}".lstrip()
    return report | {"ratings": [asdict(one) for one in judged]}, text


def verdict(one) -> str:
    """What a judgement says, in its responses' own words."""
    if isinstance(one.verdict, str):
        return one.verdict
    texts = [short(text) for text in one.responses]
    if one.mode == "thumb":
        return f"{'up' if one.verdict else 'down'}: {texts[0]}"
    if one.mode == "scale":
        return ", ".join(f"{score}: {text}" for score, text in zip(one.verdict, texts))
    order = one.verdict if one.mode == "rank" else (one.verdict, 1 - one.verdict)
    return " > ".join(texts[i] for i in order)


def short(text: str) -> str:
    """The beginning of a text, in one line."""
    return " ".join(text[:40].split("\n")) + "…" * (len(text) > 40) or "(empty)"


def ratings_export(folder: Positional[str], store: At = ""):
    """Write the ratings to a folder: ratings.jsonl (everything), preferences.jsonl and thumbs.jsonl
    (for training).

    Args:
        folder: Where to.
    """
    kept = opened(store)
    files = {name: str(path) for name, path in kept.export(folder).items()}
    return {"count": len(kept)} | files


def ratings_import(source: Positional[str], store: At = ""):
    """Add the ratings of a file, whole or not at all; what is there already is passed over.

    Args:
        source: ratings.jsonl of an export, pairs (chosen, rejected) as text, messages or
            hh-rlhf's dialogues, thumbs (label), PandaLM's three annotators, or a Hub id.
    """
    from labkit.feedback import Store

    kept = Store(store)
    report = {"new": kept.load(source), "count": len(kept), "store": str(kept.path)}
    return report, f"{report['new']:,} new ratings; {kept.path} now holds {report['count']:,}."


def ratings_rescue(store: At = ""):
    """Make a damaged store whole again with all that can still be read; a copy stays as it was."""
    from labkit.feedback.rescue import rescue

    report = rescue(store)
    return report, (
        f"{report['rescued']:,} ratings are in {report['store']}, {report['unreadable']:,} could"
        f" not be read; the damaged file is kept as {report['copy']}."
    )


def ratings_merge(stores: Positional[tuple[str, ...]], store: At = ""):
    """Merge stores into one, which keeps what it holds: no rating twice and none lost.

    Args:
        stores: The files to merge; none of them is changed.
    """
    if not stores:
        raise LabError("Name the stores to merge: python -m labkit ratings merge A.sqlite B.sqlite")
    from labkit.feedback import merge

    report = merge(stores, store or runs.root() / "feedback.sqlite")
    counted = (
        f"{report['new']:,} new ratings, {report['copies']:,} copies of one that was there;"
        f" {report['store']} now holds {report['count']:,}.",
        f"Judged again by the same rater: {report['again']:,} items alike,"
        f" {report['conflicts']:,} otherwise; all are kept."
        * bool(report["again"] + report["conflicts"]),
        f"{report['withdrawn']:,} ratings are out: their raters withdrew."
        * bool(report["withdrawn"]),
    )
    return report, "\n".join([*filter(None, counted), *map(shared_name, report["shared"])])


def shared_name(one: dict) -> str:
    """What speaks for two people behind one name."""
    several, more = one["stores"][:3], len(one["stores"]) - 3
    said = (
        f"{one['rater']!r} rates in {' and '.join(several)}{f' and {more} more' * (more > 0)}:"
        f" {one['common']} items in more than one, {one['differ']} judged otherwise,"
        f" {one['at_once']} clicks at the same moment."
    )
    if one["at_once"]:
        return (
            f"{said} Those are two people: rename one in his own store (ratings rename), and merge"
            " into a new one. (Simulated raters bear one name everywhere.)"
        )
    return f"{said} One person at two machines, or two people: ask."


def ratings_withdraw(rater: Positional[str], store: At = ""):
    """Take all ratings of a rater out of the store, for good: no import and no merge brings them
    back.

    Args:
        rater: The name or pseudonym.
    """
    kept = opened(store)
    report = {"withdrawn": kept.withdraw(rater), "count": len(kept), "store": str(kept.path)}
    return report, (
        f"{report['withdrawn']:,} ratings of {rater!r} are gone from {kept.path}. Exports and"
        " copies of it hold them until you write them anew or merge this store with them."
    )


def ratings_rename(rater: Positional[str], name: Positional[str], store: At = ""):
    """Give a rater a name that nobody has in this store."""
    kept = opened(store)
    report = {"renamed": kept.rename(rater, name), "store": str(kept.path)}
    return report, f"{report['renamed']:,} ratings are {name!r}'s now."


def ratings_agreement(store: At = "", rater: Rater = None, mode: Mode = None):
    """Do raters agree, with one another and with themselves? With 95 % intervals."""
    kept = opened(store)
    judged = kept.all(rater, mode)
    if not judged:
        raise LabError(f"{kept.path} holds no such rating. See: python -m labkit ratings list")
    from labkit.feedback.agreement import agreement

    report = agreement(judged)
    raters = [
        {"rater": name} | one | {key: figure(one[key]) for key in ("consistency", "left")}
        for name, one in report["raters"].items()
    ]
    parts = [table(raters, digits=1)]
    for kind in ("comparisons", "thumbs"):
        pairs = [
            {
                "raters": " and ".join(one["raters"]),
                "agreement": figure(one["agreement"]),
                "Cohen's κ": figure(one["cohen"]),
            }
            for one in report[kind]["pairs"]
        ]
        if pairs:
            fleiss = figure(report[kind]["fleiss"])
            parts += [f"{kind}\n{table(pairs)}", f"Fleiss' κ of all raters: {fleiss}"]
    return report, "\n\n".join(parts)


def figure(one: dict | None) -> str:
    """ "0.85 (0.82 to 0.88, n 999)" """
    if one is None or one["value"] is None:
        return "–"
    interval = f"{one['low']:.2f} to {one['high']:.2f}, " if one["low"] is not None else ""
    return f"{one['value']:.2f} ({interval}n {one['n']:,})"


# --- bench ---------------------------------------------------------------------------------------

Repeats = Annotated[int, arg(help="Runs of each side, of which the medians count.")]
Peer = Annotated[str, arg(help="The folder where TRL 1.12 is installed.")]


def bench_series(notebooks: Positional[tuple[str, ...]] = (), profile: Profile = None):
    """Execute the notebooks: seconds and peak memory of each.

    Args:
        notebooks: Which; else every notebook of notebooks/.
    """
    name = config.profile(profile).name
    from labkit import bench

    report = bench.series(notebooks, name)
    rows = [
        {"notebook": name, "seconds": one["seconds"], "peak MB": one["peak_rss_bytes"] / 1e6}
        for name, one in report["notebooks"].items()
    ]
    return report, f"{table(rows, digits=1)}\n\ntotal: {report['total_seconds']:.1f} s"


def bench_reruns(
    notebooks: Positional[tuple[str, ...]] = (), seed: int = 0, profile: Profile = None
):
    """Run notebooks as learners do: again, from the middle, after an interrupt, after their kernel
    was killed, two at once; peak memory of each pass.

    Args:
        notebooks: Which; else every notebook of notebooks/.
        seed: Of the order and the moments.
    """
    name = config.profile(profile).name
    from labkit.bench.reruns import reruns

    report = reruns(notebooks, name, seed)
    rows = [{"notebook": name} | one for name, one in report["notebooks"].items()]
    return report, f"{table(rows)}\n\nat once: {', '.join(report['together'])}"


def bench_pretrain(settings: options("pretrain"), profile: Profile = None):
    """Pre-training against the machine's matrix rate, and against plain AdamW; 120 steps unless
    --steps says otherwise.
    """
    cfg = config.profile(profile).pretrain
    from labkit import bench

    return bench.pretrain(config.change(cfg, **{"steps": bench.STEPS} | given(settings)))


def bench_feedback():
    """How long a rating takes to reach the disk when 10,000 are in the store."""
    from labkit import bench

    return bench.feedback()


def bench_rollout(run: str = "", repeats: Repeats = 5):
    """Sampling against transformers' generate on one 4-bit model, at three batch sizes.

    Args:
        run: The SFT run that answers; else the newest.
    """
    sft = runs.latest("sft", run)
    from labkit import atlas, bench, models

    prompts = atlas.prompts("train", 0, max(bench.BATCHES))
    report = bench.rollout(*models.load_policy(sft), prompts, repeats=repeats)
    rows = [
        {
            "batch": batch,
            "ours tokens/s": one["tokens_per_second"]["ours"],
            "generate tokens/s": one["tokens_per_second"]["generate"],
            "ratio": one["ratio_tokens_per_second"],
            "ratio, rows that end": one["natural"]["ratio_tokens_per_second"],
            "of the bound": one["fraction_of_bound"],
        }
        for batch, one in report["batches"].items()
    ]
    return report, table(rows)


def bench_ppo(
    settings: options("ppo"), peer: Peer = "", repeats: Repeats = 5, profile: Profile = None
):
    """PPO against TRL 1.12's, the last with a PPO: seconds to the same reward, samples per second,
    peak memory.
    """
    cfg = config.change(config.profile(profile).ppo, **given(settings))
    from labkit.bench import ppo

    report = ppo.compare(cfg, peer, repeats)
    keys = "samples_per_second seconds_per_update seconds_to_reward final_reward kl peak_bytes"
    rows = [
        {"median": key, "ours": report["ours"].get(key), "peer": report["peer"].get(key)}
        for key in [*keys.split(), "imported_bytes"]
    ]
    ratios = {k: v for k, v in report.items() if k.startswith("ratio") or k == "note"}
    return report, f"{table(rows)}\n\n{lines(ratios)}"


RECORDS = {
    "overoptimization": (
        "Proxy and gold against KL, for PPO with several cures and for best-of-n: notebook 08's "
        "record.",
        lambda lab, report: [lab.summary(report)],
    ),
    "form": (
        "Rhymed quatrains by rule: our PPO, TRL's GRPO and the weak rules: notebook 08b's record.",
        lambda lab, report: [lab.ends_of(report)],
    ),
    "thumbs": (
        "KTO beside DPO: equal numbers of labels, few thumbs up, flipped labels, pairs broken "
        "up: notebook 10's record.",
        lambda lab, report: [lab.summary(report)],
    ),
    "judges": (
        "Judges that learn from seed judgements, reward models and policies of their labels, "
        "and their scores: notebook 11's record.",
        lambda lab, report: [lab.summary(report), lab.policies(report), lab.of_scores(report)],
    ),
    "constitution": (
        "Constitutional AI, its two halves over seeds, by kind of label: notebook 11's record.",
        lambda lab, report: [lab.halves(report)],
    ),
    "self_rewarding": (
        "A model that learns from its own verdicts, round by round: notebook 11's record.",
        lambda lab, report: [lab.rounds(report)],
    ),
    "games.go": (
        "Go on 5×5: a net that imitates game records, then plays earlier versions of itself, "
        "against everybody: notebook 04's record. Standard error names the folder of its nets.",
        lambda lab, report: [lab.summary(report)],
    ),
    "games": (
        "Space Invaders from version 0 to PPO, reward shaping, curiosity, imitation, and "
        "CartPole: notebook 03's record.",
        lambda lab, report: [lab.record.summary(report)],
    ),
    "helpful_or_safe": (
        "Two reward models, of help and of harm, every weight between them by PPO and by DPO, "
        "and rounds of rejection sampling: notebook 12's record.",
        lambda lab, report: [lab.front(report, way) for way in ("ppo", "dpo")],
    ),
    "real_model": (
        "What a few demonstrations and PPO make of a model that others pre-trained (--profile "
        "small --base smollm2): notebooks 02's, 07's and 08's record.",
        lambda lab, report: [lab.taught(report), lab.ends(report, "careful"), lab.costs(report)],
    ),
    "wrong_judges": (
        "Judges who are divided, wrong, or agree only so far, and what they make of reward "
        "models and policies: notebook 13's record.",
        lambda lab, report: [lab.misled(report)],
    ),
}
"""The labs whose record a bench makes: {lab: (what it holds, what of it is printed)}."""


def verb_of(lab: str) -> str:
    """The name of a record's verb: "games.go" → "go"."""
    return lab.rpartition(".")[2].replace("_", "-")


def bench_record(lab: str):
    """The verb that makes the record of labs/LAB_jobs.py."""
    about, shown = RECORDS[lab]

    def verb(seeds: int | None = None, workers: int = 0, profile: Profile = None, base: str = ""):
        settings = config.profile(profile)
        if base:
            settings.adapt(base=base)
        from labkit import series

        view, jobs = (import_module(f"labkit.labs.{name}") for name in (lab, f"{lab}_jobs"))
        many = {} if seeds is None else {"seeds": seeds}  # else the lab's own number
        report = jobs.measure(jobs.Plan(series.full(settings), **many), workers)
        return report, "\n\n".join(map(table, shown(view, report)))

    verb.__doc__ = f"""{about} Stopped on the way, it goes on where it was.

    Args:
        seeds: How many; else 3 (games: 5).
        workers: Processes at once (0: as many as there are cores).
        base: Another base than the profile's.
    """
    return verb


def bench_film(profile: Profile = None):
    """The answers to one question after every update of PPO, at four weights of the KL penalty:
    notebook 00's film.
    """
    from labkit.bench import film as bench
    from labkit.labs import film

    report = bench.film_record(config.profile(profile))
    return report, "\n\n".join(str(table(film.ends(report, one), digits=2)) for one in film.KINDS)


def bench_gpu(base: str = "", peer: Peer = "", device: str = "cuda"):
    """Check and time everything on a CUDA card.

    Args:
        base: A Hub id, a folder or a pretrain run; else HuggingFaceTB/SmolLM2-135M.
        device: cpu tries the code without a card.
    """
    from labkit.bench import gpu

    return gpu.gpu(base or gpu.BASE, peer, device)


def plan(
    settings: options("ppo"),
    model: str = "8b",
    gpus: int = 1,
    card: str = "h100",
    price: float = 0.0,
):
    """What PPO with a base of some size would take on some cards: memory by part, seconds an
    update, cost. Settings that are not named are those of the profile gpu.

    Args:
        model: 0.6b, 1.7b, 4b, 8b, 14b or 32b (Qwen3's), a folder or a Hub id.
        gpus: How many cards share the work.
        card: t4, 4090, a100, h100 or h200.
        price: Of one card for an hour.
    """
    from labkit.bench.plan import plan as planned

    report = planned(model, config.change(config.gpu().ppo, **given(settings)), gpus, card, price)
    parts = [{"on each card": name, "GB": size} for name, size in report["memory"].items()]
    times = [{"assumed": name, "seconds": took} for name, took in report["seconds"].items()]
    rest = {key: value for key, value in report.items() if key not in ("memory", "seconds")}
    return report, f"{table(parts)}\n\n{table(times)}\n\n{lines(rest)}"


VERBS = {
    "info": info,
    "doctor": doctor,
    "plan": plan,
    "run": run,
    "train": {stage.replace("_", "-"): train(stage) for stage in config.STAGES},
    "chat": chat,
    "export": export,
    "runs": {"list": runs_list, "clean": runs_clean},
    "ratings": {
        "list": ratings_list,
        "export": ratings_export,
        "import": ratings_import,
        "rescue": ratings_rescue,
        "agreement": ratings_agreement,
        "merge": ratings_merge,
        "withdraw": ratings_withdraw,
        "rename": ratings_rename,
    },
    "bench": {
        "series": bench_series,
        "reruns": bench_reruns,
        "pretrain": bench_pretrain,
        "feedback": bench_feedback,
        "rollout": bench_rollout,
        "ppo": bench_ppo,
        "film": bench_film,
        **{verb_of(lab): bench_record(lab) for lab in RECORDS},
        "gpu": bench_gpu,
    },
}
