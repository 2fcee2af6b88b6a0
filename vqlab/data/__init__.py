"""Datasets: find, read, resize, split, check and show images."""

from vqlab.data.area import AREA_FILES, areas_differ, areas_of, decode_areas, encode_areas
from vqlab.data.arrays import as_rgb
from vqlab.data.audit import STATISTICS, CategoryAudit, audit, audit_metrics
from vqlab.data.checks.report import CheckReport, check_dataset
from vqlab.data.contact_sheet import contact_sheet, write_image_set
from vqlab.data.encoded import BadImage, accept_pixels, read_encoded, size_of, suffix_of
from vqlab.data.image_set import ImageSet
from vqlab.data.images import IMAGE_SUFFIXES, pixels_digest, to_network
from vqlab.data.layouts import GOOD_AND_BAD
from vqlab.data.png import encode_png, picture_of, write_png
from vqlab.data.regions import Region, find_regions, polygon_of
from vqlab.data.settings import DataSettings, TileSettings
from vqlab.data.shifts import SEVERITIES, SHIFTS, shifted
from vqlab.data.source import (
    categories_in,
    choose_categories,
    describe_source,
    find_layout,
    find_root,
)
from vqlab.data.splits import Splits, dataset_fingerprint, fingerprint, load_dataset
from vqlab.data.synthetic import make_synthetic
from vqlab.data.synthetic_anomalies import SYNTHETIC_PREFIX
from vqlab.data.tiles import to_tiles
from vqlab.pixels.area import InspectedArea
from vqlab.pixels.decoding import Pixels, read_image
from vqlab.pixels.resizing import (
    frame_of,
    input_shape,
    resize_map,
    resize_mask,
    to_original,
    too_small,
)

__all__ = [
    "AREA_FILES",
    "SYNTHETIC_PREFIX",
    "Region",
    "find_regions",
    "polygon_of",
    "GOOD_AND_BAD",
    "IMAGE_SUFFIXES",
    "SEVERITIES",
    "SHIFTS",
    "STATISTICS",
    "BadImage",
    "CategoryAudit",
    "CheckReport",
    "DataSettings",
    "ImageSet",
    "InspectedArea",
    "Pixels",
    "Splits",
    "TileSettings",
    "accept_pixels",
    "areas_differ",
    "areas_of",
    "as_rgb",
    "audit",
    "audit_metrics",
    "categories_in",
    "check_dataset",
    "choose_categories",
    "contact_sheet",
    "dataset_fingerprint",
    "decode_areas",
    "describe_source",
    "encode_areas",
    "encode_png",
    "find_layout",
    "find_root",
    "fingerprint",
    "load_dataset",
    "make_synthetic",
    "read_encoded",
    "shifted",
    "read_image",
    "resize_map",
    "resize_mask",
    "picture_of",
    "pixels_digest",
    "size_of",
    "suffix_of",
    "frame_of",
    "input_shape",
    "to_network",
    "to_tiles",
    "too_small",
    "to_original",
    "write_png",
    "write_image_set",
]
