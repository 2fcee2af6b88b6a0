"""Promote a run's checkpoint to champion of its category, and roll back to an earlier champion.

A promotion must pass gates, see `vqlab.promote.gates`.
"""

from vqlab.promote.gates.gate import Gate
from vqlab.promote.gates.settings import GateSettings, gate_settings
from vqlab.promote.history import VersionRecord, history
from vqlab.promote.promotion import Promotion, promote
from vqlab.promote.reproduce import model_config, same_data
from vqlab.promote.rollback import rollback

__all__ = [
    "Gate",
    "GateSettings",
    "Promotion",
    "VersionRecord",
    "gate_settings",
    "history",
    "model_config",
    "promote",
    "rollback",
    "same_data",
]
