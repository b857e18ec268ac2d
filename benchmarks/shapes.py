"""The layers that the kernels are measured on: ResNet's, odd ones, and ones with an epilogue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

RESNET = ((64, 56), (128, 28), (256, 14), (512, 7))


@dataclass(frozen=True)
class Case:
    """One layer: `channels` of the image, `rows` that are shifted (K), `outputs` of the 1x1, all at `batch` images.

    Rows other than the channels read any channel in any order. The 3x3 beside it has this stride and padding.
    `epilogue` adds a bias, a residual of the output's shape and a ReLU to every op.
    """

    group: str
    channels: int
    height: int
    width: int
    batch: int
    rows: int
    outputs: int
    stride: int = 1
    padding: int = 1
    epilogue: bool = False

    @property
    def free(self) -> bool:
        """Whether rows read channels of their own choice."""
        return self.rows != self.channels

    @property
    def shape(self) -> str:
        """The layer's name in the tables, such as 64@56 or 24@13x17 K36."""
        size = f"{self.height}" if self.height == self.width else f"{self.height}x{self.width}"
        name = f"{self.channels}@{size}"
        for text, shown in (
            (f" K{self.rows}", self.free),
            (f" s{self.stride}", self.stride != 1),
            (f" p{self.padding}", self.padding != 1),
            (" +bias+residual+relu", self.epilogue),
        ):
            name += text if shown else ""
        return name

    @property
    def delta(self) -> int:
        """What fixes the output's size for the shift ops: the 3x3's padding on both sides less its reach."""
        return 2 * self.padding - 3

    @property
    def out_size(self) -> tuple[int, int]:
        """Height and width of the output."""
        return (self.height + self.delta) // self.stride + 1, (self.width + self.delta) // self.stride + 1

    def flops(self) -> int:
        """Multiplications and additions of the 1x1; the shift's own are not counted, so that the floor is the 1x1's."""
        out_height, out_width = self.out_size
        return 2 * self.batch * out_height * out_width * self.rows * self.outputs

    def elements(self) -> int:
        """Numbers that must be read or written once: the image, the weight, the output, and the residual if any."""
        out_height, out_width = self.out_size
        image = self.batch * self.channels * self.height * self.width
        output = self.batch * self.outputs * out_height * out_width
        return image + self.rows * self.outputs + output * (2 if self.epilogue else 1)


def _square(group: str, channels: int, size: int, batch: int, *, epilogue: bool = False) -> Case:
    return Case(group, channels, size, size, batch, channels, channels, epilogue=epilogue)


def _odd(batch: int) -> list[Case]:
    cases = [
        Case("odd", channels, height, width, batch, channels, channels)
        for channels in (3, 24, 100)
        for height, width in ((56, 56), (13, 17))
    ]
    cases += [
        Case("odd", channels, height, width, batch, channels * 3 // 2, channels)
        for channels, height, width in ((24, 13, 17), (100, 13, 17), (64, 28, 28))
    ]
    cases.append(Case("odd", 3, 56, 56, batch, 16, 24))
    return cases


def _extra(batch: int) -> list[Case]:
    return [
        Case("extra", 64, 56, 56, batch, 64, 128, stride=2),
        Case("extra", 100, 13, 17, batch, 100, 100, stride=2),
        Case("extra", 64, 28, 28, batch, 64, 64, padding=0),
    ]


def cases(shapes: str, batches: Sequence[int]) -> list[Case]:
    """The layers of `resnet`, `odd` (with strided and unpadded ones as group `extra`), `epilogue`, or `all` of them."""
    chosen: list[Case] = []
    if shapes in ("resnet", "all"):
        chosen += [_square("resnet", channels, size, batch) for channels, size in RESNET for batch in batches]
    if shapes in ("odd", "all"):
        for batch in batches:
            chosen += _odd(batch) + _extra(batch)
    if shapes in ("epilogue", "all"):
        chosen += [
            _square("epilogue", channels, size, batch, epilogue=True) for channels, size in RESNET for batch in batches
        ]
    return chosen
