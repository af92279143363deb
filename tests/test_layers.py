"""The house stands: a room imports only from floors below its own, a file only from those under it in its room."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "resnetlab"

# Top floor first; the files of a room from the top down, as docs/design.md draws them.
FLOORS: list[dict[str, list[str]]] = [
    {
        "": ["__main__", "cli"],
        "commands": [
            *(
                "study",
                "diagnose",
                "deepen",
                "report",
                "doctor",
                "train",
                "evaluate",
                "predict",
                "inspect",
                "conversion",
            ),
            *("inspected", "evaluated", "export", "serve", "verify_resume", "plan", "data", "packing", "checked"),
            *("models", "progress", "tables"),
        ],
    },
    {
        "study": [
            *(
                "display",
                "grid",
                "presets",
                "ray_pool",
                "ray_task",
                "pool",
                "worker",
                "report",
                "figures",
                "figure_signals",
            ),
            *("figure_depth", "figure_curves", "ledger", "construction", "table", "verdict", "diagnosis", "contrast"),
            *("rules", "signs", "results", "arms", "spread"),
        ]
    },
    {
        "training": [
            *("loop", "around", "compare", "stages", "setup", "groups", "start", "track", "provenance", "epoch"),
            *("together", "signals", "execution", "directory", "saver", "state", "checkpoint", "interrupt"),
            *("session", "distributed", "listener", "record", "recipes", "schedule"),
        ]
    },
    {
        "deploy": [
            *("server", "connections", "pages", "webpage", "answering", "schemas", "gate", "intake", "crew"),
            *("problems", "worker", "batching", "frames", "metering", "limits"),
            *("quantise", "export", "parity", "album", "explain", "stream", "inputs", "reading"),
            "predictor",
        ]
    },
    {
        "evaluation": [
            *("evaluate", "facts", "page", "figures", "metrics", "examination", "matching", "recalibration"),
            *("protocols", "views", "judgement"),
        ],
    },
    {
        "runtime": [
            *("opening", "remembered", "source", "shelf", "choice", "openvino_engine", "onnx_engine", "torch_engine"),
            *("inside", "graph", "pictures", "artefact", "irfile", "onnxfile", "programfile", "passport", "seal"),
            *("packages", "engine"),
        ],
        "planning": ["work", "measured", "plan", "step", "published", "devices"],
    },
    {
        "models": [
            *("foreign", "oddities", "placement", "convert", "weights", "unknowns", "recognise", "branches", "units"),
            *("strangers", "layouts", "layers", "modelfile", "card", "deepen", "fold", "cost", "zoo", "synced_norm"),
            *("resnet", "recompute", "blocks"),
        ],
        "data": [
            *("loader", "pack", "pack_plan", "shard_writer", "judged", "sources", "remote", "order", "shard_cache"),
            "transfer",
            *("shards", "sizing", "scan", "folder", "ilsvrc", "parquet", "archives", "partition", "normalisation"),
            *("split", "encoded", "augment", "decode", "modes", "libtiff", "plausible", "chance", "catalogue"),
            *("columns", "place"),
        ],
    },
    {
        "": [
            *("claim", "config", "world", "configjson", "cores", "figure_style", "files", "memory", "reproductions"),
            "paper",
        ]
    },
]
PLACE = {
    (f"{room}." if room else "") + file: (floor, room, position)
    for floor, rooms in enumerate(FLOORS)
    for room, files in rooms.items()
    for position, file in enumerate(files)
}


def modules() -> list[str]:
    paths = sorted(PACKAGE.rglob("*.py"))
    return [".".join(p.relative_to(PACKAGE).with_suffix("").parts) for p in paths if p.name != "__init__.py"]


def imports(module: str) -> set[str]:
    """Our own modules that a module imports anywhere, inside functions too."""
    tree = ast.parse((PACKAGE / f"{module.replace('.', '/')}.py").read_text())
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    inside = {name.removeprefix("resnetlab.") for name in found if name.startswith("resnetlab.")}
    return {name for name in inside if name in PLACE}


def breaks(importer: str, imported: str) -> bool:
    """Say whether an import goes up, or across."""
    floor, room, position = PLACE[importer]
    other_floor, other_room, other_position = PLACE[imported]
    if floor != other_floor:
        return floor > other_floor
    if room == other_room:
        return position >= other_position
    return not (room == "" and other_room == "commands")  # cli.py opens the commands of its own floor


def test_every_file_has_its_place():
    assert sorted(modules()) == sorted(PLACE)


@pytest.mark.parametrize("module", modules())
def test_imports_go_down(module):
    assert not [name for name in imports(module) if breaks(module, name)]


def test_the_guard_would_bite():
    assert breaks("models.zoo", "training.loop")
    assert breaks("models.zoo", "data.loader")
    assert breaks("models.blocks", "models.resnet")
    assert not breaks("study.grid", "config")
    assert "models.resnet" in imports("models.zoo")  # seen although it stands inside a function
