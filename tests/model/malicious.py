"""Pickles that would write the file MARKER if anything ran them, and archives made to confuse a reader."""

import io
import os
import pickle
import struct
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

MAGIC = 0x1950A86A20F9469CFC6C


class Calls:
    """Pickles to a call of any function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> Any:
        return self.function, self.arguments


def archive(
    path: Path, content: bytes, storages: dict[str, bytes] | None = None, byteorder: bytes = b"little"
) -> None:
    """A file of PyTorch's zip layout around a pickle."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
        file.writestr("archive/data.pkl", content)
        file.writestr("archive/byteorder", byteorder)
        file.writestr("archive/version", b"3\n")
        for key, values in (storages or {}).items():
            file.writestr(f"archive/data/{key}", values)


def stream(path: Path, content: bytes, little_endian: bool = True) -> None:
    """A file of the older layout around a pickle."""
    head = [pickle.dumps(value, 2) for value in (MAGIC, 1001, {"little_endian": little_endian})]
    path.write_bytes(b"".join([*head, content, pickle.dumps([], 2)]))


def text(value: str) -> bytes:
    """Opcode for a short string."""
    return b"\x8c" + bytes([len(value)]) + value.encode()


def stack_global(module: str, name: str) -> bytes:
    """Opcodes of protocol 4 for a name."""
    return b"\x80\x04" + text(module) + text(name) + b"\x93"


def storage(key: str = "0", kind: str = "FloatStorage", length: int = 4) -> bytes:
    """Opcodes (protocol 2) for a tensor storage."""
    parts = b"(" + _unicode("storage") + f"ctorch\n{kind}\n".encode() + _unicode(key) + _unicode("cpu")
    return parts + b"J" + struct.pack("<i", length) + b"tQ"


def _unicode(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def tensor(
    offset: int = 0, shape: tuple[int, ...] = (4,), stride: tuple[int, ...] = (1,), **place: Any
) -> bytes:
    """Opcodes (protocol 2) for a tensor."""
    numbers = b"".join(pickle.dumps(value, 2)[2:-1] for value in (offset, shape, stride))
    rest = b"\x89ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage(**place) + numbers + rest + b"tR"


def pickles(marker: Path) -> dict[str, bytes]:
    """Name to content; each is put in place of a whole checkpoint's pickle."""
    command = f"touch {marker}"
    shell = command.encode()
    maker = b"ctorch._utils\n_rebuild_tensor_v2\n"
    found = {
        "global": b"cos\nsystem\n(S'" + shell + b"'\ntR.",
        "stack_global": stack_global("os", "system") + text(command) + b"\x85R.",
        "inst": b"(S'" + shell + b"'\nios\nsystem\n.",
        "obj": b"(cos\nsystem\nS'" + shell + b"'\no.",
        "newobj": stack_global("subprocess", "Popen") + text(command) + b"\x85\x81.",
        "persid": b"P" + shell + b"\n.",
        "binpersid": b"cos\nsystem\nQ.",
        "persistent_module": b"(" + _unicode("module") + b"cos\nsystem\n" + _unicode("a") * 3 + b"tQ.",
        "persistent_class": storage(kind="load") + b".",
        "storage_path": storage(key="../../etc/passwd") + b".",
        "dotted": stack_global("builtins", "dict.__subclasses__") + b")R.",
        "dotted_known": stack_global("collections", "OrderedDict.fromkeys") + b".",
        "build_on_maker": maker + b"(N}" + _unicode("_function") + b"Nstb.",
        "build_dict_on_maker": maker + b"}" + _unicode("__call__") + b"Nsb.",
        "build_on_type": b"cargparse\nNamespace\n}" + _unicode("__new__") + b"Nsb.",
        "extension": b"\x80\x02\x82\x01.",
        "memo": b"\x80\x02Nr\xff\xff\xff\x7f.",
        "beyond_storage": tensor(shape=(5,)) + b".",
        "negative_stride": tensor(shape=(2,), stride=(-1,)) + b".",
        "huge_shape": tensor(shape=(2**40, 2**40), stride=(2**40, 1)) + b".",
        "negative_offset": tensor(offset=-1) + b".",
        "missing_storage": tensor(key="7") + b".",
        "codec": b"c_codecs\nencode\n(S'a'\nS'idna'\ntR.",
        "empty": b"",
        "cut": b"\x80\x02}q\x00X\x05\x00\x00\x00mod",
        "stack": b"\x80\x02R.",
    }
    for module, name in (
        ("torch", "load"),
        ("torch.storage", "_load_from_bytes"),
        ("torch.hub", "load"),
        ("torch.jit", "load"),
        ("torch.nn.modules.linear", "Linear"),
        ("numpy", "load"),
        ("builtins", "getattr"),
        ("builtins", "exec"),
        ("__builtin__", "eval"),
        ("operator", "attrgetter"),
        ("functools", "partial"),
        ("_codecs", "decode"),
        ("importlib", "import_module"),
        ("webbrowser", "open"),
    ):
        found[f"name-{module}.{name}"] = f"c{module}\n{name}\n(S'{command}'\ntR.".encode()
    nested = {"model": {"a": [1, (2, Calls(os.system, command))]}}
    for protocol in range(2, 6):
        found[f"reduce{protocol}"] = pickle.dumps(nested, protocol)
    found["reduce_popen"] = pickle.dumps({"model": Calls(subprocess.Popen, ["touch", str(marker)])}, 2)
    found["reduce_exec"] = pickle.dumps(Calls(exec, f"open({str(marker)!r}, 'w')"), 4)
    found["second_pickle"] = pickle.dumps(
        {"args": Calls(eval, f"open({str(marker)!r}, 'w')"), "model": {}}, 2
    )
    return found


def archives() -> dict[str, Callable[[Path], None]]:
    """Archives that are refused whatever their pickle says."""
    harmless = pickle.dumps({"model": {}}, 2)

    def zipped(path: Path, entries: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> None:
        with zipfile.ZipFile(path, "w", compression) as file:
            for name, content in entries:
                file.writestr(name, content)

    def cut(path: Path) -> None:
        archive(path, harmless, {"0": b"x" * 64})
        path.write_bytes(path.read_bytes()[:-30])

    def overlapping(path: Path) -> None:
        """Two entries of the directory that point at one place."""
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as file:
            file.writestr("archive/data.pkl", harmless)
            file.writestr("archive/data/0", b"x" * 4000)
            for key in "123456":
                entry = zipfile.ZipInfo(f"archive/data/{key}")
                source = file.getinfo("archive/data/0")
                entry.header_offset, entry.CRC = source.header_offset, source.CRC
                entry.file_size = entry.compress_size = source.file_size
                file.filelist.append(entry)
        path.write_bytes(buffer.getvalue())

    def changed(path: Path, old: bytes, new: bytes) -> None:
        """A directory that says something else."""
        zipped(path, [("ä/data.pkl", harmless)])
        path.write_bytes(path.read_bytes().replace(old, new))

    two = [("archive/data.pkl", harmless), ("archive/data.pkl", b"cos\nsystem\n.")]
    return {
        "same_name_twice": lambda path: zipped(path, two),
        "two_folders": lambda path: zipped(path, [("a/data.pkl", harmless), ("b/data.pkl", harmless)]),
        "no_pickle": lambda path: zipped(path, [("archive/other", harmless)]),
        "compressed": lambda path: zipped(path, [("archive/data.pkl", b"N" * 10**6)], zipfile.ZIP_DEFLATED),
        "name_in_no_utf8": lambda path: changed(path, "ä".encode(), b"\xff\xfe"),
        "several_disks": lambda path: changed(path, b"PK\5\6" + bytes(4), b"PK\5\6" + b"\1\0\1\0"),
        "cut": cut,
        "overlapping": overlapping,
        "text": lambda path: path.write_text("not a checkpoint"),
        "empty": lambda path: path.write_bytes(b""),
        "bare_pickle": lambda path: path.write_bytes(harmless),
    }
