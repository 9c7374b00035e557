"""From one place of a tree of texts to another."""

from __future__ import annotations

from itertools import product

from specdec.sampling.places import Place, way


def tree(tokens: int, depth: int) -> list[Place]:
    """All places down to a depth, each with so many tokens below it; the root first."""
    places = [Place()]
    for place in places:
        if place.depth < depth:
            place.below = {token: Place(place, token) for token in range(tokens)}
            places.extend(place.below.values())
    return places


def test_a_way_takes_back_what_is_not_shared_and_goes_on_with_the_rest() -> None:
    places = tree(tokens=2, depth=3)
    assert sorted(place.path() for place in places if place.depth == 3) == [
        list(path) for path in product((0, 1), repeat=3)
    ]
    for here, there in product(places, repeat=2):
        back, down = way(here, there)
        path = here.path()
        assert path[: len(path) - back] + down == there.path()
        shared = len(path) - back
        assert not (back and down) or path[shared] != down[0], "No token is taken back only to come again."


def test_whatever_follows_an_end_is_allowed() -> None:
    root = Place()
    end = Place(root, 7, over=True)
    assert (end.fits, Place(end, 1, over=True).fits) == (False, True)


def test_a_twin_knows_the_same_and_stands_alone() -> None:
    root, below = tree(tokens=1, depth=1)
    below.run, below.free = (3, 4), False
    twin = below.twin()
    assert (twin.run, twin.free, twin.row) == ((3, 4), False, None)
    assert (twin.above, twin.path(), twin.below) == (None, [], {})
    assert below.above is root
