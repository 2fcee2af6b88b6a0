"""Promote a run's checkpoint to champion of its category, and roll back to an earlier champion."""

from vqlab.promote.promotion import Promotion, promote
from vqlab.promote.rollback import Rollback, rollback

__all__ = ["Promotion", "Rollback", "promote", "rollback"]
