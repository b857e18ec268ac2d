"""What Prometheus keeps for good stays small, whatever jobs call their stages."""

from concurrent.futures import ThreadPoolExecutor

from aslconvert.workers.metrics import Names


def test_names_are_bounded_and_known_ones_stay() -> None:
    names = Names(most=3, chars=8)
    assert names.bounded("heal x2.00") == "heal"
    assert names.bounded("heal x3.00") == "heal"
    assert names.bounded("a" * 100) == "a" * 8
    assert names.bounded("fit x2.00") == "fit"
    assert [names.bounded(f"stage{n}") for n in range(100)] == ["other"] * 100
    assert names.bounded("heal") == "heal"


def test_threads_share_the_bound() -> None:
    names = Names(most=10)
    with ThreadPoolExecutor(8) as pool:
        given = set(pool.map(lambda n: names.bounded(f"n{n % 50}"), range(2000)))
    assert len(given) == 11
