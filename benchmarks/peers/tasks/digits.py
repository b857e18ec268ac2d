"""The pretrained digit classifier on MNIST digits, scored by top-1 accuracy."""

from __future__ import annotations

from aslconvert.converter.errors import InfrastructureError
from peers.tasks.task import Task, import_examples


def load(*, quick: bool) -> Task:
    """The network and digits of ``examples/``; it is the same when ``quick``, as nothing is trained.

    Raises:
        InfrastructureError: ``packages_missing``, where the weights or digits cannot be downloaded.
    """
    del quick
    import_examples()
    import digits
    from fetch import FetchError

    try:
        data = digits.OUT if digits.OUT.is_file() and digits.WEIGHTS.is_file() else digits.prepare()
        net, example = digits.make()
    except FetchError as error:
        raise InfrastructureError("packages_missing", str(error)) from error
    return Task(
        name="digits",
        metric="top1",
        net=net.eval(),
        example=example,
        data=data,
        fixed=("fc_layers.2",),
        note="pretrained digit classifier, three 3x3 convolutions; it may have seen some of these digits",
    )
