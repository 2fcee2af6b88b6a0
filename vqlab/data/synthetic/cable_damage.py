"""Defects of `cable`: the defect types of MVTec AD's category of that name."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.random import Generator

from vqlab.data.synthetic.cable import HOLE, WIRE, Bent, Cable, Cut, Wire
from vqlab.data.synthetic.surface import Array, polar


def _present(cable: Cable, rng: Generator) -> int:
    """Return the index of a wire that exists."""
    return int(rng.choice([i for i, wire in enumerate(cable.wires) if wire.exists]))


def _with_wire(cable: Cable, index: int, wire: Wire) -> Cable:
    wires = list(cable.wires)
    wires[index] = wire
    return replace(cable, wires=tuple(wires))


def _ragged(start: Array, end: Array, rough: float, rng: Generator) -> Array:
    steps = np.linspace(0, 1, 6)[:, None]
    return np.asarray(start + steps * (end - start) + rng.normal(0, rough, (6, 2)))


def _bend(cable: Cable, rng: Generator) -> Cable:
    index = _present(cable, rng)
    wire = cable.wires[index]
    angle = rng.uniform(0, 2 * math.pi)
    facing = wire.strands[:, :2] @ polar(angle, 1.0)
    chosen = np.argsort(-facing)[: rng.integers(1, 5)]
    present = wire.present.copy()
    bent = list(cable.bent)
    for place in chosen:
        present[place] = False
        heading = angle + rng.normal(0, 0.35)
        points = [np.array(wire.centre) + wire.strands[place, :2]]
        for _ in range(5):
            points.append(points[-1] + polar(heading, rng.uniform(0.028, 0.06)))
            heading += rng.normal(0, 0.3)
        bent.append(Bent(np.array(points), 0.025, rng.uniform(0.85, 1.15)))
    return replace(_with_wire(cable, index, replace(wire, present=present)), bent=tuple(bent))


def _swap(cable: Cable, rng: Generator) -> Cable:
    first, second = (int(i) for i in rng.choice(3, 2, replace=False))
    wire, other = cable.wires[first], cable.wires[second]
    swapped = _with_wire(cable, first, replace(wire, colour=other.colour))
    if rng.random() < 0.5:  # otherwise the same colour twice
        swapped = _with_wire(swapped, second, replace(other, colour=wire.colour))
    return swapped


def _cut_inner(cable: Cable, rng: Generator) -> Cable:
    index = _present(cable, rng)
    centre = np.array(cable.wires[index].centre)
    angle, lean = rng.uniform(0, 2 * math.pi), rng.normal(0, 0.25)
    depth = rng.uniform(0.35, 1.0) * (WIRE - HOLE + 0.03)
    start = centre + polar(angle, WIRE + 0.02)
    points = _ragged(start, centre + polar(angle + lean, WIRE + 0.02 - depth), 0.006, rng)
    cut = Cut(index, points, rng.uniform(0.009, 0.045), rng.uniform(0, 4))
    return replace(cable, cuts=(*cable.cuts, cut))


def _cut_outer(cable: Cable, rng: Generator) -> Cable:
    angle, lean = rng.uniform(0, 2 * math.pi), rng.normal(0, 0.10)
    depth = rng.uniform(0.06, 0.22)
    points = _ragged(polar(angle, 0.93), polar(angle + lean, 0.93 - depth), 0.008, rng)
    cut = Cut(-1, points, rng.uniform(0.012, 0.05), rng.uniform(0, 4))
    return replace(cable, cuts=(*cable.cuts, cut))


def _lose_cable(cable: Cable, rng: Generator) -> Cable:
    index = _present(cable, rng)
    return _with_wire(cable, index, replace(cable.wires[index], exists=False))


def _lose_strands(cable: Cable, rng: Generator) -> Cable:
    index = _present(cable, rng)
    wire = cable.wires[index]
    count = int(rng.choice([3, 5, 8, 14, 22, 37]))
    facing = wire.strands[:, :2] @ polar(rng.uniform(0, 2 * math.pi), 1.0)
    present = wire.present.copy()
    present[np.argsort(-facing)[:count]] = False
    return _with_wire(cable, index, replace(wire, present=present))


def _poke(cable: Cable, rng: Generator) -> Cable:
    index = int(rng.integers(-1, 3))
    angle = rng.uniform(0, 2 * math.pi)
    if index >= 0 and cable.wires[index].exists:
        spot = np.array(cable.wires[index].centre) + polar(
            angle, (WIRE + HOLE) / 2 + rng.normal(0, 0.008)
        )
    else:
        index, spot = -1, polar(angle, 0.825 + rng.normal(0, 0.012))
    points = np.stack([spot, spot + rng.normal(0, 0.012, 2)])
    cut = Cut(index, points, rng.uniform(0.013, 0.030), rng.uniform(2, 7))
    return replace(cable, cuts=(*cable.cuts, cut))


def _combine(cable: Cable, rng: Generator) -> Cable:
    choices = [draw for name, draw in DAMAGE.items() if name != "combined"]
    first, second = (choices[int(i)] for i in rng.choice(len(choices), 2, replace=False))
    return second(first(cable, rng), rng)


DAMAGE: dict[str, Callable[[Cable, Generator], Cable]] = {
    "bent_wire": _bend,
    "cable_swap": _swap,
    "combined": _combine,
    "cut_inner_insulation": _cut_inner,
    "cut_outer_insulation": _cut_outer,
    "missing_cable": _lose_cable,
    "missing_wire": _lose_strands,
    "poke_insulation": _poke,
}
"""Functions that draw each defect type."""
