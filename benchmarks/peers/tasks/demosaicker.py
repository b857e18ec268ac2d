"""The pretrained demosaicker on photos, scored by PSNR."""

from __future__ import annotations

from aslconvert.converter.errors import InfrastructureError
from aslconvert.converter.options import Crop
from peers.tasks.task import Task, import_examples


def load(*, quick: bool) -> Task:
    """The network and tiles of ``examples/``; it is the same when ``quick``, as nothing is trained.

    Raises:
        InfrastructureError: ``packages_missing``, where the weights or photos cannot be downloaded.
    """
    del quick
    import_examples()
    import demosaicker
    import photos
    from fetch import FetchError

    try:
        data = photos.prepare()
        net, example = demosaicker.pretrained()
    except FetchError as error:
        raise InfrastructureError("packages_missing", str(error)) from error
    last = f"main_processor.conv{demosaicker.DEPTH}"
    return Task(
        name="demosaicker",
        metric="psnr",
        net=net.eval(),
        example=example,
        data=data,
        # The last convolution's outputs are split at a fixed channel; the mosaic's cells are what they are.
        fixed=("main_processor.pack_mosaic", last, "residual_predictor", "upsampler", "fullres_processor.output"),
        # Tiles of 128 pixels are healed on crops that keep the mosaic's phase.
        crop=Crop(size=64, multiple=2),
        note="pretrained Bayer demosaicker, photos split by photo",
    )
