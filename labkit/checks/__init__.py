"""Exercise checkers, one file per notebook: each tries a learner's function on small cases, prints
one line ("Right: …", or "Not yet: …" with a hint) and returns True or False.

What passes is noted in the runs folder (`progress`).

Nothing here raises, trains or loads a model, except that check_prediction runs the experiment it is
given; what two checkers share stands in `core`.
"""

from labkit.checks.ai_feedback import check_both_orders, check_expected_score, check_position_share
from labkit.checks.class_mode import check_union
from labkit.checks.constitution import check_margin, check_preference
from labkit.checks.core import check_prediction
from labkit.checks.dpo import check_push, check_smoothed_dpo
from labkit.checks.feedback import check_cohen, check_ranked_pairs, check_sides
from labkit.checks.form import check_leave_one_out, check_rule
from labkit.checks.games import check_baseline, check_to_go
from labkit.checks.go import check_advantages, check_area
from labkit.checks.helpful_or_safe import check_coin, check_margin_loss, check_piecewise
from labkit.checks.instruction_tuning import check_merged, check_response_mask
from labkit.checks.kto import check_mismatched, check_pull
from labkit.checks.noting import progress
from labkit.checks.overoptimization import check_cautious, check_expected_best, check_stop
from labkit.checks.ppo import check_gain, check_k3, check_penalty, check_surprise
from labkit.checks.pretraining import check_bits_per_character, check_next_token_loss
from labkit.checks.report_card import check_temperature_of, check_wilson
from labkit.checks.reward_model import check_best_of_n_kl, check_bradley_terry
from labkit.checks.start_here import check_answer, check_guesses
from labkit.checks.wrong_judges import check_ceiling, check_collapse, check_thurstone

__all__ = [
    "check_advantages",
    "check_answer",
    "check_area",
    "check_baseline",
    "check_best_of_n_kl",
    "check_bits_per_character",
    "check_both_orders",
    "check_bradley_terry",
    "check_cautious",
    "check_ceiling",
    "check_cohen",
    "check_coin",
    "check_collapse",
    "check_expected_best",
    "check_expected_score",
    "check_gain",
    "check_guesses",
    "check_k3",
    "check_margin_loss",
    "check_leave_one_out",
    "check_margin",
    "check_merged",
    "check_mismatched",
    "check_next_token_loss",
    "check_penalty",
    "check_piecewise",
    "check_position_share",
    "check_prediction",
    "check_pull",
    "check_preference",
    "check_push",
    "check_ranked_pairs",
    "check_response_mask",
    "check_rule",
    "check_sides",
    "check_smoothed_dpo",
    "check_stop",
    "check_surprise",
    "check_temperature_of",
    "check_thurstone",
    "check_to_go",
    "check_union",
    "check_wilson",
    "progress",
]
