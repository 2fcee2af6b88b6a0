"""What metrics are called in tables and sentences."""

HEADLINES = {
    "image_auroc": "image AUROC",
    "image_ap": "image AP",
    "image_f1max": "image F1max",
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "pixel_f1max": "pixel F1max",
    "aupro": "AUPRO",
    "false_reject_rate": "false rejects",
    "escape_rate": "escapes",
}
"""By name, in the order in which they are shown."""
