"""The exercises of notebook 06: Bradley-Terry without overflow, and the exact KL of best-of-n."""

import math

from labkit.checks.core import solved

FAR = "exp(1000) overflows. With d = chosen − rejected: log(1 + e^−d); if d < 0, −d + log(1 + e^d)."
HOW = "The i-th worst is picked with p = (i/k)ⁿ − ((i − 1)/k)ⁿ; KL = Σ p log(p · k)."


@solved(
    "−log σ(chosen − rejected), and no difference is too large for it.",
    ((1.0, 1.0), "Equal scores are a coin toss: the loss is log 2."),
    ((2.0, 0.0), "The right order must cost less than log 2: mind the sign."),
    ((0.0, 2.0), "Only chosen − rejected counts."),
    ((500.0, -500.0), FAR),
    ((-500.0, 500.0), FAR),
)
def check_bradley_terry(chosen, rejected):
    """function(chosen, rejected) → −log σ(chosen − rejected) of two scores (floats), also where
    they are far apart.
    """
    d = chosen - rejected
    return max(-d, 0.0) + math.log1p(math.exp(-abs(d)))


@solved(
    "it lies below log n − (n − 1)/n, and nearer to it the more answers there are.",
    ((4, 1), "One sample is the policy itself, so its KL to the policy is 0."),
    ((1, 5), "Where only one answer is possible, choosing changes nothing."),
    ((2, 2), "Of two, the better is picked 3 times in 4: KL = ¼ log(¼ · 2) + ¾ log(¾ · 2)."),
    ((10, 4), HOW),
    ((1000, 8), HOW),
)
def check_best_of_n_kl(k, n):
    """function(k, n) → the exact KL of best-of-n to a policy with k equally likely answers, all
    scored differently.
    """
    shares = [(i / k) ** n - ((i - 1) / k) ** n for i in range(1, k + 1)]
    return sum(p * math.log(p * k) for p in shares if p > 0)
