"""Parametrisations are computed once and stored under the layer's own name."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from aslconvert.converter.ir.graph import find_sites, graph_module, notes_of
from aslconvert.converter.ir.load import export_model
from aslconvert.converter.passes.prepare import prepare
from aslconvert.converter.passes.store_weights import store_weights


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight_normed = parametrizations.weight_norm(nn.Conv2d(3, 4, 3, padding=1))
        self.spectral = parametrizations.spectral_norm(nn.Conv2d(4, 4, 3, padding=1))
        self.own = nn.Conv2d(4, 4, 3, padding=1)
        nn.utils.parametrize.register_parametrization(self.own, "weight", Doubled())
        self.plain = nn.Conv2d(4, 4, 3, padding=1)
        self.linear = parametrizations.weight_norm(nn.Linear(4, 2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.own(self.spectral(self.weight_normed(x)))
        for _ in range(2):
            x = torch.tanh(self.spectral(x))
        return self.linear(self.plain(x).mean((2, 3)))


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight * 2


def test_parametrised_layers_read_stored_weights_of_their_own_name() -> None:
    model = Normed().eval()
    program = export_model(model, (torch.randn(2, 3, 8, 8),))
    assert {refusal.code for refusal in find_sites(graph_module(program))[1]} == {"computed_weight"}
    gm = prepare(graph_module(program))
    sites, refusals = find_sites(gm)
    assert refusals == []
    names = [site.name.partition("@")[0] for site in sites]
    assert names == ["weight_normed", "spectral", "own", "spectral", "spectral", "plain"]
    assert len({site.key for site in sites}) == 4, "calls of one layer stay tied"
    state = gm.state_dict()
    for name in ("weight_normed", "spectral", "own", "linear"):
        torch.testing.assert_close(state[f"{name}.weight"], getattr(model, name).weight.detach())
    assert not any("parametrizations" in name for name in state)
    assert torch.equal(state["plain.weight"], model.plain.weight)
    x = torch.randn(3, 3, 9, 11)
    with torch.no_grad():
        torch.testing.assert_close(gm(x), model(x))
    notes = " ".join(notes_of(gm))
    assert "weight norm from weight_normed, linear" in notes
    assert "spectral norm from spectral" in notes
    assert "a parametrisation from own" in notes


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_norms_made_by_hooks_are_removed_too() -> None:
    model = nn.Sequential(
        nn.utils.weight_norm(nn.Conv2d(3, 4, 3)), nn.utils.spectral_norm(nn.Conv2d(4, 4, 3, padding=1))
    ).eval()
    gm = prepare(graph_module(export_model(model, (torch.randn(2, 3, 8, 8),))))
    assert [site.name for site in find_sites(gm)[0]] == ["0", "1"]
    x = torch.randn(2, 3, 9, 9)
    with torch.no_grad():
        torch.testing.assert_close(gm(x), model(x))


class FromInput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(4, 3, 3, 3))
        self.noisy = nn.Parameter(torch.randn(4, 4, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.conv2d(x, self.kernel * x.mean())
        return nn.functional.conv2d(x, self.noisy + torch.rand(4, 4, 3, 3))


def test_weights_that_change_from_call_to_call_stay_computed() -> None:
    gm = graph_module(export_model(FromInput(), (torch.randn(2, 3, 8, 8),)))
    stored = store_weights(gm)
    assert stored.code == gm.code
    assert [refusal.code for refusal in find_sites(stored)[1]] == ["computed_weight"] * 2
