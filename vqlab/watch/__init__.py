"""Judge images as they arrive in a folder, and test whether they drift."""

from vqlab.watch.settings import WatchSettings
from vqlab.watch.watch import Status, watch_folder
from vqlab.watch.webhook import Webhook

__all__ = ["Status", "WatchSettings", "Webhook", "watch_folder"]
