"""What runs leave in MLflow, which nothing else imports.

Reading order: `tracker.py` (what a stage logs), `spool.py` (where it is kept), `sender.py` and `delivery.py`
(how it is sent), `mlflow_store.py` (where to). Whatever is logged is written to a spool on disk first and
sent from there, in order and once, by a thread of its own: a store that is locked, slow, full or gone neither
ends a run nor holds it up. What is left at the end stays in `mlspool/` for the next run or `unival sync`. No
stage reads a result back; `past.py` does, to compare runs.
"""

from unival.tracking.copying import copy_all
from unival.tracking.delivery import send_all
from unival.tracking.health import unreachable
from unival.tracking.mlflow_store import connect, opened, store_name
from unival.tracking.models import DIGEST, REGISTERED, ModelScore, register
from unival.tracking.past import STUDY, Past, attach, fetch, find
from unival.tracking.tracker import MlflowTracker, Tracker, unsent

__all__ = [
    "DIGEST",
    "REGISTERED",
    "STUDY",
    "MlflowTracker",
    "ModelScore",
    "Past",
    "Tracker",
    "attach",
    "connect",
    "copy_all",
    "fetch",
    "find",
    "opened",
    "register",
    "send_all",
    "store_name",
    "unreachable",
    "unsent",
]
