"""BTAD: three products, 01 to 03, with train/ok, test/ok, test/ko and ground_truth/ko."""

from __future__ import annotations

from pathlib import Path

from vqlab.data.datasets.dataset import Counts
from vqlab.data.datasets.mvtec_ad import MVTecAD


class BTAD(MVTecAD):
    """The layout of MVTec AD, recognised by its names."""

    name = "BTAD"
    counts = {"01": Counts(400, 21, 49), "02": Counts(399, 30, 200), "03": Counts(1000, 400, 41)}
    """Mishra et al., VT-ADL, ISIE 2021; the archive has 2,540 images."""

    def is_category(self, folder: Path) -> bool:
        return folder.absolute().name in self.counts and (folder / "test/ko").is_dir()
