"""The engine: the message state machine, and the parts it is made of.

    machine.py     put, claim, settle: the transitions
    aftermath.py   what follows a commit
    takeback.py    what the dead and the hung hold
    local.py       put and get fused, for memory
    tasks.py       task_done, join, shutdown
    catalog.py     declared queues and their options
    inspection.py  counts and browsing
    steps.py       claims and notes, handed between these

The numbers in brackets in the code are the rules of docs/protocol.md.
"""

from .catalog import QueueState
from .machine import Engine
from .steps import Claim

__all__ = ["Claim", "Engine", "QueueState"]
