"""A model as a judge: which of two answers is better, or a score from 1 to 10.

    share of A = P("A" | both answers) / (P("A") + P("B"))      in one order (arXiv 2309.00267, 2.1)
    P(a better) = mean of the share of a shown first and of the share of a shown second
    score = Σ i · P(i) / Σ P(i), i = 1 … 10                     (the same paper, 2.2.2)

The judge answers a chat prompt, and only its first token is asked for. An adapter that was trained
on such prompts (stages/ai_feedback) is one judge, a base that is merely prompted is another.
"""

import torch

from labkit import LabError, models
from labkit.data import Demo, Pair, chat
from labkit.maths.logprobs import last_places
from labkit.rollout.pairs import differ

LETTERS = ("A", "B")
SCORES = tuple(str(i) for i in range(1, 11))
QUESTION = "Which answer is better?"
FRAME = 64  # tokens that the question and the names of the answers may have
ANSWER = 4  # tokens of a judge's answer: a letter or a score, and its end
SCORING = "How good is this answer, from 1 to 10?"


# --- what a judge is asked -----------------------------------------------------------------------


def pair_prompt(prompt: str, a: str, b: str, question: str = QUESTION) -> str:
    """What a judge reads of two answers; its answer is one of LETTERS.

    Each answer is followed by its letter: of five ways to write it, the tiny base learned most from
    this one (right in .67 of held-out pairs after 1,200, others in .62 and .63 after 800).
    """
    return f"{question} {prompt}\n1. {a} A\n2. {b} B"


def score_prompt(prompt: str, answer: str, question: str = SCORING) -> str:
    """What a judge reads of one answer; its answer is one of SCORES."""
    return f"{prompt}\nAnswer: {answer}\n{question}"


def pair_demo(pair, first: bool, question: str = QUESTION) -> Demo:
    """A seed judgement as a demonstration; first: the better answer stands there."""
    both = (pair.chosen, pair.rejected) if first else (pair.rejected, pair.chosen)
    asked = pair_prompt(pair.prompt, *both, question)
    return Demo(asked, LETTERS[0 if first else 1], "judgement")


def pair_demos(pairs, question: str = QUESTION) -> list[Demo]:
    """Seed judgements as demonstrations, each in both orders: the same two answers with the other
    letter say that the place is not what counts.
    """
    return [pair_demo(pair, first, question) for pair in pairs for first in (True, False)]


def score_demos(prompts, answers, scores, question: str = SCORING) -> list[Demo]:
    """Scores (whole numbers, 1 to 10) as demonstrations."""
    return [
        Demo(score_prompt(prompt, answer, question), SCORES[score - 1], "judgement")
        for prompt, answer, score in zip(prompts, answers, scores, strict=True)
    ]


# --- judges --------------------------------------------------------------------------------------


class Verdicts:
    """What every judge can do with `first` (one order) and `scores`."""

    name = "judge"
    question = QUESTION

    def first(self, prompts, a, b, question=None) -> tuple[torch.Tensor, torch.Tensor]:
        """(share of "A" (N,), probability of "A" and "B" together (N,)) with a[i] shown first.
        question: another one, or one for each pair.
        """
        raise NotImplementedError

    def scores(self, prompts, answers) -> torch.Tensor:
        """The expected score of each answer (N,), 1 to 10."""
        raise NotImplementedError

    def orders(self, prompts, a, b, question=None) -> tuple[torch.Tensor, float]:
        """(P(a[i] better) as judged with it first and with it second (N, 2); share of the verdicts
        that name neither letter).
        """
        (one, mass), (other, mass_too) = (
            self.first(prompts, *both, question) for both in ((a, b), (b, a))
        )
        neither = (torch.cat([mass, mass_too]) < 0.5).float().mean().item()
        return torch.stack([one, 1 - other], 1), neither

    def prefers(self, prompts, a, b, question=None) -> torch.Tensor:
        """P(a[i] better) (N,), both orders averaged: whoever always says "A" gives ½. LabError
        where most verdicts name neither letter.
        """
        orders, neither = self.orders(prompts, a, b, question)
        if neither > 0.5:
            raise LabError(
                f"The judge {self.name!r} answers neither A nor B in {neither:.0%} of its verdicts."
                " Train it on seed judgements (python -m labkit train ai-feedback), give it"
                " examples, or name a larger model."
            )
        return orders.mean(1)

    def position(self, prompts, a, b, question=None) -> dict:
        """How the order counts (see `places`)."""
        return places(*self.orders(prompts, a, b, question))

    def labels(self, prompts, a, b, question=None, clamp: float = 1.0) -> list[Pair]:
        """AI preferences: a Pair for each two answers that differ (`pairs.differ`), with the
        judge's probability, at most `clamp`, as its confidence.
        """
        shown = [i for i in range(len(prompts)) if differ(a[i], b[i])]
        if not shown:
            return []
        asked, one, other = ([side[i] for i in shown] for side in (prompts, a, b))
        if question is not None and not isinstance(question, str):
            question = [question[i] for i in shown]
        found = []
        for prompt, x, y, p in zip(
            asked, one, other, self.prefers(asked, one, other, question).tolist()
        ):
            both = (x, y) if p >= 0.5 else (y, x)
            sure = min(max(p, 1 - p), clamp)
            found.append(Pair(prompt, *both, rater=self.name, confidence=sure))
        return found


class Judge(Verdicts):
    """A language model as a judge: `adapter` of `model`, or (adapter "") a base as it is, prompted.

    question: what it is asked of two answers. examples: pairs judged before its eyes (few-shot).
    Its weights are taken as they are now: after training, make another one.
    """

    def __init__(
        self,
        model,
        tokenizer,
        adapter: str = "judge",
        question: str = QUESTION,
        examples=(),
        batch_size: int = 64,
    ):
        self.model, self.tokenizer, self.question = model, tokenizer, question
        self.name, self.batch_size = adapter or model.base_info["name"], batch_size
        self.passes = models.forward(model, adapter)
        shots = [pair_demo(pair, i % 2 == 0, question) for i, pair in enumerate(examples)]
        self.shots = "".join(f"{one.prompt}\n{one.response}\n\n" for one in shots)

    def first(self, prompts, a, b, question=None):
        question = self.question if question is None else question
        questions = [question] * len(prompts) if isinstance(question, str) else question
        told = zip(prompts, map(self.cut, a), map(self.cut, b), questions, strict=True)
        asked = [self.shots + pair_prompt(*one) for one in told]
        found = self.said(asked, LETTERS)
        mass = found.sum(1)
        return found[:, 0] / mass.clamp(min=1e-9), mass

    def scores(self, prompts, answers):
        told = zip(prompts, map(self.cut, answers), strict=True)
        found = self.said([score_prompt(*one) for one in told], SCORES)
        worth = torch.arange(1.0, 1 + len(SCORES))
        return found @ worth / found.sum(1).clamp(min=1e-9)

    def cut(self, answer: str) -> str:
        """The beginning of an answer that is too long: a quarter of the context is read of it."""
        most = (context(self.model) - ANSWER - FRAME) // 4
        ids = chat.encode_text(self.tokenizer, answer)
        return answer if len(ids) <= most else self.tokenizer.decode(ids[:most])

    def said(self, asked: list[str], options) -> torch.Tensor:
        """P(the answer to asked[i] is options[j]) (N, J), on the CPU, with a space before it or
        without. Where one option goes on as another one does ("1" as "10"), that one's share is
        taken off it.
        """
        rows = chat.check_lengths(self.tokenizer, asked, context(self.model) - ANSWER)
        ids_of = lambda text: tuple(chat.encode_text(self.tokenizer, text))
        ways = [{ids_of(option), ids_of(f" {option}")} for option in options]
        every = set().union(*ways)
        begins = self.begins(rows, every)

        def exactly(ids):
            longer = [more for more in every if more != ids and more[: len(ids)] == ids]
            return begins[ids] - sum(begins[more] for more in longer)

        return torch.stack([sum(map(exactly, way)) for way in ways], 1)

    def begins(self, rows, every) -> dict[tuple, torch.Tensor]:
        """{ids: P(what follows each of the rows begins with these ids) (N,)} for all of `every`:
        one pass over the rows for all that begin alike.
        """
        found = {(): torch.ones(len(rows))}
        for prefix in sorted({ids[:k] for ids in every for k in range(len(ids))}, key=len):
            k = len(prefix)
            after = sorted({ids[k] for ids in every if len(ids) > k and ids[:k] == prefix})
            shares = self.next_token([row + list(prefix) for row in rows], after)
            for token, share in zip(after, shares.T):
                found[(*prefix, token)] = found[prefix] * share
        return found

    @torch.no_grad()
    def next_token(self, rows: list[list[int]], tokens: list[int]) -> torch.Tensor:
        """P(token after row i is tokens[j]) (N, J)."""
        by_length = sorted(range(len(rows)), key=lambda i: len(rows[i]))

        def shares(part):
            ids, mask = chat.pad([rows[i] for i in part], self.tokenizer.pad_token_id)
            ids, mask = ids.to(self.model.device), mask.to(self.model.device)
            logits, _ = self.passes.logits_at(ids, mask, last_places(mask))
            return logits.float().softmax(-1)[:, tokens].cpu()

        found = torch.empty(len(rows), len(tokens))
        for i, share in zip(by_length, models.in_batches(shares, by_length, self.batch_size)):
            found[i] = share
        return found


def context(model) -> int:
    """How many tokens the model reads."""
    return getattr(model.config, "max_position_embeddings", None) or 2**30


def room(model, cfg) -> int:
    """How many tokens a judge's prompt may have: a prompt and two answers of the longest kind that
    cfg allows, and the words around them, where the model can read so much.
    """
    return min(cfg.max_prompt_tokens + 2 * cfg.max_response_tokens + FRAME, context(model) - ANSWER)


def fits(tokenizer, pair, question: str, tokens: int) -> bool:
    """Whether the question about this pair has at most so many tokens, the chat frame included."""
    asked = pair_prompt(pair.prompt, pair.chosen, pair.rejected, question)
    return len(chat.encode_prompt(tokenizer, asked)) <= tokens


def places(orders: torch.Tensor, neither: float) -> dict:
    """Of verdicts in both orders (N, 2): `follows_position`, the share of pairs in which both name
    the same place ("A" twice, or "B" twice); `says_a`, the share of "A" in all verdicts; `neither`;
    `n`.
    """
    better = orders > 0.5
    says_a = torch.stack([better[:, 0], ~better[:, 1]])
    return {
        "follows_position": (better[:, 0] != better[:, 1]).float().mean().item(),
        "says_a": says_a.float().mean().item(),
        "neither": neither,
        "n": len(orders),
    }


def examined(judge, pairs) -> dict:
    """How a judge's verdicts stand to those in `pairs`: `accuracy`, share of the pairs in which it
    prefers the chosen answer, both orders averaged; `accuracy_one_order`, share of its verdicts
    before that; and `places`.
    """
    told = ([getattr(pair, key) for pair in pairs] for key in ("prompt", "chosen", "rejected"))
    orders, neither = judge.orders(*told)
    return {
        "accuracy": (orders.mean(1) > 0.5).float().mean().item(),
        "accuracy_one_order": (orders > 0.5).float().mean().item(),
        **places(orders, neither),
    }
