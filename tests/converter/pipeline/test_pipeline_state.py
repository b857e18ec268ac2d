"""What a run leaves for its continuation, and how plans and healing time are dealt out."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from aslconvert.converter.cost.device import DeviceProfile
from aslconvert.converter.errors import InfrastructureError, UsageError
from aslconvert.converter.fit.layerwise import SiteFit
from aslconvert.converter.fit.rows import Block
from aslconvert.converter.options import ConvertOptions
from aslconvert.converter.pipeline.plan_search import LEAST_GAIN
from aslconvert.converter.pipeline.planned import Planned
from aslconvert.converter.pipeline.planning import load_plans, store_plans, targets
from aslconvert.converter.pipeline.state import State, fingerprint_of
from aslconvert.converter.pipeline.survey import Survey
from aslconvert.converter.pipeline.variants import FOCUS_SHARE, focused, shares


def test_another_run_cannot_be_continued_and_is_left_untouched(tmp_path: Path) -> None:
    State(tmp_path / "out", fingerprint="one", resume=False).write("plans", [1])
    with pytest.raises(UsageError) as caught:
        State(tmp_path / "out", fingerprint="two", resume=True)
    assert caught.value.code == "resume_mismatch"
    assert State(tmp_path / "out", fingerprint="one", resume=True).read("plans") == [1]
    assert State(tmp_path / "out", fingerprint="two", resume=False).read("plans") is None


def test_a_run_may_go_on_in_another_number_of_processes_unless_that_makes_other_steps() -> None:
    def told(fixed_batch: int | None, **options: int) -> str:
        return fingerprint_of("net and data", ConvertOptions(**options), fixed_batch=fixed_batch)  # type: ignore[arg-type]

    assert told(None) == told(None, processes=2) == told(None, processes=3, accumulate=2) == told(4)
    assert told(None) != told(None, heal_batch=4)
    assert len({told(4, processes=1), told(4, processes=2), told(4, processes=3)}) == 3


def test_where_nothing_was_begun_nothing_is_continued_nor_made(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        State(tmp_path / "out", fingerprint="one", resume=True)
    assert caught.value.code == "nothing_to_resume"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("others", [False, True])
def test_a_removed_state_leaves_the_folder_as_it_was(tmp_path: Path, others: bool) -> None:
    out = tmp_path / "out"
    if others:
        out.mkdir()
    state = State(out, fingerprint="one", resume=False)
    state.write("plans", [])
    state.remove()
    assert out.exists() == others
    assert not others or not list(out.iterdir())


def test_fits_and_plans_come_back_as_they_were(tmp_path: Path) -> None:
    state = State(tmp_path, fingerprint="one", resume=False)
    block = Block(torch.tensor([0, 2]), torch.tensor([[0.5, -1.0], [0.0, 0.0]]), torch.randn(3, 2), torch.randn(3))
    bare = Block(torch.tensor([1]), torch.zeros(1, 2), torch.randn(3, 1), None)
    state.write_fits("x1", {"layer1.0.conv1": SiteFit(block, 0.25), "b": SiteFit(bare, 0.0)})
    back = state.read_fits("x1")
    assert back is not None
    assert set(back) == {"layer1.0.conv1", "b"}
    assert back["b"].block.bias is None
    assert back["layer1.0.conv1"].error == 0.25
    assert torch.equal(back["layer1.0.conv1"].block.weight, block.weight)
    assert state.read_fits("x2") is None

    here = DeviceProfile("one kind", (), "AVX2", 8, 4, 1.0, "", {}, kernels_native=True)
    assert load_plans(state, device=here) is None
    plans = [Planned(id="x2.00", plan={"a": 16, "b": None}, target=2.0, expected=2.1, prune=0.25)]
    found = Survey(
        costs={"a": {None: 2.0, 16: 1.0}, "b": {None: 1.0, 16: 2.0}},
        kept={"b": "Slower."},
        damage={"a": {16: 0.5}},
        importance={},
        left_out={"x3.00-pruned": "Nothing can go."},
    )
    store_plans(state, plans, found, device=here)
    assert load_plans(state, device=here) == (plans, found)
    # What was planned elsewhere is gone on with, and the report will tell.
    elsewhere = load_plans(state, device=replace(here, cpu="another kind"))
    assert elsewhere is not None
    assert elsewhere[0] == plans
    assert [note for note in elsewhere[1].notes if "one kind, 4 threads" in note]


def test_damaged_tensors_are_made_again_and_damaged_records_are_refused(tmp_path: Path) -> None:
    state = State(tmp_path, fingerprint="one", resume=False)
    state.write_fits("x1", {"a": SiteFit(Block(torch.tensor([1]), torch.zeros(1, 2), torch.randn(3, 1), None), 0.0)})
    state.write("plans", {"plans": []})
    for name in ("x1.safetensors", "plans.json"):
        file = state.folder / name
        file.write_bytes(file.read_bytes()[:-3])
    assert state.read_fits("x1") is None
    with pytest.raises(InfrastructureError) as caught:
        state.read("plans")
    assert caught.value.code == "damaged_state"


@pytest.mark.parametrize("most", [1.1, 1.5, 2.7, 9.0])
@pytest.mark.parametrize("wish", [{}, {"min_speedup": 2.0}, {"min_speedup": 50.0}])
def test_targets_ascend_within_reach_and_hold_the_wish(most: float, wish: dict[str, float]) -> None:
    aimed = targets(ConvertOptions(**wish), most)
    assert aimed == sorted(set(aimed))
    assert all(LEAST_GAIN <= target <= most for target in aimed)
    if wish.get("min_speedup", 99.0) * 1.1 < most:
        assert wish["min_speedup"] in aimed


def test_the_variant_that_was_asked_for_gets_most_of_the_time() -> None:
    plans = [Planned(id=f"x{t}", plan={}, target=t, expected=t) for t in (1.5, 2.0, 3.0)]
    focus = focused(plans, ConvertOptions(min_speedup=1.9))
    assert focus == [plans[1]]
    rest = (1 - FOCUS_SHARE) / 2
    assert shares(plans, focus) == pytest.approx([rest, FOCUS_SHARE, rest])
    assert FOCUS_SHARE > 0.5
    assert focused(plans, ConvertOptions(min_speedup=5.0)) == []
    assert focused(plans, ConvertOptions(max_drop=0.1)) == []
    assert shares(plans, []) == [1.0, 1.0, 1.0]
    assert shares(plans[:1], plans[:1]) == [1.0]
    # Rivals at the asked speed-up are healed alike.
    rivals = [*plans, Planned(id="x2.00-pruned", plan={}, target=2.0, expected=2.0, prune=0.25)]
    assert [p.id for p in focused(rivals, ConvertOptions(min_speedup=1.9))] == ["x2.0", "x2.00-pruned"]
    assert shares(rivals, focused(rivals, ConvertOptions(min_speedup=1.9))) == pytest.approx(
        [rest, FOCUS_SHARE / 2, rest, FOCUS_SHARE / 2]
    )
