"""Pruned networks: smaller, the same on dead channels, honest about what they keep."""

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor, fx, nn
from torch.export import Dim

from aslconvert.converter.errors import ModelRefused, UsageError
from aslconvert.converter.export.reexport import reexport
from aslconvert.converter.fit.layerwise import exact_block
from aslconvert.converter.ir.graph import copy_graph, find_sites, graph_module
from aslconvert.converter.ir.load import export_model
from aslconvert.converter.passes.prepare import prepare
from aslconvert.converter.passes.replace_sites import replace_sites
from aslconvert.converter.passes.verify import verify
from aslconvert.converter.prune.channels import REASONS, prune_channels
from aslconvert.converter.prune.gate import relative
from aslconvert.converter.prune.refit import refit
from aslconvert.converter.prune.rehydrate import Rehydrated, set_shapes
from aslconvert.converter.search.candidates import stand_in

FORMS = ("original", "converted")
Made = Callable[..., tuple[nn.Module, Tensor, fx.GraphModule]]


def graph(model: nn.Module, x: Tensor, form: str = "original") -> fx.GraphModule:
    gm = prepare(graph_module(export_model(model.eval(), (x,))))
    if form == "original":
        return gm
    sites = find_sites(gm)[0]
    if form == "exact":
        return replace_sites(gm, {site.name: exact_block(gm, site) for site in sites})
    return replace_sites(gm, {site.name: stand_in(site, site.in_channels) for site in sites})


class Inverted(nn.Module):
    """The residual block of MobileNetV2: wide, depthwise, narrow, no activation at the end."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        wide = 4 * inner
        self.body = nn.Sequential(
            *(nn.Conv2d(inner, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6()),
            *(nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.ReLU6()),
            *(nn.Conv2d(wide, outer, 1, bias=False), nn.BatchNorm2d(outer)),
        )
        self.adds = stride == 1 and inner == outer

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.adds else self.body(x)


class MobileNet(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            *(nn.Conv2d(3, 8, 3, 2, 1), Inverted(8, 8, 1), Inverted(8, 12, 2), Inverted(12, 12, 1)),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5)),
        )


class Detector(nn.Module):
    """Two scales, boxes and classes as a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.low = nn.Sequential(nn.Conv2d(3, 12, 3, 2, 1), nn.BatchNorm2d(12), nn.SiLU())
        self.high = nn.Sequential(nn.Conv2d(12, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.SiLU())
        self.join = nn.Conv2d(28, 12, 3, padding=1)
        self.boxes, self.classes = nn.Conv2d(12, 4, 1), nn.Conv2d(16, 10, 1)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        low = self.low(image)
        high = self.high(low)
        both = torch.cat([low, nn.functional.interpolate(high, scale_factor=2.0)], dim=1)
        return {"boxes": self.boxes(self.join(both).relu()).flatten(2), "classes": self.classes(high).flatten(2)}


def network(name: str, nets: ModuleType) -> tuple[nn.Module, Tensor]:
    makers: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
        "resnet18": (nets.ResNet18, (2, 3, 32, 32)),
        "unet": (nets.UNet, (2, 3, 16, 16)),
        "odd": (nets.Odd, (2, 3, 12, 15)),
        "mobilenet": (MobileNet, (2, 3, 32, 32)),
        "detector": (Detector, (2, 3, 16, 16)),
    }
    maker, shape = makers[name]
    torch.manual_seed(0)
    return nets.randomise(maker()), torch.randn(shape)


@pytest.fixture(scope="module")
def made(nets: ModuleType) -> Made:
    """(model, example, graph) of a network in a form, exported once."""
    known: dict[tuple[str, str], tuple[nn.Module, Tensor, fx.GraphModule]] = {}

    def get(name: str, form: str = "original") -> tuple[nn.Module, Tensor, fx.GraphModule]:
        if (name, form) not in known:
            model, x = network(name, nets)
            known[name, form] = model, x, graph(model, x, form)
        return known[name, form]

    return get


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("name", "left"), [("resnet18", 0.6), ("unet", 0.65), ("mobilenet", 0.75), ("detector", 0.75), ("odd", 0.99)]
)
def test_networks_shrink_and_run_at_other_batches(name: str, left: float, form: str, made: Made) -> None:
    _, x, gm = made(name, form)
    before = {key: value.clone() for key, value in gm.state_dict().items()}
    pruned, report = prune_channels(gm, (x,))
    assert sum(p.numel() for p in pruned.parameters()) == report.params_after
    assert report.params_after < left * report.params_before
    assert report.macs_after < report.macs_before
    assert all(group.difference < 1e-4 and not group.reason for group in report.pruned)
    assert all(group.reason in REASONS for group in report.kept)
    assert set(pruned.state_dict()) == set(before)
    assert all(torch.equal(value, before[key]) for key, value in gm.state_dict().items())
    program = reexport(verify(pruned), (x,), ({0: Dim("batch")},))
    again = program.module(check_guards=False)
    more = torch.cat([x, x, x[:1]])
    expected, got = gm(more), again(more)
    if isinstance(expected, Tensor):
        expected, got = {"": expected}, {"": got}
    assert {key: value.shape for key, value in got.items()} == {key: value.shape for key, value in expected.items()}
    assert all(value.isfinite().all() for value in got.values())


@pytest.mark.parametrize("form", ["original", "exact"])
def test_dead_channels_go_without_a_trace(form: str, nets: ModuleType) -> None:
    class Chain(nn.Sequential):
        """One layer after another, so that every group is dead in its share."""

        def __init__(self) -> None:
            super().__init__(
                *(nn.Conv2d(3, 10, 3, padding=1), nn.BatchNorm2d(10), nn.ReLU()),
                *(nn.Conv2d(10, 20, 3, stride=2, padding=1), nn.BatchNorm2d(20), nn.SiLU()),
                *(nn.ConvTranspose2d(20, 10, 2, stride=2), nn.LeakyReLU(), nn.Conv2d(10, 4, 1)),
            )

    model = nets.randomise(Chain())
    with torch.no_grad():
        for maker, norm, reader, dead in (
            (0, 1, 3, [1, 4, 9]),
            (3, 4, 6, [0, 2, 3, 7, 18, 19]),
            (6, None, 8, [5, 6, 8]),
        ):
            makes, reads = model[maker], model[reader]
            makes.weight.transpose(0, int(makes.transposed))[dead] = 0.0
            makes.bias[dead] = 0.0
            reads.weight.transpose(0, 1 - int(reads.transposed))[dead] = 0.0
            if norm is not None:
                model[norm].weight[dead] = 0.0
                model[norm].bias[dead] = 0.0
    x = torch.randn(2, 3, 12, 12)
    gm = graph(model, x, form)
    pruned, report = prune_channels(gm, (x,), ratio=0.3)
    assert [(group.pruned, group.reason) for group in report.groups] == [
        *((3, ""), (6, ""), (3, "")),
        (0, "feeds_output"),
    ]
    fresh = torch.randn(3, 3, 12, 12)
    assert relative(model(fresh), pruned(fresh)) < 1e-5


def test_a_live_channel_changes_the_result(made: Made) -> None:
    model, x, gm = made("mobilenet")
    pruned, _ = prune_channels(gm, (x,))
    assert relative(model(x), pruned(x)) > 1e-3


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["resnet18", "unet", "odd", "mobilenet", "detector"])
def test_rehydrated_graphs_compute_the_same(name: str, form: str, made: Made) -> None:
    _, x, gm = made(name, form)
    gm = copy_graph(gm)
    set_shapes(gm, (x,))
    whole = Rehydrated(gm)
    expected = gm(x)
    leaves = list(expected.values()) if isinstance(expected, dict) else [expected]
    assert len(whole.layers) >= 5
    assert all(torch.equal(a, b) for a, b in zip(leaves, whole.module(x), strict=True))
    assert torch.equal(next(iter(leaves)), next(iter(torch.utils._pytree.tree_leaves(whole.put_back()(x)))))


def test_seeds_and_importance_choose_the_channels(made: Made) -> None:
    _, x, gm = made("mobilenet")

    def outputs(**options: object) -> Tensor:
        out: Tensor = prune_channels(gm, (x,), **options)[0](x)  # type: ignore[arg-type]
        return out

    random = outputs(importance="random", seed=1)
    assert torch.equal(random, outputs(importance="random", seed=1))
    assert not torch.equal(random, outputs(importance="random", seed=2))
    assert torch.equal(outputs(seed=1), outputs(seed=2))


class Shuffle(nn.Module):
    """A channel shuffle: shapes would fit after pruning, but not the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        y = y.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)
        return self.last(y)


def test_channels_in_another_order_are_not_mistaken() -> None:
    x = torch.randn(2, 3, 8, 8)
    gm = graph(Shuffle(), x)
    with pytest.raises(ModelRefused) as caught:
        prune_channels(gm, (x,), ratio=0.5)
    assert caught.value.code == "nothing_to_prune"
    assert "mixes channels" in caught.value.message


def test_softmax_over_channels_is_not_separable() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Softmax(1), nn.Conv2d(8, 4, 3))
    x = torch.randn(2, 3, 8, 8)
    with pytest.raises(ModelRefused, match="mixes channels") as caught:
        prune_channels(graph(model, x), (x,))
    assert caught.value.code == "nothing_to_prune"


def test_layer_norm_and_linear_follow() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 10, 3, 2, 1), nn.LayerNorm(10)
            self.wide, self.back = nn.Linear(10, 20), nn.Linear(20, 10)
            self.scale = nn.Parameter(torch.rand(10))
            self.head = nn.Linear(10, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x).flatten(2).transpose(1, 2)
            x = x + self.scale * self.back(torch.nn.functional.gelu(self.wide(self.norm(x))))
            return self.head(x.mean(1))

    x = torch.randn(2, 3, 8, 8)
    pruned, report = prune_channels(graph(Tokens(), x, "converted"), (x,), ratio=0.3)
    assert {group.layer: group.pruned for group in report.pruned} == {"conv": 3, "wide": 6}
    assert pruned.state_dict()["scale"].shape == (7,)
    assert pruned.state_dict()["norm.weight"].shape == (7,)


def test_a_network_of_outputs_alone_is_refused() -> None:
    x = torch.randn(2, 3, 8, 8)
    with pytest.raises(ModelRefused) as caught:
        prune_channels(graph(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), x), (x,))
    assert caught.value.code == "nothing_to_prune"


@pytest.mark.parametrize(
    ("options", "code"),
    [({"ratio": 0.0}, "bad_ratio"), ({"ratio": 1.5}, "bad_ratio"), ({"importance": "x"}, "bad_importance")],
)
def test_bad_options_are_refused(options: dict[str, object], code: str) -> None:
    x = torch.randn(2, 3, 8, 8)
    with pytest.raises(UsageError) as caught:
        prune_channels(graph(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)), x), (x,), **options)  # type: ignore[arg-type]
    assert caught.value.code == code


def test_groups_of_a_norm_are_those_that_it_had() -> None:
    """Where as many groups divide what is left, kept channels would silently move from one to another."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 40, 3, padding=1), nn.GroupNorm(8, 40), nn.ReLU(), nn.Conv2d(40, 4, 3))
    x = torch.randn(2, 3, 12, 12)
    with pytest.raises(ModelRefused) as caught:
        prune_channels(graph(model, x), (x,), ratio=0.2)
    assert caught.value.code == "nothing_to_prune"
    assert REASONS["not_separable"] in caught.value.message


def chain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 16, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(16, 8, 1), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1)),
    )


@pytest.mark.parametrize("form", FORMS)
def test_channels_that_outputs_miss_least_go_first(form: str) -> None:
    """Large weights that cancel in the next layer: magnitude keeps them, the outputs would not miss them."""
    model = chain()
    with torch.no_grad():
        model[0].weight[[2, 5, 11]] *= 30.0
        model[2].weight[:, [2, 5, 11]] = 0.0
    x = torch.randn(4, 3, 12, 12)
    gm = graph(model, x)
    if form == "converted":
        gm = replace_sites(gm, {site.name: exact_block(gm, site) for site in find_sites(gm)[0]})
    batches = [(torch.randn(4, 3, 12, 12),), (torch.randn(4, 3, 12, 12),)]
    pruned, report = prune_channels(gm, (x,), ratio=0.25, importance="output", batches=batches)
    assert report.outputs["0"] == tuple(channel for channel in range(12) if channel not in (2, 5, 11))
    assert {name: len(left) for name, left in report.outputs.items()} == {"0": 9, "2": 12, "4": 6}
    by_magnitude, other = prune_channels(gm, (x,), ratio=0.25)
    assert {2, 5, 11} <= set(other.outputs["0"])
    fresh = torch.randn(8, 3, 12, 12)
    assert relative(model(fresh), pruned(fresh)) < relative(model(fresh), by_magnitude(fresh))


def test_importance_for_the_outputs_wants_data(made: Made) -> None:
    _, x, gm = made("mobilenet")
    with pytest.raises(UsageError) as caught:
        prune_channels(gm, (x,), importance="output")
    assert caught.value.code == "no_batches"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["resnet18", "detector"])
def test_the_outputs_score_reaches_joined_and_added_channels(name: str, form: str, made: Made) -> None:
    _, x, gm = made(name, form)
    batches = [(x,), (x.flip(0),)]
    pruned, report = prune_channels(gm, (x,), importance="output", batches=batches)
    assert report.params_after < 0.75 * report.params_before
    again, _ = prune_channels(gm, (x,), importance="output", batches=batches)
    first, second = pruned.state_dict(), again.state_dict()
    assert all(torch.equal(value, second[key]) for key, value in first.items())


@pytest.mark.parametrize("form", FORMS)
def test_a_refit_brings_back_what_other_channels_know(form: str) -> None:
    """Channels that repeat others: without them nothing is lost, once the weights that read them are fitted again."""
    model = chain()
    with torch.no_grad():
        for twin, of in ((1, 0), (4, 3), (7, 6)):
            model[0].weight[twin], model[0].bias[twin] = 2 * model[0].weight[of], 2 * model[0].bias[of]
    gm = graph(model, torch.zeros(2, 3, 16, 16), form)
    batches = [(torch.randn(8, 3, 16, 16),) for _ in range(3)]
    pruned, report = prune_channels(gm, (batches[0][0],), ratio=0.25)
    again, moved = refit(pruned, gm, batches, report.outputs)
    fresh = torch.randn(8, 3, 16, 16)
    before, after = (relative(gm(fresh), net(fresh)) for net in (pruned, again))
    assert moved >= 3
    assert after < 0.7 * before
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in pruned.state_dict().items()}


def test_a_refit_of_a_whole_network_moves_nothing() -> None:
    gm = graph(chain(), torch.zeros(2, 3, 16, 16))
    batches = [(torch.randn(4, 3, 16, 16),)]
    again, _ = refit(gm, gm, batches, {})
    assert relative(gm(batches[0][0]), again(batches[0][0])) < 1e-5


def test_nothing_is_like_a_number_that_is_none() -> None:
    good = torch.ones(3)
    assert relative(good, torch.full((3,), float("nan"))) == float("inf")
    assert relative(torch.full((3,), float("nan")), good) == float("inf")
    assert relative(good, good * 1.5) == pytest.approx(0.5)
