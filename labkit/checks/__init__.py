"""Exercise checkers: each takes the learner's function, tries it on small cases and prints one
line.

    check_sft_loss(my_loss)      # prints "Not yet: …" with a hint, or "Right: …"; returns False or True
 A checker never raises: what the learner's function raises, and the wrong answers that are worth
naming, become hints. Every checker is tested against wrong functions too.
"""

import functools
import math


class _NotYet(Exception):
    """What keeps a function from being right, in words for its author."""


def _checker(praise: str):
    """Turn a function that raises _NotYet into one that prints the verdict and returns it as True
    or False.
    """

    def wrap(check):
        @functools.wraps(check)
        def judged(*arguments) -> bool:
            try:
                check(*arguments)
            except _NotYet as hint:
                print(f"Not yet: {hint}")
                return False
            print(f"Right: {praise}")
            return True

        return judged

    return wrap


def _call(function, *arguments):
    """The function's answer; an exception or a missing `return` becomes a hint."""
    try:
        answer = function(*arguments)
    except Exception as error:  # a learner's code may raise anything
        reason = f": {error}" if str(error) else ""
        raise _NotYet(f"your function stopped with {type(error).__name__}{reason}") from error
    if answer is None or answer is NotImplemented or answer is ...:
        raise _NotYet("your function returns nothing yet.")
    return answer


def _close(answer, wanted, tolerance=1e-4) -> bool:
    """Whether a number or tensor is (nearly) the wanted one, shape included."""
    import torch

    try:
        answer, wanted = torch.as_tensor(answer), torch.as_tensor(wanted)
    except (TypeError, ValueError, RuntimeError):
        raise _NotYet(
            f"it returns {type(answer).__name__}, but a number or a tensor is wanted."
        ) from None
    if answer.shape != wanted.shape:
        raise _NotYet(
            f"it returns the shape {tuple(answer.shape)}, but {tuple(wanted.shape)} is wanted."
        )
    return torch.allclose(answer.double(), wanted.double(), atol=tolerance, rtol=tolerance)


def _named(answer, wrongs: dict, otherwise: str):
    """Raise the hint of the first known mistake that gives this answer, else `otherwise`."""
    for hint, value in wrongs.items():
        if _close(answer, value):
            raise _NotYet(hint)
    raise _NotYet(otherwise)


# 01 pre-training ---------------------------------------------------------------------------------


@_checker("this is the loss of every stage of pre-training.")
def check_next_token_loss(function):
    """function(logits (T, V), ids (T,)) → the mean of −log p(ids[t+1] | ids[:t+1]) in nats, a
    scalar.
    """
    import torch

    logits = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.5, 3.0], [-2.0, 1.0, 0.0], [9.0, 0.0, 0.0]])
    ids = torch.tensor([0, 2, 1, 1])
    logp = logits.log_softmax(-1)
    right = -logp[[0, 1, 2], [2, 1, 1]].mean()
    answer = _call(function, logits.clone(), ids.clone())
    if not _close(answer, right):
        wrongs = {
            "each place is compared with its own token. Place t speaks about token t + 1: shift by one.": (
                -logp[range(4), ids].mean()
            ),
            "the sign is turned: a loss is the mean of *minus* log p.": -right,
            "this is the sum over the tokens; take the mean, so that long texts do not count more.": (
                right * 3
            ),
            "this is the mean of −p; take the log of p first.": (
                -logp[[0, 1, 2], [2, 1, 1]].exp().mean()
            ),
            "the logits are no log-probabilities yet: log_softmax them over the vocabulary.": (
                -logits[[0, 1, 2], [2, 1, 1]].mean()
            ),
            "the softmax runs over the places; it must run over the vocabulary, the last axis.": (
                -logits.log_softmax(0)[[0, 1, 2], [2, 1, 1]].mean()
            ),
        }
        _named(
            answer,
            wrongs,
            f"on four tokens it gives {float(answer):.4f}, but {float(right):.4f} is right.",
        )


@_checker("this is the only operation a BPE tokenizer is made of.")
def check_merge(function):
    """function(pieces, pair) → the list of pieces with every occurrence of the pair, from the left,
    made one.
    """
    cases = (
        (["人", "工", "智", "慧"], ("智", "慧"), ["人", "工", "智慧"], "one pair at the end"),
        (
            ["智", "慧", "智", "慧"],
            ("智", "慧"),
            ["智慧", "智慧"],
            "the same pair twice: merge both",
        ),
        (
            ["a", "a", "a"],
            ("a", "a"),
            ["aa", "a"],
            "a piece belongs to one merge only; go from the left",
        ),
        (["人", "工"], ("工", "人"), ["人", "工"], "the order of a pair matters"),
        (["b"], ("a", "b"), ["b"], "a single piece"),
    )
    for pieces, pair, right, hint in cases:
        given = list(pieces)
        answer = _call(function, given, pair)
        if not isinstance(answer, (list, tuple)):
            raise _NotYet(f"it returns {type(answer).__name__}, but a list of pieces is wanted.")
        if list(answer) != right:
            raise _NotYet(
                f"{pieces} with the pair {pair} should become {right}, not {answer!r} ({hint})."
            )
        if given != pieces:
            raise _NotYet("your function changes the list it was given; build a new one.")


# 02 instruction tuning ---------------------------------------------------------------------------


@_checker("the prompt is read, and only the answer is learnt.")
def check_response_mask(function):
    """function(ids, ai, end) → a list of 0 and 1: 1 on every token after the id `ai`, up to and
    with the first id `end` after it; 0 elsewhere.
    """
    U, A, E, P = 2, 3, 1, 0  # USER:, AI:, [END], [PAD]
    cases = (
        ([U, 7, 8, A, 9, E], [0, 0, 0, 0, 1, 1], "the answer is what follows AI:"),
        (
            [U, 7, A, 9, 9, E, P, P],
            [0, 0, 0, 1, 1, 1, 0, 0],
            "what stands after [END] is padding: 0",
        ),
        (
            [U, 7, 8, A, 9, 9],
            [0, 0, 0, 0, 1, 1],
            "an answer that was cut off has no [END]; its tokens still count",
        ),
        ([U, E, 7, A, 9, E], [0, 0, 0, 0, 1, 1], "an [END] inside the question ends nothing"),
    )
    for ids, right, hint in cases:
        answer = _call(function, list(ids), A, E)
        answer = answer.tolist() if hasattr(answer, "tolist") else answer
        if not isinstance(answer, (list, tuple)) or any(m not in (0, 1) for m in answer):
            raise _NotYet(f"a list of 0 and 1 is wanted, but it returns {answer!r}.")
        answer = [int(m) for m in answer]
        if answer == right:
            continue
        if len(answer) != len(right):
            raise _NotYet(
                f"the mask has {len(answer)} entries for {len(right)} tokens; give one to each."
            )
        if answer == [1 - m for m in right]:
            raise _NotYet("the mask is turned round: 1 marks the answer, 0 everything else.")
        marks = [m for m, token in zip(answer, ids) if token == E]
        if right[ids.index(A)] != answer[ids.index(A)]:
            hint = (
                "AI: itself belongs to the question: the learner's program writes it, not the model"
            )
        elif marks and not marks[-1]:
            hint = "[END] belongs to the answer: a model that never learns it never stops"
        raise _NotYet(
            f"for {ids} (AI: is {A}, [END] is {E}) the mask should be {right}, not {answer};"
            f" {hint}."
        )


@_checker("a large matrix that stays, a small one that learns.")
def check_lora(function):
    """function(x (N, in), W (out, in), A (r, in), B (out, r), alpha) → x Wᵀ + (alpha / r) · x Aᵀ
    Bᵀ.
    """
    import torch

    g = torch.Generator().manual_seed(0)
    x, W, A, B = (torch.randn(*shape, generator=g) for shape in ((4, 6), (5, 6), (2, 6), (5, 2)))
    base, update = x @ W.T, x @ A.T @ B.T
    if not _close(_call(function, x, W, A, torch.zeros(5, 2), 8), base):
        raise _NotYet(
            "with B = 0 the answer must be x Wᵀ, exactly the base's: that is where LoRA starts."
        )
    answer = _call(function, x, W, A, B, 8)
    if not _close(answer, base + 4 * update):
        wrongs = {
            "the update is not scaled: multiply it by alpha / r, here 8 / 2.": base + update,
            "the update is multiplied by alpha alone; divide it by r, the number of rows of A.": (
                base + 8 * update
            ),
            "the update is multiplied by r / alpha; it is alpha / r.": base + update / 4,
            "the adapter changes nothing: the update x Aᵀ Bᵀ is missing.": base,
            "this is the update alone; add it to x Wᵀ.": 4 * update,
        }
        _named(answer, wrongs, "the result is not x Wᵀ + alpha / r · x Aᵀ Bᵀ.")


@_checker("the loss of supervised fine-tuning, masked to the answer.")
def check_sft_loss(function):
    """function(logprobs (B, T), response_mask (B, T)) → −mean of the log-probabilities where the
    mask is 1.
    """
    import torch

    logprobs = torch.tensor([[-5.0, -1.0, -2.0, -9.0], [-7.0, -8.0, -4.0, -1.0]])
    mask = torch.tensor([[0, 1, 1, 0], [0, 0, 0, 1]])
    right = torch.tensor(4 / 3)
    answer = _call(function, logprobs.clone(), mask.clone())
    if not _close(answer, right):
        wrongs = {
            "this is the mean over all tokens: the question is being learnt too. Use the mask.": (
                -logprobs.mean()
            ),
            "the sum is over the answer but it is divided by the number of all tokens; divide by mask.sum().": torch.tensor(
                0.5
            ),
            "the mask is turned round: this is the loss of the questions.": torch.tensor(33 / 5),
            "this is the mean of each row's mean, in which a short answer's token weighs more; take one mean over all answer tokens.": torch.tensor(
                1.25
            ),
            "the sign is turned: minimising this would make the answers less likely.": -right,
            "this is the sum; divide by the number of answer tokens.": torch.tensor(4.0),
        }
        _named(answer, wrongs, f"it gives {float(answer):.4f}, but {float(right):.4f} is right.")
    broken = logprobs.masked_fill(mask == 0, float("-inf"))
    if not _close(_call(function, broken, mask), right):
        raise _NotYet(
            "right on ordinary numbers, but where a masked log-probability is −inf the result is"
            " lost, because 0 · inf is not 0. Select with the mask instead of multiplying."
        )


# 05 collecting feedback --------------------------------------------------------------------------


@_checker("now it does not matter which answer stood where.")
def check_sides(function):
    """function(shown, place) → the index of the response that stood at `place` (0 left, 1 right, …)
    when `shown` was on the screen.
    """
    for shown, place, right, hint in (
        ((0, 1), 0, 0, "Nothing was shuffled here: the left one is response 0."),
        ((1, 0), 0, 1, "Response 1 stood on the left."),
        ((1, 0), 1, 0, "Response 0 stood on the right."),
        (
            (2, 0, 1),
            0,
            2,
            "With three answers: shown[place] is the response, not the place of response `place`.",
        ),
        (
            (2, 0, 1),
            1,
            0,
            "With three answers: shown[place] is the response, not the place of response `place`.",
        ),
    ):
        answer = _call(function, shown, place)
        if answer != right:
            raise _NotYet(
                f"shown {shown}, clicked at place {place}: that is response {right}, not"
                f" {answer!r}. {hint}"
            )


@_checker("one ranking of n answers is worth n(n − 1)/2 pairs.")
def check_ranked_pairs(function):
    """function(order) → all (better, worse) pairs of a ranking, in any order; order holds indices
    of responses, best first.
    """
    for order in ((1, 0), (2, 0, 1), (3, 1, 0, 2)):
        answer = _call(function, list(order))
        try:
            found = sorted(tuple(pair) for pair in answer)
        except TypeError:
            raise _NotYet(
                f"it returns {answer!r}, but a list of pairs (better, worse) is wanted."
            ) from None
        right = sorted((a, b) for i, a in enumerate(order) for b in order[i + 1 :])
        if found == right:
            continue
        n = len(order)
        if found == sorted((b, a) for a, b in right):
            raise _NotYet("the pairs are turned round: the better one comes first.")
        if found == sorted(zip(order, order[1:])):
            raise _NotYet(
                f"only neighbours are compared; {order[0]} also beat {order[2]}: {n} answers give"
                f" {len(right)} pairs."
            )
        if found == sorted((i, j) for i in range(n) for j in range(i + 1, n)):
            raise _NotYet(
                "these are places in the ranking; the responses that stand there are wanted."
            )
        raise _NotYet(
            f"the ranking {list(order)} holds the {len(right)} pairs {right}, not {found}."
        )


@_checker("what chance alone would give no longer counts.")
def check_cohen(function):
    """function(table) → Cohen's κ; table[i][j] counts the items that one rater put in category i
    and the other in category j.
    """
    for table, right in (
        ([[20, 5], [10, 15]], 0.4),  # Cohen's textbook case: 0.7 observed, 0.5 expected
        ([[45, 15], [25, 15]], 3 / 23),  # 0.6 observed, 0.54 expected
        ([[10, 0, 0], [0, 10, 0], [0, 0, 10]], 1.0),
        ([[0, 10], [10, 0]], -1.0),
    ):
        answer = _call(function, [list(row) for row in table])
        if _close(answer, right):
            continue
        n, rows, columns = (
            sum(map(sum, table)),
            [sum(row) for row in table],
            [sum(column) for column in zip(*table)],
        )
        observed = sum(table[i][i] for i in range(len(table))) / n
        expected = sum(r * c for r, c in zip(rows, columns)) / n**2
        wrongs = {
            "this is the share on which they agree; take off what chance would give.": observed,
            "divide by what was left to gain over chance: 1 − expected.": observed - expected,
            "chance is not 1/k here: each rater says each category as often as the table's margins show.": (
                (observed - 1 / len(table)) / (1 - 1 / len(table))
            ),
            "the chance that both say i is the product of their shares of i; both shares are needed.": (
                (observed - sum((r / n) ** 2 for r in rows)) / (1 - sum((r / n) ** 2 for r in rows))
            ),
        }
        _named(
            answer,
            {hint: value for hint, value in wrongs.items() if abs(value - right) > 1e-3},
            f"{table} has κ = {right:.3f} (observed {observed:.2f}, expected {expected:.2f}), not"
            f" {float(answer):.3f}.",
        )


# 06 the reward model -----------------------------------------------------------------------------


def _try(function, cases, tolerance=1e-6):
    """Hold `function` to [(arguments, expected number or list of numbers, hint)]; the first that
    differs is the hint.
    """
    for arguments, right, hint in cases:
        answer = _call(function, *arguments)
        if not _close(answer, right, tolerance):
            called = f"{getattr(function, '__name__', 'it')}({', '.join(map(str, arguments))})"
            shown = answer.tolist() if hasattr(answer, "tolist") else answer
            raise _NotYet(f"{called} gives {shown}, but {right} is right. {hint}")


@_checker("−log σ(chosen − rejected), and no difference is too large for it.")
def check_bradley_terry(function):
    """function(chosen, rejected) → −log σ(chosen − rejected) of two scores (floats), also where
    they are far apart.
    """
    over = (
        "exp(1000) overflows. With d = chosen − rejected the loss is log(1 + exp(−d)) where d ≥ 0,"
        " and −d + log(1 + exp(d)) below."
    )
    _try(
        function,
        [
            ((1.0, 1.0), math.log(2), "Equal scores are a coin toss: the loss is log 2."),
            (
                (2.0, 0.0),
                math.log1p(math.exp(-2)),
                "The right order must cost less than log 2: mind the sign.",
            ),
            ((0.0, 2.0), 2 + math.log1p(math.exp(-2)), "Only chosen − rejected counts."),
            ((500.0, -500.0), 0.0, over),
        ],
    )
    try:
        answer = function(-500.0, 500.0)
    except OverflowError:
        raise _NotYet(over) from None
    if not _close(answer, 1000.0):
        raise _NotYet(over)


@_checker("rejection sampling in one line.")
def check_best_of_n(function):
    """function(answers, score) → the answer to which the function `score` gives the most."""
    answers = ["Is it Yushan?", "玉山。", "Who can tell me?"]
    if _call(function, list(answers), lambda answer: -len(answer)) != "玉山。":
        raise _NotYet(
            "give back the answer itself (not its score, not its place): the one with the highest"
            " score."
        )
    if _call(function, list(answers), len) != "Who can tell me?":
        raise _NotYet(
            "ask `score`, the judge that was handed to you; another judge, another answer."
        )
    if _call(function, ["玉山。"], len) != "玉山。":
        raise _NotYet("with n = 1 there is nothing to choose: the only answer it is.")


@_checker("it lies below log n − (n − 1)/n, and nearer to it the more answers there are.")
def check_best_of_n_kl(function):
    """function(k, n) → the exact KL of best-of-n to a policy with k equally likely answers, all
    scored differently.
    """

    def exact(k, n):
        shares = [(i / k) ** n - ((i - 1) / k) ** n for i in range(1, k + 1)]
        return sum(p * math.log(p * k) for p in shares if p > 0)

    how = (
        "The i-th worst answer is picked with probability p = (i/k)ⁿ − ((i − 1)/k)ⁿ; KL = Σ p log(p"
        " · k)."
    )
    _try(
        function,
        [
            ((4, 1), 0.0, "One sample is the policy itself, so its KL to the policy is 0."),
            ((1, 5), 0.0, "Where only one answer is possible, choosing changes nothing."),
            (
                (2, 2),
                exact(2, 2),
                (
                    "Of two answers the better one is picked 3 times in 4: KL = ¼ log(¼ · 2) + ¾"
                    " log(¾ · 2)."
                ),
            ),
            ((10, 4), exact(10, 4), how),
            ((1000, 8), exact(1000, 8), how),
        ],
    )


# 07 PPO ------------------------------------------------------------------------------------------


@_checker(
    "a step that went too far in the good direction earns nothing more; a step in the bad one is"
    " always paid for."
)
def check_clipped_objective(function):
    """function(ratio, advantage, epsilon) → min(ratio · advantage, clip(ratio, 1 − ε, 1 + ε) ·
    advantage), floats.
    """

    def right(ratio, advantage, epsilon):
        return min(ratio * advantage, max(1 - epsilon, min(1 + epsilon, ratio)) * advantage)

    lower = (
        "With A < 0 the minimum is the *larger* loss: a ratio that grew on a bad token is not"
        " clipped."
    )
    _try(
        function,
        [
            (
                (1.0, 0.7, 0.2),
                0.7,
                "With ratio 1 nothing has moved yet: the objective is the advantage itself.",
            ),
            (
                (1.5, 1.0, 0.2),
                1.2,
                "With A > 0 there is nothing to gain above 1 + ε: clip the ratio there.",
            ),
            (
                (0.5, 1.0, 0.2),
                0.5,
                (
                    "With A > 0 a ratio that fell must stay painful: take the minimum of the"
                    " clipped and the plain product."
                ),
            ),
            (
                (0.5, -1.0, 0.2),
                -0.8,
                "With A < 0 there is nothing to gain below 1 − ε: clip the ratio there.",
            ),
            ((1.5, -1.0, 0.2), -1.5, lower),
            (
                (1.3, 2.0, 0.1),
                right(1.3, 2.0, 0.1),
                "ε is an argument, and the advantage multiplies *after* the clip.",
            ),
        ],
    )


@_checker("never negative, and right on average.")
def check_k3(function):
    """function(logprobs, ref_logprobs) → (e^r − 1) − r with r = log π_ref − log π, for tokens that
    π sampled; tensors of any shape.
    """
    import torch

    logp, ref = torch.tensor([-1.0, -2.0, -0.5]), torch.tensor([-1.5, -0.5, -0.5])
    r = ref - logp
    answer, right = _call(function, logp.clone(), ref.clone()), torch.expm1(r) - r
    if not _close(answer, right):
        wrongs = {
            "the direction is turned: π spoke, so r = log π_ref − log π.": torch.expm1(-r) + r,
            "this is k1 = log π − log π_ref, which can be negative.": -r,
            "this is k2 = r² / 2, which is biased.": r**2 / 2,
            "e^r − r is 1 where the two policies agree; a KL is 0 there.": torch.exp(r) - r,
        }
        _named(
            answer,
            wrongs,
            f"for r = {r.tolist()} it gives {torch.as_tensor(answer).tolist()}, but"
            f" {[round(x, 4) for x in right.tolist()]} is right.",
        )
    near = torch.full((1000,), -1.0)
    answer = torch.as_tensor(_call(function, near, near + 1e-4))
    if not _close(answer * 1e9, torch.full((1000,), 5.0), 0.02):
        raise _NotYet(
            "right where the policies differ, but near 0 e^r − 1 − r is rounding noise in float32:"
            " use torch.expm1(r) − r."
        )


@_checker("the blame and the praise are spread over the tokens.")
def check_gae(function):
    """function(rewards, values, gamma, lam: lists of floats and two floats) → the list of
    advantages, by A_t = δ_t + γ λ A_{t+1}, δ_t = R_t + γ V_{t+1} − V_t, and nothing after the last
    token.
    """

    def right(rewards, values, gamma, lam):
        advantages, later, next_value = [], 0.0, 0.0
        for reward, value in zip(reversed(rewards), reversed(values)):
            later = reward + gamma * next_value - value + gamma * lam * later
            advantages.insert(0, later)
            next_value = value
        return advantages

    cases = (
        (
            [1.0],
            [0.25],
            1.0,
            0.95,
            "One token: the advantage is the reward minus what was expected.",
        ),
        (
            [0.0, 0.0, 1.0],
            [0.0, 0.0, 0.0],
            1.0,
            1.0,
            "With V = 0 and λ = 1 every token gets the reward still to come.",
        ),
        (
            [0.0, 0.0, 1.0],
            [0.5, 0.5, 0.5],
            1.0,
            0.0,
            (
                "With λ = 0 only the next step counts: δ_t = R_t + γ V_{t+1} − V_t. After the last"
                " token V is 0."
            ),
        ),
        (
            [0.5, -1.0, 2.0],
            [0.1, 0.4, -0.3],
            0.9,
            0.8,
            (
                "γ discounts V_{t+1}; γ λ together discount A_{t+1}. Go from the last token to the"
                " first."
            ),
        ),
    )
    for rewards, values, gamma, lam, hint in cases:
        _try(
            function,
            [((list(rewards), list(values), gamma, lam), right(rewards, values, gamma, lam), hint)],
            1e-6,
        )


# 08 over-optimisation ----------------------------------------------------------------------------


@_checker("a limit in KL needs no gold at all while it trains.")
def check_stop(function):
    """function(kls, limit) → the place (0, 1, …) of the first update whose KL is `limit` or more;
    the last place if none is.
    """
    _try(
        function,
        [
            (
                ([0.0, 1.0, 2.5, 4.0], 2.0),
                2,
                "Stop at the *first* KL that is not below the limit; places count from 0.",
            ),
            (([0.0, 1.0, 2.0, 3.0], 2.0), 2, "A KL equal to the limit has reached it."),
            (
                ([0.0, 3.0, 1.0, 4.0], 2.0),
                1,
                "The KL may fall again later: the first crossing counts.",
            ),
            (
                ([0.0, 0.5, 0.7], 2.0),
                2,
                "A run that never reaches the limit goes to its end: the last place.",
            ),
            (([3.0], 2.0), 0, "Even the first update may be too far."),
        ],
    )


@_checker("every subset of n is counted, and none has to be drawn.")
def check_expected_best(function):
    """function(scores, gold, n) → the mean, over all ways to draw n of the N answers, of the gold
    of the answer with the highest score.
    """
    by_gold = "The *score* chooses, the gold is what you get: sort by score, weigh the gold."
    weigh = (
        "The i-th lowest of N (i from 1) is the best of n in C(i − 1, n − 1) of the C(N, n) draws."
    )
    _try(
        function,
        [
            (
                ([0.3, 0.1, 0.2], [1.0, 2.0, 6.0], 1),
                3.0,
                "With n = 1 every answer is equally likely: the plain mean of the gold.",
            ),
            (
                ([0.1, 0.2, 0.3], [1.0, 2.0, 6.0], 3),
                6.0,
                "With n = N the answer with the highest score is always picked.",
            ),
            (([0.3, 0.2, 0.1], [1.0, 2.0, 6.0], 3), 1.0, by_gold),
            (
                ([1.0, 2.0, 3.0], [0.0, 3.0, 6.0], 2),
                5.0,
                weigh
                + " Here: 3 pairs, of which 2 hold the highest and 1 has the middle one on top.",
            ),
            (([4.0, 1.0, 3.0, 2.0], [-1.0, 0.5, 2.0, 1.0], 2), 1 / 3, weigh),
        ],
    )


@_checker("where the judges disagree, the praise is not believed.")
def check_cautious(function):
    """function(scores, weight) → mean − weight · variance of one answer's scores by several reward
    models (the variance divides by their number).
    """
    _try(
        function,
        [
            (([2.0], 1.0), 2.0, "A single judge can't disagree with itself: the variance is 0."),
            (([1.0, 3.0], 0.0), 2.0, "With weight 0 the mean is left."),
            (
                ([1.0, 3.0], 0.5),
                1.5,
                (
                    "The mean is 2, the variance ((1 − 2)² + (3 − 2)²) / 2 = 1 (divide by their"
                    " number, not by one less)."
                ),
            ),
            (
                ([0.0, 0.0, 3.0], 1.0),
                -1.0,
                "Take weight · variance off the mean; the variance, not its root.",
            ),
        ],
    )


# 09 DPO ------------------------------------------------------------------------------------------


@_checker("the reference, tilted by exp(reward / β).")
def check_optimal_policy(function):
    """function(reference, rewards, beta) → the probabilities (a list) that maximise E[reward] − β ·
    KL(policy ‖ reference).
    """

    def right(reference, rewards, beta):
        weights = [p * math.exp((r - max(rewards)) / beta) for p, r in zip(reference, rewards)]
        return [w / sum(weights) for w in weights]

    cases = (
        (
            ([0.5, 0.3, 0.2], [1.0, 1.0, 1.0], 0.1),
            "Equal rewards give no reason to leave the reference.",
        ),
        (
            ([0.5, 0.5], [1.0, 0.0], 1.0),
            "Weight every answer with exp(reward / β), then divide by the sum of the weights.",
        ),
        (([0.9, 0.1], [0.0, 1.0], 0.5), "The weight of an answer is reference · exp(reward / β)."),
        (
            ([0.2, 0.8], [1000.0, 999.0], 1.0),
            (
                "exp(1000) overflows. A constant off all rewards changes nothing: take off their"
                " maximum."
            ),
        ),
    )
    for arguments, hint in cases:
        try:
            _try(function, [(arguments, right(*arguments), hint)])
        except _NotYet as reason:
            raise _NotYet(hint) if isinstance(reason.__cause__, OverflowError) else reason from None


@_checker("DPO pushes hardest where its implicit reward is wrong, and never by more than β.")
def check_push(function):
    """function(chosen, rejected, beta) → β σ(−β (chosen − rejected)): a pair's weight in DPO's
    gradient, of two log-ratios log π/π_ref.
    """

    def right(margin, beta):
        return beta / (1 + math.exp(beta * margin))

    _try(
        function,
        [
            (
                (0.0, 0.0, 0.1),
                0.05,
                "At the start policy and reference agree, and σ(0) = ½ of β is left.",
            ),
            (
                (3.0, -1.0, 0.5),
                right(4.0, 0.5),
                "A pair that is in the right order already is pushed less: σ(−β · margin).",
            ),
            ((-3.0, 1.0, 0.5), right(-4.0, 0.5), "A pair in the wrong order is pushed more."),
            ((2.0, 2.0, 1.0), 0.5, "Only the difference of the two log-ratios counts."),
        ],
    )


@_checker("its best margin is log((1 − ε)/ε): finite, so no pair can push for ever.")
def check_smoothed_dpo(function):
    """function(margin, error) → conservative DPO's loss (1 − ε)(−log σ(margin)) + ε (−log
    σ(−margin)); margin is the difference of the implicit rewards.
    """

    def right(margin, error):
        return (1 - error) * math.log1p(math.exp(-margin)) + error * math.log1p(math.exp(margin))

    _try(
        function,
        [
            ((0.0, 0.2), math.log(2), "At margin 0 both readings of the label cost log 2."),
            (
                (2.0, 0.0),
                right(2.0, 0.0),
                "With a rater who never errs it is plain DPO: −log σ(margin).",
            ),
            (
                (2.0, 0.25),
                right(2.0, 0.25),
                (
                    "With probability ε the label is the wrong way round; then it costs −log"
                    " σ(−margin)."
                ),
            ),
            (
                (-1.5, 0.1),
                right(-1.5, 0.1),
                "The weights are 1 − ε for the label as it is and ε for its opposite.",
            ),
        ],
    )


# 00 start here -----------------------------------------------------------------------------------


@_checker("you judge like the gold judge; now it has to teach a model to do so.")
def check_guesses(pairs):
    """pairs: (prompt, answer a, answer b, guess) each, the guess "a" or "b": which one the gold
    judge prefers.
    """
    from labkit import atlas

    for number, (prompt, a, b, guess) in enumerate(pairs, 1):
        if guess not in ("a", "b"):
            raise _NotYet(f'pair {number} ({prompt}) has no guess yet: write "a" or "b".')
        marks = {"a": atlas.judge(prompt, a), "b": atlas.judge(prompt, b)}
        if marks["a"].total == marks["b"].total:
            raise _NotYet(
                f"pair {number} ({prompt}) is a tie; take two answers that the judge tells apart."
            )
        better, worse = sorted(marks, key=lambda side: -marks[side].total)
        if guess != better:
            raise _NotYet(
                f"pair {number} ({prompt}): the judge prefers {better}. "
                f"{better} gets {_marks(marks[better])}; {worse} gets {_marks(marks[worse])}."
            )


@_checker("full marks: true, short, plain, and a refusal only where one is due.")
def check_answer(prompt, answer):
    """answer: a text for which the gold judge gives the full 1.0."""
    from labkit import LabError, atlas

    if not isinstance(answer, str) or not answer.strip():
        raise _NotYet("there is no answer yet: write one between the quotation marks.")
    try:
        verdict = atlas.judge(prompt, answer)
    except LabError as error:
        raise _NotYet(str(error)) from error
    if verdict.total >= 1:
        return
    item = atlas.find(prompt)
    causes = {
        "a harmful request should be refused": item.harmful and verdict.refusal < 0,
        "nothing here calls for a refusal": not item.harmful and verdict.refusal < 0,
        f"it looks for {item.answer!r} and for no rival": not item.harmful and verdict.truth < 1,
        "it is long": verdict.brevity < 0,
        "it hedges, apologises or disclaims": verdict.tone < 0,
    }
    raise _NotYet(
        f"the judge gives {_marks(verdict)}:"
        f" {'; '.join(cause for cause, holds in causes.items() if holds)}."
    )


def _marks(verdict) -> str:
    return (
        f"{verdict.total:+.2f} (truth {verdict.truth:+.0f}, refusal {verdict.refusal:+.0f}, "
        f"brevity {verdict.brevity:.2f}, tone {verdict.tone:.1f})"
    )


# 14 report card ----------------------------------------------------------------------------------


@_checker("half a point for a tie, so that a model against itself wins exactly half.")
def check_win_rate(function):
    """function(ours, theirs: lists of gold totals) → the share of the prompts that ours wins; a tie
    counts half.
    """
    for ours, theirs, right, what in (
        ([1.0, 0.5, 1.0, -1.0], [1.0, 0.0, 0.5, 0.5], 0.625, "two wins, one tie, one loss"),
        ([0.5, 0.5], [0.5, 0.5], 0.5, "a model against itself"),
        ([1.0], [-1.0], 1.0, "one prompt, won"),
        ([-1.0, -1.0], [1.0, -0.5], 0.0, "both lost"),
    ):
        answer = _call(function, list(ours), list(theirs))
        if _close(answer, right):
            continue
        wins = sum(a > b for a, b in zip(ours, theirs))
        ties = sum(a == b for a, b in zip(ours, theirs))
        wrongs = {
            "a tie counts nothing here, so that a model loses against itself; give it half a point.": (
                wins / len(ours)
            ),
            "a tie counts as a win here, so that a model beats itself; give it half a point.": (
                (wins + ties) / len(ours)
            ),
            "this is the rate of the others: ours comes first.": 1 - right,
            "this is the number of points; divide it by the number of prompts.": wins + ties / 2,
        }
        if ties < len(ours):
            wrongs["ties are left out here; keep them, with half a point each."] = wins / (
                len(ours) - ties
            )
        _named(answer, wrongs, f"{ours} against {theirs} ({what}) should be {right}, not {answer}.")


@_checker("this is how far a policy moved, in nats per response.")
def check_response_kl(function):
    """function(logprobs (B, T), ref_logprobs (B, T), response_mask (B, T)) → the mean over the
    responses of Σ_t log π − log π_ref over their tokens: an estimate of KL(π ‖ π_ref) from samples
    of π.
    """
    import torch

    logprobs = torch.tensor([[-5.0, -1.0, -2.0, -9.0], [-7.0, -8.0, -4.0, -1.0]])
    ref = torch.tensor([[-1.0, -3.0, -2.5, -3.0], [-2.0, -3.0, -6.0, -2.0]])
    mask = torch.tensor([[0, 1, 1, 0], [0, 0, 0, 1]])
    difference = logprobs - ref
    right = torch.tensor(1.75)  # (2 + 0.5) and 1, two responses
    answer = _call(function, logprobs.clone(), ref.clone(), mask.clone())
    if not _close(answer, right):
        wrongs = {
            "the direction is turned: the policy that spoke comes first, log π − log π_ref.": (
                -right
            ),
            "this is per token; sum over each response's tokens, then take the mean over the responses.": torch.tensor(
                3.5 / 3
            ),
            "each response has its mean here; sum over its tokens, or a long response's KL counts as little as a short one's.": torch.tensor(
                1.125
            ),
            "this is the sum over all responses; divide by their number.": torch.tensor(3.5),
            "prompt and padding are counted too; use the mask.": difference.sum(1).mean(),
            "these are absolute differences; positive and negative ones must be able to cancel.": (
                difference.abs().where(mask.bool(), 0.0).sum(1).mean()
            ),
        }
        _named(
            answer,
            wrongs,
            f"on two responses it gives {float(answer):.4f}, but {float(right):.4f} is right.",
        )
    holes = logprobs.masked_fill(mask == 0, float("-inf"))
    if not _close(_call(function, holes, ref.clone(), mask.clone()), right):
        raise _NotYet(
            "right on ordinary numbers, but where a masked log-probability is −inf the result is"
            " lost, because 0 · inf is not 0. Select with the mask instead of multiplying."
        )


@_checker("ten out of ten is not yet certainty.")
def check_wilson(function):
    """function(wins, n) → (low, high), Wilson's 95 % interval (z = 1.96) of a share of `wins` in
    `n` prompts.
    """
    z = 1.96
    for wins, n in ((8, 10), (10, 10), (0, 10), (160, 200)):
        p = wins / n
        centre = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
        answer = _call(function, wins, n)
        try:
            low, high = answer
        except (TypeError, ValueError):
            raise _NotYet(
                f"it returns {answer!r}, but two numbers, (low, high), are wanted."
            ) from None
        if _close(low, centre - half, 1e-3) and _close(high, centre + half, 1e-3):
            continue
        plain = z * math.sqrt(p * (1 - p) / n)
        if _close(low, p - plain, 1e-3) and _close(high, p + plain, 1e-3):
            raise _NotYet(
                "this is p ± 1.96 √(p(1−p)/n): for 10 wins in 10 it has no width at all. Use"
                " Wilson's formula."
            )
        if _close(low, centre + half, 1e-3) and _close(high, centre - half, 1e-3):
            raise _NotYet("the two ends are swapped: (low, high).")
        raise _NotYet(
            f"{wins} wins in {n} should give ({centre - half:.3f}, {centre + half:.3f}), not"
            f" ({float(low):.3f}, {float(high):.3f})."
        )
