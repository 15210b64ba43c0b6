"""The engine: the message state machine, and the parts it is made of.

    machine.py     the transitions and the parts, put together
    putting.py admission.py  how a message comes in; duplicates, replacements, overflow
    claiming.py    how a message goes to somebody: who asks, waits, and looks around
    picking.py seizing.py  what is first in line, and what keeps a claimer from it; the rows
    handing.py     how what was claimed ahead is handed out
    passing.py     a plain message that comes and goes without a commit
    looking.py sitting.py  what is first in line there; who waits for it
    sharing.py     claims of many threads, made in one commit
    expecting.py   a claim on what is about to be committed
    settling.py    how a claim ends
    order.py       where a message lines up: priority, last in first out, ageing
    groups.py      groups: so many in flight, in order, in turn
    pace.py        rate limits
    seats.py       consumers that have a queue for themselves
    schedule.py    what waits for a time: delays, schedules, expiry
    byid.py        cancel and update
    removal.py     purge and redrive
    takeback.py    what the dead and the hung hold
    aftermath.py   what follows a commit
    local.py       put and get fused, for memory
    tasks.py       task_done, join, shutdown
    catalog.py     declared queues and their options
    topics.py subscriptions.py  declared topics, and who gets what; members that come and go
    publishing.py  one message to all that want it
    commitment.py  settlements, puts, publications and more in one commit
    tables.py once.py deciding.py  what else a commit may do: rows; keys seen once; prepared messages
    retention.py replay.py  what a topic keeps, and gives to those that start in the past
    legacies.py    what is done when a process dies: wills, and what it alone used
    inspection.py  counts and browsing
    parts.py steps.py   what these work with; claims and notes, handed between them

The numbers in brackets in the code are the rules of docs/protocol.md.
"""

from .catalog import QueueState
from .machine import Engine
from .steps import Claim, Refused

__all__ = ["Claim", "Engine", "QueueState", "Refused"]
