"""Properties of the flow in float64: blocks, levels, fusion and the complete model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from FrEIA.framework import ConditionNode, GraphINN, InputNode, Node, OutputNode
from torch import Tensor, nn

from vqlab.nn.base_density import BaseDensity, BaseName, Prototypes, Standard, base_density
from vqlab.nn.convolution import outputs_first
from vqlab.nn.flow import (
    ActNorm,
    Coupling,
    CouplingOptions,
    FusionFlow,
    LevelFlow,
    Mixing,
    MixingName,
)
from vqlab.types import UserError

MIXINGS: tuple[MixingName, ...] = ("orthogonal", "reflection", "permutation")
COUPLINGS = ("coupling", "coupling, flip, norm", "coupling, additive", "coupling, additive, flip")
BASES: tuple[BaseName, ...] = ("standard", "selected", "hierarchical", "mixture")
Function = Callable[[Tensor], Tensor]


@pytest.fixture(autouse=True)
def _in_float64() -> Iterator[None]:
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def perturbed(part: nn.Module, by: float = 0.3) -> nn.Module:
    """Return the part in evaluation mode with perturbed weights, away from the identity."""
    with torch.no_grad():
        for number, weight in enumerate(part.parameters()):
            weight += by * noise(*weight.shape, seed=100 + number)
    return part.eval()


def level(
    kernel: int = 1,
    channels: int = 5,
    clamp: float = 1.9,
    norm: bool = False,
    **settings: object,
) -> LevelFlow:
    settings = {"blocks": 3, "rank": 2, **settings}
    options = CouplingOptions(6, kernel, clamp, norm)
    flow = LevelFlow(channels, 3, options, **settings)  # type: ignore[arg-type]
    perturbed(flow)
    return flow


def inputs(kernel: int, channels: int = 5, count: int = 3) -> tuple[Tensor, Tensor]:
    """Return features and condition: rows, or maps of 2 x 3."""
    place = () if kernel == 1 else (2, 3)
    return noise(count, channels, *place), noise(count, 3, *place, seed=2)


def log_abs_det(function: Function, x: Tensor) -> Tensor:
    """Return log|det| of the Jacobian of a function of one flat vector."""
    jacobian = torch.autograd.functional.jacobian(function, x)
    assert isinstance(jacobian, Tensor) and jacobian.shape == (len(x), len(x))
    return torch.linalg.slogdet(jacobian).logabsdet


def pack(tensors: Sequence[Tensor]) -> Tensor:
    """Return the tensors of the first image (or row) as one vector."""
    return torch.cat([t[0].flatten() for t in tensors])


def unpack(vector: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    parts = vector.split([t[0].numel() for t in like])
    return [part.view(1, *t.shape[1:]) for part, t in zip(parts, like, strict=True)]


def assert_same(left: Sequence[Tensor], right: Sequence[Tensor]) -> None:
    for a, b in zip(left, right, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def assert_near(rounded: Sequence[Tensor], exact: Sequence[Tensor]) -> None:
    """Assert float32 results within the tolerance of bfloat16 subnets."""
    for got, right in zip(rounded, exact, strict=True):
        assert got.dtype == torch.float32
        tolerance = 0.05 * float(right.detach().abs().max())
        torch.testing.assert_close(got, right, rtol=0.05, atol=tolerance)


def block(name: str, kernel: int) -> nn.Module:
    dims = [(5,)] if kernel == 1 else [(5, 1, 1)]
    if name == "actnorm":
        return perturbed(ActNorm(dims))
    if name.startswith("coupling"):
        condition = [(6, *dims[0][1:])]
        options = CouplingOptions(
            6, kernel, norm="norm" in name, kind="additive" if "additive" in name else "affine"
        )
        return perturbed(Coupling(dims, condition, options=options, flip="flip" in name))
    generator = torch.Generator().manual_seed(3)
    part = Mixing(dims, kind=name, generator=generator, rank=2)  # type: ignore[arg-type]
    # the two permutations must differ
    assert name != "permutation" or not torch.equal(part.order, part.back)
    return part


# Inverse and log-determinant


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("name", ["actnorm", *COUPLINGS, *MIXINGS])
def test_block_laws(name: str, kernel: int) -> None:
    part, (x, _) = block(name, kernel), inputs(kernel)
    hidden = noise(3, 6, *x.shape[2:], seed=4)
    condition = (hidden,) if name.startswith("coupling") else ()
    (z,), log_det = part((x,), condition)
    back, inverse_log_det = part((z,), condition, rev=True)
    assert_same(back, (x,))

    def first_image(vector: Tensor) -> Tensor:
        return pack(part(unpack(vector, (x,)), tuple(c[:1] for c in condition))[0])

    log_det, inverse_log_det = (torch.as_tensor(d).expand(3) for d in (log_det, inverse_log_det))
    assert_same((log_det[0], log_det), (log_abs_det(first_image, pack((x,))), -inverse_log_det))
    constant = name in MIXINGS or "additive" in name
    assert bool((log_det == 0).all()) if constant else log_det.abs().min() > 1e-3
    assert torch.autograd.gradcheck(first_image, pack((x,)).requires_grad_())


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("mixing", MIXINGS)
@pytest.mark.parametrize("channels", [2, 5])
def test_level_laws(kernel: int, mixing: MixingName, channels: int) -> None:
    flow = level(kernel, channels, mixing=mixing, norm=kernel == 3)
    x, condition = inputs(kernel, channels)
    z, log_det = flow(x, condition)
    assert z.shape == x.shape and log_det.shape == (3,)
    back, inverse_log_det = flow.inverse(z, condition)
    assert_same((back, inverse_log_det), (x, -log_det))

    def first_image(vector: Tensor) -> Tensor:
        return pack((flow(*unpack(vector, (x,)), condition[:1])[0],))

    assert_same((log_det[0],), (log_abs_det(first_image, pack((x,))),))


def pyramid(kernel: int) -> tuple[FusionFlow, list[Tensor], Tensor]:
    """Return a fusion of levels with odd and even channels, and sizes that do not divide each
    other."""
    levels = [noise(2, 3, 3, 5), noise(2, 4, 2, 2, seed=2)]
    fusion = FusionFlow(
        [(3, 3, 5), (4, 2, 2)], [(2, 2, 2)], options=CouplingOptions(6, kernel, norm=True)
    )
    perturbed(fusion)
    return fusion, levels, noise(2, 2, 2, 2, seed=3)


@pytest.mark.parametrize("kernel", [1, 3])
def test_fusion_laws(kernel: int) -> None:
    fusion, levels, condition = pyramid(kernel)
    z, log_det = fusion(levels, (condition,))
    back, inverse_log_det = fusion.inverse(z, (condition,))
    assert [a.shape for a in z] == [a.shape for a in levels] and log_det.shape == (2,)
    assert_same((*back, inverse_log_det), (*levels, -log_det))

    def first_image(vector: Tensor) -> Tensor:
        return pack(fusion(unpack(vector, levels), (condition[:1],))[0])

    assert_same((log_det[0],), (log_abs_det(first_image, pack(levels)),))


def test_fusion_mixes_every_channel_with_every_level() -> None:
    fusion, levels, condition = pyramid(3)

    def first_image(vector: Tensor) -> Tensor:
        return pack(fusion(unpack(vector, levels), (condition[:1],))[0])

    jacobian = torch.autograd.functional.jacobian(first_image, pack(levels))
    assert isinstance(jacobian, Tensor)
    size = levels[0][0].numel()
    assert (jacobian[:size, size:] != 0).any(1).all() and (jacobian[size:, :size] != 0).any(1).all()


def test_fusion_is_a_node_of_a_freia_graph() -> None:
    fusion, levels, condition = pyramid(1)
    inputs = [InputNode(*t.shape[1:]) for t in levels]
    condition_node = ConditionNode(2, 2, 2)
    node = Node(
        [n.out0 for n in inputs],
        FusionFlow,
        {"options": CouplingOptions(6, norm=True)},
        conditions=condition_node,
    )
    outputs = [OutputNode(out) for out in (node.out0, node.out1)]
    graph = GraphINN([*inputs, condition_node, node, *outputs])
    graph.module_list[0].load_state_dict(fusion.state_dict())
    z, log_det = graph(levels, [condition])
    expected, expected_det = fusion(levels, (condition,))
    assert_same((*z, log_det), (*expected, expected_det))
    assert_same(graph(z, [condition], rev=True)[0], levels)


def complete_flow(
    kernel: int, base: BaseName
) -> tuple[Callable[..., tuple[Tensor, ...]], list[Tensor]]:
    """Return levels → fusion → base: a function of two levels (B, …) and the log density of their
    prototypes."""
    flows = [level(kernel, 2, seed=1), level(kernel, 2, blocks=2, seed=2)]
    fusion = FusionFlow([(2, 2, 2), (2, 1, 1)], options=CouplingOptions(4, kernel, norm=True))
    ends = [base_density(base, 2, prototype_dim=3, codebook_size=4) for _ in flows]
    for part in (fusion, *ends):
        perturbed(part)
    vectors = noise(4, 3, seed=5)

    def run(levels: Sequence[Tensor], codes: Tensor) -> tuple[Tensor, ...]:
        """Return (first latent, second latent, log_det, log density)."""
        latents, log_det = [], torch.zeros(len(codes))
        for flow, x in zip(flows, levels, strict=True):
            condition = vectors[codes][:, :, None, None].expand(-1, -1, *x.shape[2:])
            if kernel == 1:
                rows = [t.movedim(1, -1).flatten(0, 2) for t in (x, condition)]
                z, det = flow(*rows)
                z = z.view(len(x), *x.shape[2:], 2).movedim(-1, 1)
                det = det.view(len(x), -1).sum(1)
            else:
                z, det = flow(x, condition)
            latents.append(z)
            log_det = log_det + det
        fused, det = fusion(latents)
        log_prob = log_det = log_det + det
        for end, z in zip(ends, fused, strict=True):
            places = z[0, 0].numel()
            prototypes = Prototypes(vectors, codes.repeat_interleave(places))
            rows = z.movedim(1, -1).flatten(0, 2)
            log_prob = log_prob + end.log_prob(rows, prototypes).view(len(z), -1).sum(1)
        return *fused, log_det, log_prob

    return run, [noise(2, 2, 2, 2), noise(2, 2, 1, 1, seed=2)]


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("base", BASES)
def test_complete_flow_laws(kernel: int, base: BaseName) -> None:
    run, levels = complete_flow(kernel, base)
    codes = torch.tensor([1, 3])
    *_, log_det, log_prob = run(levels, codes)

    def first_image(vector: Tensor) -> Tensor:
        return pack(run(unpack(vector, levels), codes[:1])[:2])

    assert_same((log_det[0],), (log_abs_det(first_image, pack(levels)),))
    assert (run(levels, torch.tensor([2, 0]))[-1] - log_prob).abs().min() > 1e-3


# Density


def grid(reach: float = 14.0, steps: int = 401) -> tuple[Tensor, float]:
    """Return points on a square grid of the plane, and the area per point."""
    axis = torch.linspace(-reach, reach, steps)
    return torch.cartesian_prod(axis, axis), float(axis[1] - axis[0]) ** 2


def toy(base: BaseName) -> tuple[LevelFlow, BaseDensity, Tensor]:
    """Return a perturbed conditional flow of the plane with a base and four prototypes."""
    torch.manual_seed(0)
    flow = LevelFlow(2, 3, CouplingOptions(8, clamp=0.5), blocks=3, seed=4)
    end = base_density(base, 2, prototype_dim=3, codebook_size=4)
    return perturbed(flow, 0.2), perturbed(end, 0.2), noise(4, 3, seed=5)  # type: ignore[return-value]


def log_density(base: BaseName, x: Tensor, code: int) -> Tensor:
    flow, end, vectors = toy(base)
    codes = torch.full((len(x),), code)
    with torch.no_grad():
        z, log_det = flow(x, vectors[codes])
        return end.log_prob(z, Prototypes(vectors, codes)) + log_det


@pytest.mark.parametrize("base", BASES)
def test_density_integrates_to_one_for_every_prototype(base: BaseName) -> None:
    points, area = grid()
    density = [log_density(base, points, code).exp() for code in (0, 3)]
    for each in density:
        assert float(each.sum()) * area == pytest.approx(1, abs=1e-4)
    assert (density[0] - density[1]).abs().max() > 0.01  # the prototype has an effect


def test_published_likelihood_does_not_integrate_to_one() -> None:
    """The published likelihood standardises z by the σ of the prototype and omits Σ log σ."""
    points, area = grid()
    flow, end, vectors = toy("selected")
    prototypes = Prototypes(vectors, torch.zeros(len(points), dtype=torch.int64))
    with torch.no_grad():
        z, log_det = flow(points, vectors[prototypes.indices])
        published = -end.quadratic(z, prototypes) * 2 - math.log(2 * math.pi) + log_det
        log_prob = end.log_prob(z, prototypes) + log_det
    assert float(log_prob.exp().sum()) * area == pytest.approx(1, abs=1e-4)
    assert abs(float(published.exp().sum()) * area - 1) > 0.1


@pytest.mark.parametrize("base", BASES)
def test_samples_have_the_moments_of_the_density(base: BaseName) -> None:
    points, area = grid()
    weight = log_density(base, points, 1).exp() * area
    mean = weight @ points
    covariance = (weight[:, None] * (points - mean)).T @ (points - mean)
    flow, end, vectors = toy(base)
    codes = torch.ones(100_000, dtype=torch.int64)
    with torch.no_grad():
        z = end.sample(Prototypes(vectors, codes), torch.Generator().manual_seed(6))
        samples, _ = flow.inverse(z, vectors[codes])
    error = 5 * float(covariance.diagonal().max()) / math.sqrt(len(codes))
    torch.testing.assert_close(samples.mean(0), mean, rtol=0, atol=error)
    torch.testing.assert_close(samples.T.cov(), covariance, rtol=0, atol=3 * error)


def test_learns_a_density() -> None:
    """Two conditions, two rings of different radii: the NLL falls well below that of a Gaussian."""
    angle = 2 * math.pi * torch.rand(512, generator=torch.Generator().manual_seed(1))
    code = torch.arange(512) % 2
    radius = (1 + 2 * code) * (1 + 0.05 * noise(512))
    x = radius[:, None] * torch.stack([angle.cos(), angle.sin()], 1)
    flow = LevelFlow(2, 2, CouplingOptions(32), blocks=4)
    optimizer = torch.optim.Adam(flow.parameters(), 0.02)
    base, nothing = Standard(2), Prototypes(noise(1, 1), code)

    def nll() -> Tensor:
        z, log_det = flow(x, F.one_hot(code, 2).double())
        return -(base.log_prob(z, nothing) + log_det).mean() / 2

    start = float(nll().detach())
    for _ in range(50):
        optimizer.zero_grad()
        loss = nll()
        loss.backward()
        optimizer.step()
    assert float(nll().detach()) < start - 0.5


# Conditions


@pytest.mark.parametrize("kernel", [1, 3])
def test_output_depends_on_the_condition_and_has_a_gradient(kernel: int) -> None:
    flow = level(kernel)
    x, condition = inputs(kernel)
    condition.requires_grad_()
    z, log_det = flow(x, condition)
    other, other_det = flow(x, condition + 1)
    assert (z - other).abs().max() > 1e-3 and (log_det - other_det).abs().min() > 1e-3
    gradient = torch.autograd.grad(log_det.sum(), condition)[0]
    assert gradient.isfinite().all() and gradient.abs().max() > 1e-4
    with pytest.raises(ValueError, match="needs a condition"):
        flow(x)


@pytest.mark.parametrize("kernel", [1, 3])
def test_shared_condition_layer_equals_concatenation(kernel: int) -> None:
    """The split first layer equals one layer over [x1; condition], including borders."""
    flow = level(kernel, blocks=1)
    x, condition = inputs(kernel)
    (step,) = (s for s in flow.sequence if isinstance(s, Coupling))
    (normalized,) = (s((x,))[0][0] for s in flow.sequence if isinstance(s, ActNorm))
    x1 = normalized[:, : step.passive]
    assert flow.condition is not None
    input_axis = 1 if kernel == 1 else 2
    weight = torch.cat([step.first.weight, flow.condition.weight], input_axis)
    both = torch.cat([x1, condition], 1)
    if kernel == 1:
        hidden = F.linear(both, weight, flow.condition.bias)
    else:
        hidden = F.conv2d(both, outputs_first(weight), flow.condition.bias, padding=1)
    log_scale = 1.9 * torch.tanh(step.last(hidden.relu())[:, : step.active] / 1.9)
    expected = log_scale.flatten(1).sum(1) + flow.sequence[0]((x,))[1]
    assert_same((flow(x, condition)[1],), (expected,))


def test_rows_are_independent() -> None:
    flow, (x, condition) = level(), inputs(1)
    z, log_det = flow(x, condition)
    alone = flow(x[1:2], condition[1:2])
    torch.testing.assert_close(alone, (z[1:2], log_det[1:2]), rtol=0, atol=1e-12)


def test_consecutive_blocks_transform_alternate_halves() -> None:
    flow = level(blocks=2, mixing="permutation")
    mixing = flow.sequence[2]
    with torch.no_grad():  # disable everything but the couplings
        mixing.order.copy_(torch.arange(5))
        mixing.back.copy_(torch.arange(5))
        for step in flow.sequence:
            if isinstance(step, ActNorm):
                step.log_scale.zero_()
                step.shift.zero_()
    x, condition = inputs(1)
    assert ((flow(x, condition)[0] - x).abs() > 1e-6).sum(1).tolist() == [4, 4, 4]


def test_without_condition() -> None:
    flow = LevelFlow(4, 0, CouplingOptions(6), blocks=2)
    perturbed(flow)
    z, log_det = flow(noise(3, 4))
    assert_same(flow.inverse(z), (noise(3, 4), -log_det))


# Start, state, precision


@pytest.mark.parametrize("kernel", [1, 3])
def test_is_a_rotation_at_initialization(kernel: int) -> None:
    x, condition = inputs(kernel)
    flow = LevelFlow(5, 3, CouplingOptions(6, kernel), blocks=3).eval()
    z, log_det = flow(x, condition)
    assert_same((z.norm(dim=1), log_det), (x.norm(dim=1), torch.zeros(3)))
    single = LevelFlow(5, 3, CouplingOptions(6, kernel), blocks=1).eval()
    assert_same(single(x, condition), (x, torch.zeros(3)))
    fusion, levels = (
        FusionFlow([(3, 3, 5), (4, 2, 2)], options=CouplingOptions(6, 3, norm=True)),
        pyramid(1)[1],
    )
    z, log_det = fusion(levels)
    assert_same((*z, log_det), (*levels, torch.zeros(2)))


@pytest.mark.parametrize("kernel", [1, 3])
def test_actnorm_is_initialized_once_from_the_first_training_batch(kernel: int) -> None:
    x, condition = inputs(kernel, count=200)
    x = 3 * x * torch.arange(1, 6).view(1, 5, *(1,) * (x.ndim - 2)) + 7
    flow = LevelFlow(5, 3, CouplingOptions(6, kernel), blocks=2)
    assert_same((flow.eval()(x, condition)[0].norm(dim=1),), (x.norm(dim=1),))
    z, _ = flow.train()(x, condition)
    channels = z.movedim(1, -1).flatten(0, -2)
    assert_same((channels.mean(0), channels.std(0, correction=0)), (torch.zeros(5), torch.ones(5)))
    before = flow.eval()(10 * x, condition)
    assert_same(flow.train()(10 * x, condition), before)
    restored = LevelFlow(5, 3, CouplingOptions(6, kernel), blocks=2).train()
    restored.load_state_dict(flow.state_dict())
    assert_same(restored(10 * x, condition), before)


def test_actnorm_accepts_constant_channels_and_a_single_row() -> None:
    x = noise(50, 4)
    x[:, 2] = 1
    for rows in (x, x[:1]):
        norm = ActNorm([(4,)])
        norm.fit(rows)
        (z,), log_det = norm((rows + 0.1,))
        assert z.isfinite().all() and z.abs().max() < 10 and log_det.isfinite()


@pytest.mark.parametrize("mixing", MIXINGS)
def test_mixing_depends_on_the_seed_and_is_saved_in_the_state(mixing: MixingName) -> None:
    x, condition = inputs(1, 8)

    def flow(seed: int) -> LevelFlow:
        torch.manual_seed(0)  # weights of the subnets, which differ from the mixing
        return LevelFlow(
            8, 3, CouplingOptions(6), blocks=4, mixing=mixing, rank=2, seed=seed
        ).eval()

    assert_same(flow(1)(x, condition), flow(1)(x, condition))
    assert all(t.is_contiguous() for t in flow(1).state_dict().values())  # required by safetensors
    other = flow(2)
    assert (other(x, condition)[0] - flow(1)(x, condition)[0]).abs().max() > 0.1
    other.load_state_dict(flow(1).state_dict())
    assert_same(other(x, condition), flow(1)(x, condition))


def test_log_scale_is_clamped_and_gradients_are_finite() -> None:
    flow = level(clamp=1.9)
    x, condition = inputs(1)
    with torch.no_grad():
        for step in flow.sequence:
            if isinstance(step, ActNorm):
                step.log_scale.zero_()
            if isinstance(step, Coupling):
                step.last.weight.mul_(1e4)
    _, log_det = flow(1e3 * x, condition)
    assert log_det.abs().max() <= 3 * 2 * 1.9
    log_det.sum().backward()
    gradients = [p.grad for p in flow.parameters() if p.grad is not None]
    assert gradients and all(g.isfinite().all() for g in gradients)


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("mixing", MIXINGS)
def test_autocast_returns_float32_close_to_the_exact_result(
    kernel: int, mixing: MixingName
) -> None:
    torch.set_default_dtype(torch.float32)
    flow = level(kernel, 8, mixing=mixing).float()
    x, condition = (t.float() for t in inputs(kernel, 8))
    z, log_det = flow(x, condition)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = flow(x, condition)
        repeated = flow(x.bfloat16(), condition)
        back, _ = flow.inverse(rounded[0], condition)
    for got, right in zip(rounded, (z, log_det), strict=True):
        assert got.dtype == torch.float32 and not torch.equal(got, right)
        torch.testing.assert_close(
            got, right, rtol=0.05, atol=0.05 * float(right.detach().abs().max())
        )
    assert repeated[0].dtype == repeated[1].dtype == torch.float32
    torch.testing.assert_close(back, x, rtol=0.05, atol=0.1)


def test_half_precision_features_are_converted_to_float32() -> None:
    torch.set_default_dtype(torch.float32)
    half = 10 + inputs(1, count=300)[0].half()
    condition = inputs(1, count=300)[1].float()
    flow = LevelFlow(5, 3, CouplingOptions(6), blocks=2)
    flow.initialise(half.float(), condition)
    state = {name: value.clone() for name, value in flow.state_dict().items()}
    flow.initialise(half, condition)
    assert all(torch.equal(value, state[name]) for name, value in flow.state_dict().items())
    perturbed(flow)
    for step in (flow, flow.inverse):
        got, expected = step(half, condition), step(half.float(), condition)
        assert torch.equal(got[0], expected[0]) and torch.equal(got[1], expected[1])


def test_fusion_returns_float32_under_autocast() -> None:
    torch.set_default_dtype(torch.float32)
    fusion, levels, condition = pyramid(3)
    levels, condition = [t.float() for t in levels], condition.float()
    z, log_det = fusion.float()(levels, (condition,))
    with torch.autocast("cpu", torch.bfloat16):
        rounded, rounded_det = fusion(levels, (condition,))
    for got, right in zip((*rounded, rounded_det), (*z, log_det), strict=True):
        assert got.dtype == torch.float32
        torch.testing.assert_close(
            got, right, rtol=0.05, atol=0.05 * float(right.detach().abs().max())
        )


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"channels": 1}, "at least 2 channels"),
        ({"blocks": 0}, "at least 1 block"),
        ({"kernel": 2}, "odd number"),
        ({"clamp": 0.0}, "above 0"),
    ],
)
def test_invalid_settings_raise(settings: dict[str, Any], message: str) -> None:
    options = CouplingOptions(128, settings.pop("kernel", 1), settings.pop("clamp", 1.9))
    with pytest.raises(UserError, match=message):
        LevelFlow(**{"channels": 4, "condition_dim": 3, "options": options, **settings})
