"""mqlite: the message queue you import.

Queues with priorities and acknowledgements, and topics, in memory or in one directory on disk,
shared by the threads and processes of a machine; no server.

The map of the package, from the top; each floor uses only those below it:

    broker.py                         open(): queues, topics, tables and transactions over one store
    topic.py  publisher.py  subscription.py  who gets it; publishing; a queue of what is published
    pipe.py  emit.py                  from one to another, exactly once
    windows.py  pipe_windows.py       counted in stretches of time; by a pipe
    queue.py  operations.py           what the user holds: putting and taking; looking and operating
    prepared.py                       messages that are stored first and sent, or not, later
    producer.py  consumer.py          buffering puts; prefetching messages
    calls.py                          request and reply
    schedules.py  watermarks.py       messages that come again and again; callbacks on the level
    channel.py                        one queue of an open store, as its handles use it
    lease.py                          settling a message once
    transaction.py  table.py          many changes in one commit; the user's own rows
    receipt.py  replies.py            what becomes of a message that is put later; how a reply finds who has called
    store.py                          one store per path and process; fork; exit
    memory_store.py  disk_store.py    the parts of a store, put together
    backup.py  compaction.py          a copy of a store in use; a smaller log in the place of the log
    recovery/                         a new store, made of what can be saved of a damaged one
    verify.py  audit.py (audit_*.py)  whether a log is whole, asked in another process; the invariants of a store
    presence.py                       this process among the others: join, watch, leave
    engine/                           the message state machine (its own map in engine/__init__.py)
      putting.py claiming.py settling.py  the three transitions: in, to somebody, out
      passing.py (looking.py sitting.py)  all three of a plain message, without a commit
    waiting.py                        sleeping without polling
    log/  claims/  wake/              what exists; who holds what; who is woken
      log/memory.py (memory_*.py) shelf.py  in sorted containers
      log/lmdb.py (lmdb_*.py) upgrade.py  on disk; an older format
      log/numbers.py                    exact counts, changed in the same commit as what they count
      log/format.py counting.py entries.py  every byte on disk: messages; those numbers; indexes
      log/index.py                      what a message is found by besides its place
      log/batch.py                      the same bytes of many messages at once
      log/rows.py memory_rows.py        rows of tables, on disk and in memory
      log/rebuild.py                    records put back where they were (for recovery/)
      log/space.py                      room before it is needed
      log/alone.py                      one plain message in or out, where nobody else writes
      log/front.py folding.py           plain messages that come and go before they reach the tree; how they get there
      log/front_records.py front_flush.py  what is done with one of them; one flush for all that wait for the disk
      log/front_removals.py               what is said there of messages of the tree that rows hold
      log/front_file.py front_contents.py  the bytes of that; what is in it
      log/recalling.py                  what another boot has left in it
      claims/memory.py shared.py (shared_*.py)  in sorted containers; in LMDB, for one boot
      claims/runs.py                    rows that lie side by side, as one entry
      claims/bench.py                   who waits for a message, said without a commit
      claims/known.py started.py        what need not be read again; what was handed out, said without a commit
      claims/postponed.py expected.py   rows that go with the next commit; rows of what is about to be committed
      wake/local.py fifo.py polling.py  threads; processes; where there are no pipes
    durability/                       how the log gets to the disk (level "full": system/level.py)
    system/                           LMDB environments and copies, the store's directory, signs of life, clocks
      environment.py level.py           one environment of a process; what differs between levels
      gate.py quiet.py                  the lock of all processes; everybody out, around a fork and for good
      group_commit.py                   one commit for many threads: the log's, and the claims'
      blocks.py translation.py          files without holes; errors of LMDB and the system in our words
      directory.py control.py           the files of a store; log.control
      liveness.py inside.py             which processes live; whether any has a store open
      pages.py structure.py salvage.py  LMDB's pages read without LMDB: whether they are whole, what can be saved
    recurrence.py                     when something periodic is due
    message.py  handle.py             what travels; what is closed at the end of a block
    patterns.py  filters.py           what a subscription wants
    options.py  codecs.py  keys.py  checks.py
    errors.py
"""

from .broker import Broker, open
from .calls import Responder
from .codecs import Codec
from .consumer import Consumer
from .emit import Emit
from .errors import (
    AlreadyClaimed,
    AlreadyDecided,
    CallFailed,
    CallTimeout,
    Closed,
    CodecError,
    Conflict,
    Empty,
    Full,
    LeaseLost,
    MessageCorrupted,
    MessageTooLarge,
    MqliteError,
    NetworkFilesystemWarning,
    NoSuchSubscription,
    NotClaimed,
    NotCommitted,
    NotSupported,
    OutOfRange,
    QueueLocked,
    SettingsMismatch,
    ShutDown,
    StoreCorrupted,
    StoreError,
    StoreFull,
    Unroutable,
)
from .message import Death, Message
from .operations import QueueStats
from .options import Backoff, QueueOptions, TopicOptions
from .pipe import Pipe, PipeStats
from .prepared import CheckBack, Prepared
from .producer import Producer
from .publisher import Will
from .queue import Queue
from .receipt import Published, Receipt
from .recovery import Recovery, recover
from .schedules import Schedule
from .subscription import Subscription, SubscriptionStats
from .table import OpenTable, Table
from .topic import BoundQueue, Topic, TopicStats
from .transaction import Transaction
from .watermarks import Watermarks
from .windows import TumblingWindow, WindowResult

__version__ = "0.1.0"

__all__ = [
    "AlreadyClaimed",
    "AlreadyDecided",
    "Backoff",
    "BoundQueue",
    "Broker",
    "CallFailed",
    "CallTimeout",
    "CheckBack",
    "Closed",
    "Codec",
    "CodecError",
    "Conflict",
    "Consumer",
    "Death",
    "Emit",
    "Empty",
    "Full",
    "LeaseLost",
    "Message",
    "MessageCorrupted",
    "MessageTooLarge",
    "MqliteError",
    "NetworkFilesystemWarning",
    "NoSuchSubscription",
    "NotClaimed",
    "NotCommitted",
    "NotSupported",
    "OpenTable",
    "OutOfRange",
    "Pipe",
    "PipeStats",
    "Prepared",
    "Producer",
    "Published",
    "Queue",
    "QueueLocked",
    "QueueOptions",
    "QueueStats",
    "Receipt",
    "Recovery",
    "Responder",
    "Schedule",
    "SettingsMismatch",
    "ShutDown",
    "StoreCorrupted",
    "StoreError",
    "StoreFull",
    "Subscription",
    "SubscriptionStats",
    "Table",
    "Topic",
    "TopicOptions",
    "TopicStats",
    "Transaction",
    "TumblingWindow",
    "Unroutable",
    "Watermarks",
    "Will",
    "WindowResult",
    "open",
    "recover",
]
