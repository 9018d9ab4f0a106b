"""The name of a checkpoint, whichever weight type and container it was converted to."""

import hashlib

from rwkv_edge.quant import Float32Array

N_DIGITS = 32


class Fingerprint:
    """A digest of a model's vectors, added in the order of the schema.

    They stay float32 in every file made from one checkpoint, so a state saved with the int8 file
    resumes with the int4 file, and with no other model. A merged adapter changes matrices alone, so
    what was merged is added last. A tuned state does not count: it is where a state begins, and
    goes on with the same weights wherever it began.
    """

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add_vector(self, weights: Float32Array) -> None:
        """The next vector of the schema, as float32."""
        self._digest.update(weights.tobytes())

    def add_adapters(self, adapters: str) -> None:
        """What the file says of adapters in its weights, after all vectors."""
        self._digest.update(adapters.encode())

    @property
    def digits(self) -> str:
        """Hexadecimal, N_DIGITS of them."""
        return self._digest.hexdigest()[:N_DIGITS]
