"""ICC profiles written by hand (ICC.1:2001-04), and what they mean by formula: the oracle of colours."""

import struct

import numpy as np

SRGB = (2.4, np.array([[0.4360, 0.3851, 0.1431], [0.2225, 0.7169, 0.0606], [0.0139, 0.0971, 0.7141]]))
DISPLAY_P3 = (2.2, np.array([[0.5151, 0.2920, 0.1571], [0.2412, 0.6922, 0.0666], [-0.0011, 0.0419, 0.7841]]))
"""(gamma, RGB to XYZ as seen under D50); 2.4 stands for the curve of sRGB itself."""

WHITE = (0.9642, 1.0, 0.8249)


def fixed(*values):
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def curve(gamma):
    if gamma == 2.4:
        x = np.arange(1024) / 1023
        linear = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
        return b"curv\0\0\0\0" + struct.pack(">I", 1024) + np.rint(65535 * linear).astype(">u2").tobytes()
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))


def profile(space, tags):
    text = b"made by hand"
    tags = tags | {
        b"wtpt": b"XYZ \0\0\0\0" + fixed(*WHITE),
        b"cprt": b"text\0\0\0\0" + text + b"\0",
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(text) + 1) + text + bytes(1 + 4 + 4 + 2 + 1 + 67),
    }
    table, body, at = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += name + struct.pack(">II", at + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4sI4s4s4s", at + len(body), b"none", 0x02100000, b"mntr", space, b"XYZ ")
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + fixed(*WHITE)
    return head + bytes(128 - len(head)) + table + body


def rgb_profile(space):
    gamma, matrix = space
    tags = {
        name: b"XYZ \0\0\0\0" + fixed(*column)
        for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), matrix.T, strict=True)
    }
    return profile(b"RGB ", tags | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve(gamma)))


def grey_profile(gamma):
    return profile(b"GRAY", {b"kTRC": curve(gamma)})


def in_srgb(pixels, space):
    """Values 0…255 of a space in sRGB, those beyond it cut: XYZ = M·v^γ, back through sRGB's own matrix and curve."""
    gamma, matrix = space
    linear = np.linalg.solve(SRGB[1], matrix @ (pixels.reshape(-1, 3).T / 255) ** gamma).clip(0, 1)
    values = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return 255 * values.T.reshape(pixels.shape)


CYAN = (60.0, -30.0, -40.0)
"""What full cyan alone looks like under `cmyk_profile`, in Lab; paper is white, and all else black."""


def cmyk_profile():
    """A printer whose 16 full combinations of inks are known: linear in between (lut8Type, §6.5.9)."""
    corners = np.zeros((2, 2, 2, 2, 3))
    corners[0, 0, 0, 0], corners[1, 0, 0, 0] = (100, 0, 0), CYAN
    lab = np.rint(corners * [2.55, 1, 1] + [0, 128, 128]).astype(np.uint8).tobytes()
    line = bytes(range(256))
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1) + 4 * line + lab + 3 * line
    made = bytearray(profile(b"CMYK", {b"A2B0": table}))
    made[12:16], made[20:24] = b"prtr", b"Lab "
    return bytes(made)


def lab_in_srgb(lab):
    """CIE 1976, and then as `in_srgb`."""
    y = (lab[0] + 16) / 116
    f = np.array([y + lab[1] / 500, y, y - lab[2] / 200])
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * WHITE
    linear = np.linalg.solve(SRGB[1], xyz).clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
