"""A small ttrpc client and protobuf encoder: enough to call a shim's task service without containerd.

Frame: u32 length, u32 stream id, u8 type (1 request, 2 response), u8 flags, all big-endian; then the message.
"""

import socket
import struct

STRINGS = dict  # field number -> str, bytes, int, or list of encoded messages


def _varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def encode(fields: dict) -> bytes:
    """Protobuf of {number: str | bytes | int | list of those}."""
    out = b""
    for number, value in fields.items():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, int):
                out += _varint(number << 3) + _varint(item)
            else:
                data = item.encode() if isinstance(item, str) else item
                out += _varint(number << 3 | 2) + _varint(len(data)) + data
    return out


def decode(data: bytes) -> dict:
    """{number: last value} of a message: int or bytes."""
    fields, at = {}, 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                return value

    while at < len(data):
        key = varint()
        if key & 7 == 0:
            fields[key >> 3] = varint()
        else:
            assert key & 7 == 2, key
            length = varint()
            fields[key >> 3] = data[at:at + length]
            at += length
    return fields


class Client:
    def __init__(self, path: str, timeout=60):
        self.timeout = timeout
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(timeout)
        self.socket.connect(path)
        self.stream = 1

    def call(self, service: str, method: str, fields: dict):
        """(code, message, reply): code 0 is success, as in google.rpc.Code."""
        request = encode({1: service, 2: method, 3: encode(fields), 4: int(self.timeout * 1e9)})
        self.socket.sendall(struct.pack(">IIBB", len(request), self.stream, 1, 0) + request)
        self.stream += 2
        length, _, kind, _ = struct.unpack(">IIBB", self._exactly(10))
        assert kind == 2, kind
        response = decode(self._exactly(length))
        status = decode(response.get(1, b""))
        return status.get(1, 0), status.get(2, b"").decode(), decode(response.get(2, b""))

    def _exactly(self, n: int) -> bytes:
        data = b""
        while len(data) < n:
            piece = self.socket.recv(n - len(data))
            if not piece:
                raise EOFError("the shim closed the connection")
            data += piece
        return data

    def close(self):
        self.socket.close()
