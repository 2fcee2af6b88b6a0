"""Judge images as they arrive in a folder, and test whether they drift."""

from vqlab.watch.judging import Status, watch_folder
from vqlab.watch.settings import WatchSettings
from vqlab.watch.state import DriftState, read_drift_state
from vqlab.watch.webhook import Webhook

__all__ = ["DriftState", "Status", "WatchSettings", "Webhook", "read_drift_state", "watch_folder"]
