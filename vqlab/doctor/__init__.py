"""Check the machine (`vqlab doctor`) in a second: imports no heavy library and creates nothing."""

from vqlab.doctor.checks import run_checks
from vqlab.doctor.finding import Finding

__all__ = ["Finding", "run_checks"]
