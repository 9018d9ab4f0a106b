"""The official `rwkv` package's API on this runtime: change the import, keep the code.

`from rwkv.model import RWKV` becomes `from rwkv_edge.compat.model import RWKV`, and likewise for
`utils`. Results are the official ones; docs/compat.md says what differs.
"""

from rwkv_edge.compat.model import RWKV
from rwkv_edge.compat.utils import PIPELINE, PIPELINE_ARGS

__all__ = ["PIPELINE", "PIPELINE_ARGS", "RWKV"]
