"""Sites are fitted on what the student makes; all taps as rows change nothing; the originals are never touched."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from aslconvert.converter.errors import InfrastructureError
from aslconvert.converter.fit.importance import output_importance
from aslconvert.converter.fit.layerwise import SiteFit, apply_block, fit_layerwise
from aslconvert.converter.fit.rows import Block
from aslconvert.converter.fit.walk import ActivationStore
from aslconvert.converter.ir.graph import attribute, find_sites, graph_module
from aslconvert.converter.ir.load import export_model
from aslconvert.converter.ir.site import ConvSite
from aslconvert.converter.passes.fold_batch_norm import fold_batch_norm
from aslconvert.converter.passes.replace_sites import replace_sites
from aslconvert.converter.search.damage import interpolate_log, site_damage

Exported = Callable[[str], tuple[nn.Module, ExportedProgram]]
Batches = list[tuple[Tensor, ...]]


class InPlace(nn.Module):
    """What real ResNets do: ReLU in place, and sums into a tensor that other layers have read."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.one = nn.Conv2d(8, 8, 3, padding=1)
        self.two = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.relu(self.stem(x), inplace=True)
        y = self.one(x)
        y += x
        x = x * 1.0
        x += self.two(nn.functional.leaky_relu(y, 0.1, inplace=True))
        return nn.functional.relu(x, inplace=True)


class Pure(InPlace):
    """The same function without anything in place."""

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        y = self.one(x) + x
        return torch.relu(x * 1.0 + self.two(nn.functional.leaky_relu(y, 0.1)))


def images(count: int, *shape: int, seed: int = 1) -> Tensor:
    """Smooth images: neighbouring pixels of real ones resemble each other, which is what fitting lives on."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, *shape, generator=generator)
    return nn.functional.avg_pool2d(noise, 3, stride=1, padding=1) * 2


def relative_error(gm: fx.GraphModule, reference: fx.GraphModule, x: Tensor) -> float:
    with torch.no_grad():
        given, wanted = gm(x), reference(x)
    return float((given - wanted).square().sum() / (wanted - wanted.mean()).square().sum())


def rewritten(gm: fx.GraphModule, fits: dict[str, SiteFit]) -> fx.GraphModule:
    return replace_sites(gm, {name: fit.block for name, fit in fits.items()})


@pytest.fixture(scope="module")
def resnet(exported: Exported) -> tuple[fx.GraphModule, list[ConvSite], Batches]:
    gm = fold_batch_norm(graph_module(exported("resnet18")[1]))
    return gm, find_sites(gm)[0], [(images(4, 3, 64, 96, seed=seed),) for seed in (1, 2)]


@pytest.fixture(scope="module")
def odd(exported: Exported) -> tuple[fx.GraphModule, list[ConvSite], Batches]:
    gm = graph_module(exported("odd")[1])
    return gm, find_sites(gm)[0], [(images(3, 3, 24, 30, seed=seed),) for seed in (1, 2)]


def in_place_graphs() -> tuple[fx.GraphModule, fx.GraphModule]:
    torch.manual_seed(0)
    first, second = InPlace().eval(), Pure().eval()
    second.load_state_dict(first.state_dict())
    return tuple(graph_module(export_model(m, (torch.randn(2, 3, 12, 12),))) for m in (first, second))  # type: ignore[return-value]


@pytest.mark.parametrize("net", ["resnet", "odd"])
def test_all_taps_as_rows_are_exact(net: str, request: pytest.FixtureRequest) -> None:
    gm, sites, batches = request.getfixturevalue(net)
    rows = {site.name: site.in_channels * site.geometry.taps for site in sites}
    fits = fit_layerwise(gm, sites, rows, batches)
    assert set(fits) == set(rows)
    assert {name: fit.block.rows for name, fit in fits.items()} == rows
    assert all(fit.error == 0.0 for fit in fits.values())
    assert relative_error(rewritten(gm, fits), gm, batches[0][0]) < 1e-10


def strongest_taps(gm: fx.GraphModule, site: ConvSite, rows: int) -> SiteFit:
    """The naive way: keep the taps of the largest weights as they are."""
    weight = attribute(gm, site.weight_target).detach().flatten(1)
    kept = weight.square().sum(0).topk(rows).indices
    block = Block(
        source=kept // site.geometry.taps,
        shift=site.geometry.tap_offsets()[kept % site.geometry.taps],
        weight=weight[:, kept],
        bias=None if site.bias_target is None else attribute(gm, site.bias_target).detach(),
    )
    return SiteFit(block=block, error=1.0)


def test_a_fitted_net_is_far_better_than_one_sliced_from_the_strongest_taps(
    resnet: tuple[fx.GraphModule, list[ConvSite], Batches],
) -> None:
    gm, sites, batches = resnet
    spatial = [site for site in sites if site.geometry.taps > 1 and site.name.startswith(("layer1", "layer2"))]
    rows = {site.name: 2 * site.in_channels for site in spatial}
    told: list[tuple[str, int, int]] = []
    fits = fit_layerwise(gm, sites, rows, batches, on_site=lambda *call: told.append(call))
    assert [call[1:] for call in told] == [(i + 1, len(spatial)) for i in range(len(spatial))]
    assert all(0 < fit.error < 1 and fit.block.rows == rows[name] for name, fit in fits.items())
    sliced = {site.name: strongest_taps(gm, site, rows[site.name]) for site in spatial}
    unseen = images(4, 3, 64, 96, seed=9)
    fitted_error = relative_error(rewritten(gm, fits), gm, unseen)
    assert fitted_error < 0.25 * relative_error(rewritten(gm, sliced), gm, unseen)


def test_later_sites_absorb_the_error_of_earlier_ones(
    resnet: tuple[fx.GraphModule, list[ConvSite], Batches],
) -> None:
    gm, sites, batches = resnet
    pair = [site for site in sites if site.name in ("layer1.0.conv1", "layer1.0.conv2")]
    rows = {site.name: 6 for site in pair}
    together = fit_layerwise(gm, pair, rows, batches)
    alone = {site.name: fit_layerwise(gm, [site], rows, batches)[site.name] for site in pair}
    x = batches[0][0]
    assert relative_error(rewritten(gm, together), gm, x) < relative_error(rewritten(gm, alone), gm, x)


def test_sites_that_share_weights_share_one_block(odd: tuple[fx.GraphModule, list[ConvSite], Batches]) -> None:
    gm, sites, batches = odd
    loops = [site for site in sites if site.name.startswith("loop")]
    tied = [site for site in sites if site.name in ("twin", "tied")]
    assert len(loops) == len(tied) == 2
    rows = {site.name: 12 for site in (*loops, *tied)}
    fits = fit_layerwise(gm, sites, rows, batches)
    assert fits[loops[0].name].block is fits[loops[1].name].block
    assert fits["twin"].block is fits["tied"].block
    assert relative_error(rewritten(gm, fits), gm, batches[0][0]) < 0.5


def test_activations_on_disk_give_the_same_fit_and_leave_nothing_behind(
    odd: tuple[fx.GraphModule, list[ConvSite], Batches], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gm, sites, batches = odd
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    rows = {site.name: 10 for site in sites}
    seen: list[int] = []
    spilled = fit_layerwise(
        gm, sites, rows, batches, limit_bytes=1, on_site=lambda *_: seen.append(len(list(tmp_path.rglob("*.pt"))))
    )
    assert min(seen) > 0
    assert not list(tmp_path.iterdir())
    held = fit_layerwise(gm, sites, rows, batches)
    assert not list(tmp_path.iterdir())
    for name, fit in held.items():
        assert torch.equal(fit.block.weight, spilled[name].block.weight)
        assert torch.equal(fit.block.shift, spilled[name].block.shift)


def test_a_walk_that_fails_leaves_no_folder_either(
    odd: tuple[fx.GraphModule, list[ConvSite], Batches], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gm, sites, batches = odd
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_layerwise(gm, sites, {site.name: 9 for site in sites}, batches, limit_bytes=1, on_site=stop)
    assert not list(tmp_path.iterdir())


def test_a_store_forgets_what_was_dropped_in_memory_and_on_disk() -> None:
    store = ActivationStore(limit_bytes=1000)
    small, large = torch.randn(10), torch.randn(40, 40)[:, ::2]
    store.put("small", small)
    store.put("large", large)
    store.put("other", (1, 2))
    assert store.get("small") is small
    assert torch.equal(store.get("large"), large)
    for key in ("small", "large", "other", "never"):
        store.drop(key)
        assert key not in store
    store.put("again", large)
    assert torch.equal(store.get("again"), large)
    store.close()
    assert "again" not in store


def test_in_place_operators_change_nothing_in_fit_damage_and_importance() -> None:
    marked, pure = in_place_graphs()
    batches = [(images(4, 3, 12, 12, seed=seed),) for seed in (1, 2)]
    results = []
    for gm in (marked, pure):
        sites = find_sites(gm)[0]
        importance = output_importance(gm, sites, batches, seed=0)
        damage = site_damage(gm, sites, batches, importance=importance)
        fits = fit_layerwise(gm, sites, {site.name: 12 for site in sites}, batches, importance=importance)
        results.append((importance, damage, fits, relative_error(rewritten(gm, fits), gm, batches[0][0])))
    (importance, damage, fits, error), (importance2, damage2, fits2, error2) = results
    assert set(fits) == {"stem", "one", "two"}
    for name in fits:
        torch.testing.assert_close(importance[name], importance2[name])
        assert damage[name] == pytest.approx(damage2[name], rel=1e-3)
        torch.testing.assert_close(fits[name].block.weight, fits2[name].block.weight, atol=1e-4, rtol=1e-3)
    assert error == pytest.approx(error2, rel=1e-3)


def test_damage_falls_with_rows_and_is_the_measured_output_error(
    resnet: tuple[fx.GraphModule, list[ConvSite], Batches],
) -> None:
    gm, sites, batches = resnet
    site = next(site for site in sites if site.name == "layer1.0.conv1")
    damage = site_damage(gm, [site], batches)[site.name]
    ordered = [damage[rows] for rows in sorted(damage)]
    assert ordered == sorted(ordered, reverse=True)
    assert ordered[-1] == 0.0
    fit = fit_layerwise(gm, [site], {site.name: 8}, batches)
    assert damage[8] == pytest.approx(relative_error(rewritten(gm, fit), gm, batches[0][0]), rel=1e-3)


def test_damage_between_probes_is_interpolated_in_its_logarithm() -> None:
    known = {10: 1.0, 20: 0.01, 40: 0.0}
    assert interpolate_log(known, 5) == 1.0
    assert interpolate_log(known, 15) == pytest.approx(0.1)
    assert interpolate_log(known, 30) == pytest.approx(0.005)
    assert interpolate_log(known, 99) == 0.0


def test_importance_is_a_symmetric_root_of_unit_scale_that_favours_what_is_read() -> None:
    class Lopsided(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return (self.conv(x) * torch.tensor([1.0, 10.0, 0.1, 0.0]).view(1, 4, 1, 1)).sum(1)

    gm = graph_module(export_model(Lopsided().eval(), (torch.randn(2, 3, 12, 12),)))
    sites = find_sites(gm)[0]
    roots = output_importance(gm, sites, [(torch.randn(4, 3, 12, 12),)] * 2, seed=0)
    root = roots["conv"]
    assert root.shape == (4, 4)
    assert root.dtype == torch.float64
    torch.testing.assert_close(root, root.T)
    squared = root @ root
    assert float(squared.diagonal().mean()) == pytest.approx(1.0, abs=2e-3)
    assert squared.diagonal()[1] > 50 * squared.diagonal()[0] > 50 * squared.diagonal()[2]
    # Damped: what the probe does not see is still not free.
    assert float(squared[3, 3]) > 0
    again = output_importance(gm, sites, [(torch.randn(4, 3, 12, 12),)], seed=0)
    assert again.keys() == roots.keys()


def test_a_block_is_applied_at_the_geometry_of_its_site(
    odd: tuple[fx.GraphModule, list[ConvSite], Batches], exact_blocks: Callable[[fx.GraphModule], dict[str, Block]]
) -> None:
    gm, sites, _ = odd
    site = next(site for site in sites if site.name == "strided")
    x = torch.randn(2, 8, 24, 30)
    given = apply_block(exact_blocks(gm)[site.name], site, x)
    wanted = nn.functional.conv2d(x, attribute(gm, site.weight_target), stride=(2, 3))
    torch.testing.assert_close(given, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_an_error_of_the_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    store = ActivationStore(limit_bytes=1)
    store.put("first", torch.zeros(8))
    (folder,) = tmp_path.iterdir()
    (folder / "1.pt").symlink_to("/dev/full")
    with pytest.raises(InfrastructureError) as caught:
        store.put("second", torch.zeros(8))
    assert caught.value.code == "disk_full"
    store.close()
