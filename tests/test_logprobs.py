"""The shift, masked sums and KL estimators, on numbers worked out by hand."""

import math

import pytest
import torch
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import LlamaConfig, LlamaForCausalLM

from labkit import LabError
from labkit.maths import kl
from labkit.maths.kl import entropy, full_kl, kl_k1, kl_k2, kl_k3
from labkit.maths.logprobs import (
    last_index,
    masked_mean,
    masked_sum,
    masked_var,
    masked_whiten,
    position_ids,
    response_logprobs,
    shift_mask,
    shift_values,
)

GARBAGE = (1e9, -1e9, float("inf"), float("nan"))
X = torch.tensor([[1.0, 2.0, 3.0, 0.0], [5.0, 0.0, 0.0, 0.0]])
MASK = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]])  # the four values 1, 2, 3, 5


def tiny_llama(seed=0):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        initializer_range=0.5,  # wide, so that the model is far from uniform
    )
    return LlamaForCausalLM(config).eval()


# The shift ---------------------------------------------------------------------------------------


def test_logprobs_belong_to_the_next_token():
    # Two words. Position 0 says (1/4, 3/4), position 1 (1/2, 1/2); position 2 is about no token.
    logits = torch.tensor([[[1.0, 3.0], [1.0, 1.0], [99.0, 1.0]]]).log()
    ids = torch.tensor([[0, 1, 0]])
    # token 1 at column 0: log 3/4; token 0 at column 1: log 1/2
    assert_close(response_logprobs(logits, ids), torch.tensor([[math.log(3 / 4), math.log(1 / 2)]]))


def test_the_first_token_and_the_last_logits_do_not_count():
    torch.manual_seed(0)
    logits, ids = torch.randn(2, 5, 7), torch.randint(7, (2, 5))
    before = response_logprobs(logits, ids)
    logits[:, -1] = 1e9
    ids[:, 0] = 6
    assert torch.equal(response_logprobs(logits, ids), before)


def test_temperature_divides_the_logits():
    # Logits (2, 0) at temperature 2 are (1, 0): probability e / (e + 1).
    logits, ids = torch.tensor([[[2.0, 0.0], [0.0, 0.0]]]), torch.tensor([[0, 0]])
    assert response_logprobs(logits, ids, 2.0).item() == pytest.approx(-math.log(1 + math.exp(-1)))
    assert response_logprobs(logits, ids).item() == pytest.approx(-math.log(1 + math.exp(-2)))


@pytest.mark.parametrize("temperature", [0, -1.0])
def test_temperature_must_be_positive(temperature):
    with pytest.raises(LabError, match="temperature"):
        response_logprobs(torch.zeros(1, 2, 3), torch.zeros(1, 2, dtype=torch.long), temperature)


def test_logprobs_equal_log_softmax_value_and_gradient():
    torch.manual_seed(0)
    ids = torch.randint(11, (3, 6))
    ours = (5 * torch.randn(3, 6, 11)).requires_grad_()
    plain = ours.detach().clone().requires_grad_()
    got = response_logprobs(ours, ids, temperature=0.7)
    slow = [(plain[b, t] / 0.7).log_softmax(-1)[ids[b, t + 1]] for b in range(3) for t in range(5)]
    expected = torch.stack(slow).view(3, 5)
    assert_close(got, expected)
    weights = torch.randn(3, 5)
    (got * weights).sum().backward()
    (expected * weights).sum().backward()
    assert_close(ours.grad, plain.grad)


def test_half_precision_logits_give_float32_logprobs():
    torch.manual_seed(0)
    logits, ids = torch.randn(2, 4, 50).bfloat16(), torch.randint(50, (2, 4))
    got = response_logprobs(logits, ids)
    assert got.dtype == torch.float32
    assert_close(got, response_logprobs(logits.float(), ids))


def test_nothing_of_the_size_of_the_logits_is_kept_for_the_backward_pass():
    kept = []
    logits, ids = torch.randn(2, 5, 1000, requires_grad=True), torch.randint(1000, (2, 5))
    own = logits.untyped_storage().data_ptr()

    def copies(function):
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
            function()
        return [
            t for t in kept if t.numel() >= 2 * 4 * 1000 and t.untyped_storage().data_ptr() != own
        ]

    assert not copies(lambda: response_logprobs(logits, ids))
    assert copies(
        lambda: logits.log_softmax(-1).gather(-1, ids.unsqueeze(-1))
    )  # so the hook does see a copy


def test_masks_and_values_shift_with_the_logprobs():
    mask = torch.tensor([[0, 0, 1, 1], [0, 1, 1, 0]])
    assert shift_mask(mask).tolist() == [[0, 1, 1], [1, 1, 0]]
    values = torch.tensor([[10.0, 11.0, 12.0, 13.0]])
    assert shift_values(values).tolist() == [
        [10.0, 11.0, 12.0]
    ]  # 11 is known before token 2 is chosen


def test_logprobs_of_a_model_do_not_see_the_future():
    model = tiny_llama()
    ids = torch.tensor([[3, 4, 5, 6, 7]])
    other = torch.tensor([[3, 4, 5, 9, 9]])
    with torch.no_grad():
        a, b = (response_logprobs(model(input_ids=x).logits, x) for x in (ids, other))
    assert_close(a[:, :2], b[:, :2])  # tokens 1 and 2 are alike in both
    assert (a[:, 2:] - b[:, 2:]).abs().min() > 1e-3


def test_position_ids():
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    assert position_ids(mask)[0].tolist() == [0, 0, 0, 1, 2]
    assert position_ids(mask)[1].tolist() == [0, 1, 2, 3, 4]
    assert position_ids(mask)[2, :2].tolist() == [0, 1]
    assert position_ids(mask.bool()).dtype == torch.long


def test_left_padding_changes_no_logprob():
    model = tiny_llama()
    ids = torch.tensor([[3, 4, 5, 6]])
    padded = torch.tensor([[0, 0, 3, 4, 5, 6]])
    mask = torch.tensor([[0, 0, 1, 1, 1, 1]])
    with torch.no_grad():
        alone = response_logprobs(model(input_ids=ids).logits, ids)
        logits = model(
            input_ids=padded, attention_mask=mask, position_ids=position_ids(mask)
        ).logits
    assert_close(response_logprobs(logits, padded)[:, -3:], alone, atol=1e-5, rtol=1e-5)


def test_last_index():
    mask = torch.tensor([[0, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]])
    assert last_index(mask).tolist() == [2, 3, 0, 3, 0]
    assert last_index(mask.bool()).tolist() == [2, 3, 0, 3, 0]


# Masked sums -------------------------------------------------------------------------------------


def test_masked_sums_by_hand():
    assert masked_sum(X, MASK).item() == 11  # 1 + 2 + 3 + 5
    assert masked_sum(X, MASK, dim=1).tolist() == [6, 5]
    assert masked_mean(X, MASK).item() == 2.75  # 11 / 4
    assert masked_mean(X, MASK, dim=1).tolist() == [2, 5]  # 6 / 3 and 5 / 1
    # Squared distances from 2.75: 3.0625 + 0.5625 + 0.0625 + 5.0625 = 8.75; / 4, not / 3
    assert masked_var(X, MASK).item() == 2.1875


def test_masked_mean_of_nothing_is_zero():
    none = torch.zeros_like(MASK)
    assert masked_mean(X, none).item() == 0
    assert masked_mean(X, torch.tensor([[1, 1, 1, 0], [0, 0, 0, 0]]), dim=1).tolist() == [2, 0]


def test_whiten_by_hand():
    # Values 1, 3: mean 2, biased variance 1 (the unbiased one would be 2)
    x, mask = torch.tensor([[1.0, 3.0, 7.0]]), torch.tensor([[1, 1, 0]])
    assert_close(masked_whiten(x, mask), torch.tensor([[-1.0, 1.0, 0.0]]))
    assert_close(
        masked_whiten(x, mask, shift_mean=False), torch.tensor([[1.0, 3.0, 0.0]])
    )  # -1 + 2, 1 + 2
    # Values 2, 6: mean 4, variance 4: halved distances
    x = torch.tensor([[2.0, 6.0, 7.0]])
    assert_close(masked_whiten(x, mask), torch.tensor([[-1.0, 1.0, 0.0]]))
    assert_close(masked_whiten(x, mask, shift_mean=False), torch.tensor([[3.0, 5.0, 0.0]]))


def test_whiten_gives_mean_0_variance_1_and_survives_no_spread():
    white = masked_whiten(X, MASK)
    assert masked_mean(white, MASK).item() == pytest.approx(0, abs=1e-6)
    assert masked_var(white, MASK).item() == pytest.approx(1, abs=1e-6)
    assert masked_whiten(torch.full((1, 3), 4.0), torch.ones(1, 3)).tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("kind", [torch.long, torch.bool, torch.float32])
def test_garbage_in_padded_places_changes_nothing(garbage, kind):
    mask = MASK.to(kind)
    dirty = X.where(MASK.bool(), garbage)
    for function in (masked_sum, masked_mean, masked_var, masked_whiten):
        assert torch.equal(function(dirty, mask), function(X, mask))
    for function in (masked_sum, masked_mean):
        assert torch.equal(function(dirty, mask, dim=1), function(X, mask, dim=1))
    dirty.requires_grad_()
    masked_mean(dirty, mask).backward()
    assert_close(dirty.grad, MASK / 4.0)


# KL and entropy ----------------------------------------------------------------------------------

# π = (1/2, 1/2) and π_ref = (1/8, 7/8).
# KL(π ‖ π_ref) = 1/2 ln 4 + 1/2 ln 4/7 = 1/2 ln 16/7 = 0.41334.
# KL(π_ref ‖ π) = 1/8 ln 1/4 + 7/8 ln 7/4 = 0.31637.
PI, REF = torch.tensor([1 / 2, 1 / 2]), torch.tensor([1 / 8, 7 / 8])
FORTH = math.log(16 / 7) / 2
BACK = math.log(1 / 4) / 8 + 7 * math.log(7 / 4) / 8


def test_full_kl_by_hand_and_in_the_right_direction():
    assert (
        full_kl(PI.log(), REF.log()).item()
        == pytest.approx(FORTH)
        == pytest.approx(0.41334, abs=1e-5)
    )
    assert (
        full_kl(REF.log(), PI.log()).item()
        == pytest.approx(BACK)
        == pytest.approx(0.31637, abs=1e-5)
    )
    assert full_kl(torch.randn(2, 3, 5), torch.randn(2, 3, 5)).shape == (2, 3)
    never = torch.tensor([0.0, float("-inf")])  # a token that p never says costs nothing ...
    assert full_kl(never, torch.zeros(2)).item() == pytest.approx(math.log(2))
    assert (
        full_kl(torch.zeros(2), never).item() == math.inf
    )  # ... one that q never says costs everything


class Largest(TorchDispatchMode):
    """Entries of the largest float32 tensor that an operation returns inside the block."""

    entries = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **kwargs or {})
        if not func._schema.name.startswith(("aten::split", "aten::unbind", "aten::detach")):
            made = [x for x in tree_leaves(out) if torch.is_tensor(x) and x.dtype == torch.float32]
            self.entries = max([self.entries, *(x.numel() for x in made)])
        return out


@pytest.mark.parametrize("shape", [(2, 6), (12,), (1, 12), (3, 1, 4)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_whole_distributions_are_compared_some_positions_at_a_time(shape, dtype, monkeypatch):
    """Backward included, no copy in float32 of all the logits; in half precision the softmax is
    float32's.
    """
    torch.manual_seed(0)
    p, q = (4 * torch.randn(2, *shape, 10)).to(dtype)
    both = [x.clone().requires_grad_() for x in (p, q)]
    p, q = (x.double() for x in (p, q))
    wanted = (p.softmax(-1) * (p.log_softmax(-1) - q.log_softmax(-1))).sum(-1)
    whole = [x.detach().requires_grad_() for x in both]
    full_kl(*whole).sum().backward()
    monkeypatch.setattr(kl, "ENTRIES", 30)  # three of twelve positions
    with Largest() as largest:
        found = full_kl(*both)
        if dtype != torch.float32:  # in float32 a gradient is such a tensor
            found.sum().backward()
        of_p = entropy(both[0].detach())
    assert 0 < largest.entries <= 30
    assert torch.allclose(found.double(), wanted, atol=1e-5) and found.shape == shape
    assert torch.allclose(of_p.double(), -(p.softmax(-1) * p.log_softmax(-1)).sum(-1), atol=1e-5)
    if dtype != torch.float32:
        assert all(torch.allclose(a.grad, b.grad, atol=1e-3) for a, b in zip(both, whole))


def test_kl_estimators_by_hand():
    logp, ref = torch.tensor([0.0, -1.0]), torch.tensor([-1.0, -1.0])  # r = -1 and 0
    assert_close(kl_k1(logp, ref), torch.tensor([1.0, 0.0]))
    assert_close(kl_k2(logp, ref), torch.tensor([0.5, 0.0]))
    assert_close(kl_k3(logp, ref), torch.tensor([math.exp(-1), 0.0]))  # e^-1 - 1 + 1


def test_kl_estimators_expect_the_exact_kl_of_the_sampler():
    # Every token weighted with π's probability: an expectation over samples from π without the
    # luck.
    for k in (kl_k1, kl_k3):
        assert (PI * k(PI.log(), REF.log())).sum().item() == pytest.approx(FORTH, abs=1e-6)
        assert (REF * k(REF.log(), PI.log())).sum().item() == pytest.approx(BACK, abs=1e-6)
    # k2 is biased: 1/2 · (ln 4)² / 2 + 1/2 · (ln 4/7)² / 2 = 0.55875
    assert (PI * kl_k2(PI.log(), REF.log())).sum().item() == pytest.approx(0.55875, abs=1e-5)


def test_kl_from_samples_is_not_the_other_direction():
    torch.manual_seed(0)
    policy, reference = torch.tensor([[0.4, 0.4, 0.18, 0.02], [0.1, 0.1, 0.4, 0.4]]).log()
    forth, back = full_kl(policy, reference).item(), full_kl(reference, policy).item()
    assert back - forth > 0.3  # 0.905 and 1.240; were they alike, this test would test nothing
    tokens = torch.multinomial(policy.softmax(-1), 200_000, replacement=True)
    logp, ref = policy.log_softmax(-1)[tokens], reference.log_softmax(-1)[tokens]
    for k in (kl_k1, kl_k3):
        values = k(logp, ref)
        spread = 4 * values.std().item() / len(tokens) ** 0.5
        assert spread < 0.03
        assert abs(values.mean().item() - forth) < spread
        assert abs(values.mean().item() - back) > 0.2
    # The arguments swapped: neither direction's KL.
    assert kl_k1(ref, logp).mean().item() == pytest.approx(-kl_k1(logp, ref).mean().item())
    assert abs(kl_k3(ref, logp).mean().item() - forth) > 0.05
    assert kl_k3(logp, ref).min() >= 0 > kl_k1(logp, ref).min()  # k3 never goes below 0, k1 does
    near = (policy + 0.1 * torch.randn(4)).log_softmax(-1)[
        tokens
    ]  # near each other, k3 is the quieter one
    assert kl_k3(logp, near).var() < 0.1 * kl_k1(logp, near).var()


def test_k3_keeps_its_digits_near_zero():
    # k3(r) = r²/2 + r³/6 + ...: about 5e-9 for r = 1e-4, where e^r - 1 - r in float32 is rounding
    # noise.
    r = torch.tensor([1e-4])
    expected = math.expm1(r.item()) - r.item()  # in double precision: 5.0002e-9
    assert kl_k3(torch.zeros(1), r).item() == pytest.approx(expected, rel=1e-2)
    naive = (r.exp() - 1 - r).item()
    assert abs(naive - expected) > expected  # what expm1 is for


def test_entropy_by_hand():
    assert entropy(torch.zeros(4)).item() == pytest.approx(math.log(4))
    assert entropy(torch.tensor([1000.0, 0.0, 0.0])).item() == 0
    # (1/2, 1/4, 1/4): 1/2 ln 2 + 2 · 1/4 ln 4 = 1.5 ln 2
    assert entropy(torch.tensor([2.0, 1.0, 1.0]).log() + 7).item() == pytest.approx(
        1.5 * math.log(2)
    )
    assert entropy(torch.tensor([0.0, 0.0, float("-inf")])).item() == pytest.approx(math.log(2))
    assert entropy(torch.randn(2, 3, 5)).shape == (2, 3)
