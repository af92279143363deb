"""ICC colour profiles, written from primaries, white point and gamma (ICC.1:2010)."""

import struct

import numpy as np

D50 = (0.9642, 1.0, 0.8249)
D65_XY, D50_XY = (0.3127, 0.3290), (0.3457, 0.3585)
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
PRIMARIES = {
    "sRGB": (((0.64, 0.33), (0.30, 0.60), (0.15, 0.06)), D65_XY),
    "Display P3": (((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)), D65_XY),
    "Adobe RGB (1998)": (((0.64, 0.33), (0.21, 0.71), (0.15, 0.06)), D65_XY),
    "ProPhoto RGB": (((0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001)), D50_XY),
}
"""Chromaticities of red, green, blue, and of white: SMPTE EG 432-1, Adobe RGB (1998) 2005-05, ISO 22028-2 (ROMM)."""
GAMMAS = {"sRGB": "sRGB", "Display P3": "sRGB", "Adobe RGB (1998)": 563 / 256, "ProPhoto RGB": 1.8}


def xyz(chromaticity: tuple[float, float]) -> np.ndarray:
    """Return XYZ with Y = 1 of a chromaticity."""
    x, y = chromaticity
    return np.array([x / y, 1.0, (1 - x - y) / y])


def colorants(name: str) -> np.ndarray:
    """Return the matrix from linear RGB to XYZ, adapted to D50 by Bradford's transform."""
    corners, white = PRIMARIES[name]
    matrix = np.stack([xyz(corner) for corner in corners], axis=1)
    matrix = matrix * np.linalg.solve(matrix, xyz(white))
    cone = (BRADFORD @ np.array(D50)) / (BRADFORD @ xyz(white))
    return np.linalg.inv(BRADFORD) @ np.diag(cone) @ BRADFORD @ matrix


def linear(values: np.ndarray, gamma: float | str) -> np.ndarray:
    """Return linear light from 0 to 1 of encoded values from 0 to 1."""
    if gamma == "sRGB":
        return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return values ** float(gamma)


def encoded(light: np.ndarray, gamma: float | str) -> np.ndarray:
    """Return encoded values from 0 to 1 of linear light from 0 to 1."""
    light = light.clip(0, 1)
    if gamma == "sRGB":
        return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    return light ** (1 / float(gamma))


def convert(pixels: np.ndarray, source: str, target: str) -> np.ndarray:
    """Return uint8 RGB pixels of one space as uint8 RGB of another, so that a viewer shows the same colours."""
    light = linear(pixels / 255, GAMMAS[source]) @ (np.linalg.inv(colorants(target)) @ colorants(source)).T
    return np.rint(encoded(light, GAMMAS[target]) * 255).astype(np.uint8)


def rgb_profile(name: str, *, version: int = 2) -> bytes:
    """Return a display profile with the primaries and the tone curve of a named space; version 2 or 4."""
    matrix = colorants(name)
    curve = _curve(GAMMAS[name], version)
    tags = {b"desc": _text(name, version), b"cprt": _copyright(version), b"wtpt": _xyz(D50)}
    for column, letter in enumerate(b"rgb"):
        tags[bytes([letter]) + b"XYZ"] = _xyz(matrix[:, column])
        tags[bytes([letter]) + b"TRC"] = curve
    return _profile(b"RGB ", tags, version)


def grey_profile(gamma: float, *, version: int = 2) -> bytes:
    """Return a profile for grey with a gamma."""
    tags = {b"desc": _text(f"grey {gamma:g}", version), b"cprt": _copyright(version), b"wtpt": _xyz(D50)}
    return _profile(b"GRAY", tags | {b"kTRC": _curve(gamma, version)}, version)


def cmyk_profile() -> bytes:
    """Return a profile for CMYK, a table of two points an axis: an ink absorbs 90 % of its light, black all of it."""
    points = np.stack(np.meshgrid(*[[0.0, 1.0]] * 4, indexing="ij"), axis=-1).reshape(16, 4)
    light = (1 - 0.9 * points[:, :3]) * (1 - points[:, 3:])
    white_point = np.array(D50)
    space = light @ colorants("sRGB").T / white_point
    root = np.where(space > 216 / 24389, np.cbrt(space), (24389 / 27 * space + 16) / 116)
    lab = np.stack([116 * root[:, 1] - 16, 500 * (root[:, 0] - root[:, 1]), 200 * (root[:, 1] - root[:, 2])], axis=1)
    table = np.rint(np.stack([lab[:, 0] * 652.8, (lab[:, 1] + 128) * 256, (lab[:, 2] + 128) * 256], axis=1))
    identity = struct.pack(">2H", 0, 65_535)
    body = (
        b"mft2" + bytes(4) + bytes([4, 3, 2, 0]) + struct.pack(">9i", *np.rint(np.eye(3).ravel() * 65_536).astype(int))
    )
    body += struct.pack(">HH", 2, 2) + identity * 4 + table.clip(0, 65_535).astype(">u2").tobytes() + identity * 3
    tags = {b"desc": _text("test inks", 2), b"cprt": _copyright(2), b"wtpt": _xyz(D50), b"A2B0": body}
    return _profile(b"CMYK", tags, 2, kind=b"prtr", connection=b"Lab ")


def _profile(
    space: bytes, tags: dict[bytes, bytes], version: int, *, kind: bytes = b"mntr", connection: bytes = b"XYZ "
) -> bytes:
    offset, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for name, data in tags.items():
        table += name + struct.pack(">II", offset + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    size = offset + len(body)
    header = struct.pack(">I4sI4s4s4s", size, bytes(4), version << 24, kind, space, connection)
    header += struct.pack(">6H4s", 2026, 1, 1, 0, 0, 0, b"acsp") + bytes(28) + _fixed(D50)
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def _fixed(values: tuple[float, ...] | np.ndarray) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(float(value) * 65_536) for value in values))


def _xyz(values: tuple[float, ...] | np.ndarray) -> bytes:
    return b"XYZ " + bytes(4) + _fixed(values)


def _curve(gamma: float | str, version: int) -> bytes:
    if gamma == "sRGB" and version == 4:  # parametric, type 3
        return (
            b"para" + bytes(4) + struct.pack(">HH", 3, 0) + _fixed((2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045))
        )
    if gamma == "sRGB":
        samples = np.rint(linear(np.linspace(0, 1, 1024), gamma) * 65_535).astype(">u2")
        return b"curv" + bytes(4) + struct.pack(">I", 1024) + samples.tobytes()
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(float(gamma) * 256)) + bytes(2)


def _text(text: str, version: int) -> bytes:
    if version == 4:
        content = text.encode("utf-16-be")
        return b"mluc" + bytes(4) + struct.pack(">II2s2sII", 1, 12, b"en", b"US", len(content), 28) + content
    return b"desc" + bytes(4) + struct.pack(">I", len(text) + 1) + text.encode() + bytes(1 + 4 + 4 + 2 + 1 + 67)


def _copyright(version: int) -> bytes:
    return _text("public domain", 4) if version == 4 else b"text" + bytes(4) + b"public domain\0"
