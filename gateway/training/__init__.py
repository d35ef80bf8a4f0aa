"""The trainer's side of the environment: clients and adapters. Needs no `mcp`, no sandbox, no gateway code.

Glossary:

* *Env*, *AsyncEnv*: one session with a served pack, in blocking or in awaiting code (`env`, `async_env`).
* *VectorEnv*: many of them, stepped at the same time (`vector`).
* *Reset*, *Step*: what is asked; *ResetResult*, *StepResult*: what is shown, frozen (`results`, `codec`).
* *EnvError*: what went wrong between the two, and whose fault it is (`errors`); what it means for the
  session (`conversation`).
* *Adapters*: the same for Gymnasium (`gym`) and for TRL (`trl`); *own gateway*: one that ends with its
  environment (`own_gateway`).

Where gymnasium is installed, importing this registers `sandgate/<pack>-v0` for every bundled pack, as
importing is how Gymnasium finds environments.
"""

from importlib.util import find_spec

from gateway.training.async_env import AsyncEnv
from gateway.training.env import Env
from gateway.training.errors import (
    AnswerLate,
    CapacityReached,
    ConnectionLost,
    EnvError,
    EpisodeUnavailable,
    InvalidRequest,
    NotAllowed,
    ProtocolBroken,
    ServerFailed,
    SnapshotFailed,
)
from gateway.training.results import (
    Action,
    CodeCall,
    DoneReason,
    EpisodeStatus,
    ResetResult,
    StepResult,
    Tool,
    ToolError,
)
from gateway.training.trl import trl_environment
from gateway.training.vector import VectorEnv

__all__ = [
    "Action",
    "AnswerLate",
    "AsyncEnv",
    "CapacityReached",
    "CodeCall",
    "ConnectionLost",
    "DoneReason",
    "Env",
    "EnvError",
    "EpisodeStatus",
    "EpisodeUnavailable",
    "InvalidRequest",
    "NotAllowed",
    "ProtocolBroken",
    "ResetResult",
    "ServerFailed",
    "SnapshotFailed",
    "StepResult",
    "Tool",
    "ToolError",
    "VectorEnv",
    "trl_environment",
]

if find_spec("gymnasium") is not None:
    from gateway.data import data_folder
    from gateway.training.gym import register_pack

    for _manifest in sorted(data_folder("toolpacks").glob("*/toolpack.yaml")):
        register_pack(_manifest.parent.name)
