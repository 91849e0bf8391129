"""Reads the vectors of `embed`: base64 of single-precision numbers, the lowest byte first. Pure."""

from __future__ import annotations

import binascii
import sys
from array import array

from realm_client.fields import FieldError
from realm_client.reply import Json

#: Bytes of a number, here and in every C compiler that builds Python.
_FLOAT_BYTES = 4


def read(value: Json) -> array[float]:
    """One vector."""
    if not isinstance(value, str):
        raise FieldError("a vector is not a string")
    try:
        data = binascii.a2b_base64(value, strict_mode=True)
    except ValueError as error:
        raise FieldError(f"a vector is not base64: {error}") from error
    if len(data) % _FLOAT_BYTES:
        raise FieldError(f"a vector of {len(data)} bytes")
    vector = array("f")
    vector.frombytes(data)
    if sys.byteorder == "big":
        vector.byteswap()
    return vector
