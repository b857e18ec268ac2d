"""What an interrupted conversion leaves behind, so that --resume goes on instead of starting over."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from aslconvert.converter.errors import InfrastructureError, UsageError
from aslconvert.converter.export.atomic import write_file
from aslconvert.converter.fit.layerwise import SiteFit
from aslconvert.converter.fit.rows import Block
from aslconvert.converter.options import DEFAULT_ARTIFACTS, DEFAULT_BUDGET_SECONDS, ConvertOptions

FOLDER = ".state"


def fingerprint_of(subject: str, options: ConvertOptions, *, fixed_batch: int | None) -> str:
    """What a run must have in common with the one that it continues: ``subject`` tells its model and data.

    The number of processes is not among it, but where each takes the whole ``fixed_batch`` of the model.
    """
    # The budget may differ: an interrupted run may be given more time, or less, for what is still to be healed.
    # So may what is written at the end.
    kept = dataclasses.replace(
        options,
        resume=False,
        dry_run=False,
        budget_seconds=DEFAULT_BUDGET_SECONDS,
        artifacts=DEFAULT_ARTIFACTS,
        dump_passes=None,
        cache=True,
        # In how many pieces a step is computed makes no other step.
        accumulate=1,
    )
    # Nor does in how many processes, which the options' text therefore leaves out.
    together = f"|{options.processes}" if fixed_batch is not None and options.processes > 1 else ""
    return hashlib.sha256(f"{subject}|{kept}{together}".encode()).hexdigest()


class State:
    """A folder inside the output folder; removed when the conversion is done."""

    def __init__(self, out: Path, *, fingerprint: str, resume: bool) -> None:
        self.folder = out / FOLDER
        self._made_out = not out.exists()
        record = self.folder / "run.json"
        if not resume:
            shutil.rmtree(self.folder, ignore_errors=True)
        elif not record.is_file():
            raise UsageError("nothing_to_resume", f"'{out}' holds no interrupted run.", hint="Leave --resume away.")
        elif _json(record)["fingerprint"] != fingerprint:
            raise UsageError(
                "resume_mismatch",
                f"The interrupted run in '{out}' had another model, other data or other options.",
                hint="Give the same ones, or leave --resume away to start over.",
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        write_file(record, json.dumps({"fingerprint": fingerprint}).encode())

    def read(self, name: str) -> Any:
        """The JSON value stored under ``name``, or None. Raises InfrastructureError("damaged_state")."""
        path = self.folder / f"{name}.json"
        return _json(path) if path.is_file() else None

    def write(self, name: str, value: Any) -> None:
        """Store a JSON value."""
        write_file(self.folder / f"{name}.json", json.dumps(value).encode())

    def checkpoint(self, name: str) -> Path:
        """Where the healing of ``name`` keeps its checkpoint."""
        return self.folder / f"{name}.heal.pt"

    def read_fits(self, name: str) -> dict[str, SiteFit] | None:
        """The fitted sites of a variant, or None."""
        tensors = self.read_tensors(name)
        if tensors is None:
            return None
        names = sorted({key.rpartition("|")[0] for key in tensors})
        return {
            site: SiteFit(
                block=Block(
                    source=tensors[f"{site}|source"],
                    shift=tensors[f"{site}|shift"],
                    weight=tensors[f"{site}|weight"],
                    bias=tensors.get(f"{site}|bias"),
                ),
                error=float(tensors[f"{site}|error"]),
            )
            for site in names
        }

    def write_fits(self, name: str, fits: dict[str, SiteFit]) -> None:
        """Store the fitted sites of a variant."""
        tensors: dict[str, Tensor] = {}
        for site, fit in fits.items():
            block = fit.block
            parts = {"source": block.source, "shift": block.shift, "weight": block.weight, "bias": block.bias}
            parts["error"] = torch.tensor(fit.error)
            tensors |= {f"{site}|{part}": t.detach().clone() for part, t in parts.items() if t is not None}
        write_file(self.folder / f"{name}.safetensors", save(tensors))

    def read_tensors(self, name: str) -> dict[str, Tensor] | None:
        """The tensors stored under ``name``, or None; also where they are damaged: they can be made again."""
        path = self.folder / f"{name}.safetensors"
        try:
            return load_file(path) if path.is_file() else None
        except SafetensorError:
            return None

    def write_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Store tensors by name."""
        data = save({key: value.detach().contiguous().clone() for key, value in tensors.items()})
        write_file(self.folder / f"{name}.safetensors", data)

    def remove(self) -> None:
        """Nothing is left to resume; an output folder that was made for the state alone goes too."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._made_out:
            with contextlib.suppress(OSError):
                self.folder.parent.rmdir()


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise InfrastructureError(
            "damaged_state", f"'{path}' is damaged.", hint="Check the disk; leave --resume away to start over."
        ) from error
