"""Which exercises pass: `progress.json` in the runs folder, written by the checkers and shown in
notebook 14.

    {"03_reinforcement_learning": {"check_to_go": "2026-11-29T20:15:00+00:00", …}, …}

An exercise that two notebooks pose counts in both.
"""

import json
import os
from datetime import UTC, datetime

from filelock import FileLock

from labkit import runs

EXERCISES = {
    "00_start_here": ("check_guesses", "check_answer", "SFT · PPO · DPO"),
    "01_pretraining": ("check_next_token_loss", "check_bits_per_character", "muon · adamw"),
    "02_instruction_tuning": ("check_response_mask", "check_merged", "brief · not brief"),
    "03_reinforcement_learning": (
        "check_to_go",
        "check_baseline",
        "check_surprise",
        "check_gain",
        "γ = 0 · γ = 0.9 · γ = 1",
    ),
    "04_alphago_and_language_models": ("check_area", "check_advantages", "imitation · nothing"),
    "05_collecting_feedback": ("check_sides", "check_ranked_pairs", "check_cohen"),
    "06_reward_model": (
        "check_bradley_terry",
        "150, never wrong · 300, a tenth wrong · 500, four in ten wrong",
        "check_best_of_n_kl",
    ),
    "07_ppo": (
        "check_penalty",
        "check_surprise",
        "check_gain",
        "no penalty · no clip · six passes",
        "check_k3",
    ),
    "08_overoptimization": (
        "4 · 16 · 128 · 1024 · 8192",
        "check_stop",
        "check_cautious",
        "check_expected_best",
        "refusal · ai_disclaimer · hedging",
    ),
    "08b_verifiable_rewards": ("check_leave_one_out", "check_rule", "0.0 · 0.02 · 0.2"),
    "09_dpo": ("β = 0.02 · β = 0.1 · β = 1.0", "check_push", "check_smoothed_dpo"),
    "10_kto": ("up · down · both", "check_pull", "check_mismatched"),
    "11_ai_feedback": (
        "one is right · both are right · both are wrong",
        "check_both_orders",
        "check_position_share",
        "check_expected_score",
        "check_preference",
        "check_margin",
    ),
    "12_helpful_or_safe": (
        "check_margin_loss",
        "check_piecewise",
        "check_coin",
        "safety · equal · rule",
    ),
    "13_when_humans_cannot_judge": (
        "check_collapse",
        "check_thurstone",
        "check_ceiling",
        "PhD · job · both",
    ),
    "14_report_card": ("0 · 0.5 · 1 · 1.5", "check_wilson", "check_temperature_of"),
}
"""Each notebook's exercises: a checker, or what a prediction's guess is chosen from (`guessed`)."""


def guessed(guess, choices, experiment) -> str:
    """The name of a prediction: its choices."""
    return " · ".join(map(str, choices))


def file():
    """Where it is kept."""
    return runs.root() / "progress.json"


def passed() -> dict[str, dict[str, str]]:
    """{notebook: {exercise: when it first passed}}; {} where there is no file. Raises ValueError
    for one that is broken.
    """
    try:
        found = json.loads(file().read_text("utf8"))
    except FileNotFoundError:
        return {}
    if not isinstance(found, dict) or not all(isinstance(one, dict) for one in found.values()):
        raise ValueError("it holds no table of notebooks")
    return found


def note(exercise: str):
    """Write down that an exercise passes, beside what another kernel may write at the same time. A
    broken file is put aside. Nothing is raised: a checker goes on where the runs folder can't be
    written.
    """
    posing = [name for name, posed in EXERCISES.items() if exercise in posed]
    if not posing:
        return
    path, now = file(), datetime.now(UTC).isoformat(timespec="seconds")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(".progress.lock"), timeout=10):
            try:
                known = passed()
            except ValueError as error:
                path.replace(path.with_name("progress.broken.json"))
                print(
                    f"{path} was broken ({error}): it is progress.broken.json now, and a new one"
                    " begins."
                )
                known = {}
            for name in posing:
                known.setdefault(name, {}).setdefault(exercise, now)
            whole = path.with_name(f".progress.{os.getpid()}.tmp")
            whole.write_text(json.dumps(known, ensure_ascii=False, indent=1) + "\n", "utf8")
            whole.replace(path)
    except OSError as error:  # filelock's Timeout is one
        print(f"(Not noted in {path}: {error.strerror or error}.)")


def progress() -> list[dict]:
    """A row per notebook: "notebook", "passed" ("2 of 3"), "to do" (what has not passed yet)."""
    try:
        known = passed()
    except (OSError, ValueError) as error:
        print(f"{file()} can't be read ({error}); the next exercise that passes begins a new one.")
        known = {}
    rows = []
    for name, posed in EXERCISES.items():
        left = [one for one in posed if one not in known.get(name, ())]
        done = f"{len(posed) - len(left)} of {len(posed)}"
        rows.append({"notebook": name, "passed": done, "to do": "; ".join(map(title, left))})
    return rows


def title(exercise: str) -> str:
    """How a table calls it."""
    own = exercise.removeprefix("check_")
    return own.replace("_", " ") if own != exercise else f"predict: {exercise}"
