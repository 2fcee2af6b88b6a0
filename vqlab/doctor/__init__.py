"""What would not work on this machine, found in a second: no heavy library is imported, and nothing
is created."""

from vqlab.doctor.checks import examine
from vqlab.doctor.finding import Finding

__all__ = ["Finding", "examine"]
