"""Selection of images to which the normalisation of image scores is fitted."""

from __future__ import annotations

import torch

from vqlab.detectors.vqflow.selection import evenly_by_concept


def test_images_of_each_concept_are_evenly_spaced() -> None:
    concepts = [torch.tensor([0, 0, 1, 0]), torch.tensor([0, 0, 2, 0]), torch.tensor([1])]
    chosen = evenly_by_concept(concepts, torch.tensor([3.0, 5.0, 0.0]))
    # Concept 0 has 6 images, of which the 2nd, 4th and 6th are selected; concept 1 has only 2.
    assert chosen == [[1, 2], [0, 3], [0]]
    counts = torch.zeros(3)
    for batch, places in zip(concepts, chosen, strict=True):
        counts += torch.bincount(batch[places], minlength=3)
    assert counts.tolist() == [3, 2, 0]


def test_fractions_are_rounded_up_and_negative_numbers_select_none() -> None:
    concepts = [torch.tensor([0, 0, 1, 1])]
    assert [len(p) for p in evenly_by_concept(concepts, torch.tensor([0.2, -4.0]))] == [1]
    assert evenly_by_concept([], torch.tensor([1.0])) == []
