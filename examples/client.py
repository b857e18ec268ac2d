"""Asks a service for several speed-ups of one model at the same time, and downloads what each job gives.

aslconvert serve &
python examples/client.py model.pt2 photos.tar --speedups 2,3 --out out/asked
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from aslconvert.service.client import AsyncClient, JobFailed, Model


async def convert(client: AsyncClient, model: Model, dataset: str, speedup: float, out: Path) -> None:
    """One job from its submission to its files."""
    options = {"min_speedup": speedup, "budget_seconds": 300}
    job = await client.submit(model=model.id, dataset=dataset, options=options)
    async for event in client.follow(job.id):
        if event.kind == "stage":
            print(f"x{speedup:g}: {event.data['stage']}", flush=True)
    try:
        ended = await client.wait(job.id)
    except JobFailed as error:
        print(f"x{speedup:g}: {error.code}: {error.message}")
        return
    for variant in await client.variants(ended.id):
        mark = "*" if variant.recommended else " "
        print(
            f"x{speedup:g}: {mark} {variant.name or variant.id}: {variant.speedup} times as fast, loses {variant.loss}"
        )
    async for artifact in client.artifacts(ended.id):
        await client.download(artifact, out / f"x{speedup:g}" / artifact.name)
    if ended.missed is not None:
        print(f"x{speedup:g}: {ended.missed.message}")


async def main() -> None:
    """Sends what the service has not got, then waits for all jobs together."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--speedups", default="2,3")
    parser.add_argument("--out", type=Path, default=Path("out/asked"))
    parser.add_argument("--server", help="by default ASLCONVERT_SERVER, else this machine")
    given = parser.parse_args()
    async with AsyncClient(given.server) as client:
        model = await client.upload_model(given.model)
        data = await client.upload_dataset(given.data)
        wishes = [float(word) for word in given.speedups.split(",")]
        await asyncio.gather(*(convert(client, model, data.id, wish, given.out) for wish in wishes))


if __name__ == "__main__":
    asyncio.run(main())
