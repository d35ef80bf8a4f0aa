"""What a trainer's machine pays for `import gateway.training`: none of the gateway's own code."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec

TELL = "import json, sys, gateway.training; print(json.dumps(sorted(sys.modules)))"
GATEWAY_ONLY = ("mcp", "starlette", "uvicorn", "pydantic", "yaml", "re2", "docker", "typer")
OWN_SIDE = ("gateway.serve", "gateway.runtime", "gateway.sandbox", "gateway.cli", "gateway.config")


def test_importing_the_clients_loads_neither_mcp_nor_a_sandbox_nor_a_server() -> None:
    done = subprocess.run([sys.executable, "-c", TELL], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert loaded.isdisjoint(GATEWAY_ONLY)
    assert [name for name in loaded if name.startswith(OWN_SIDE)] == []
    assert loaded.isdisjoint({"torch", "transformers", "trl"})
    assert find_spec("gymnasium") is not None or loaded.isdisjoint({"gymnasium", "numpy"})


def test_importing_the_gateway_loads_no_client() -> None:
    script = "import sys, gateway; print('gateway.training' in sys.modules, 'websockets' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
