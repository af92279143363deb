"""Compare the results of two checkouts of resnetlab on this machine, bit for bit.

    python benchmarks/compare_checkouts.py BEFORE AFTER --cifar10 DIR --photos DIR

Both checkouts run the same commands: the default study, one epoch of CIFAR-10 in fp32, a fine-tuning on photographs,
and a run of two processes. Then the final weights are compared byte by byte, and so are the errors in the model files,
the numbers of `evaluate`, the answers of `predict` and of a server, and the logit differences of an ONNX export. The
exit status is 1 if anything differs.

    --cifar10 DIR   CIFAR-10 in any layout that `train --data` reads
    --photos DIR    a folder of photographs, one subfolder a class below train/ and val/
    --keep DIR      where to write the runs, and to find those of an earlier call; a temporary folder if not given
"""

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

FIXED = ("--precision", "fp32", "--layout", "channels_last", "--compile", "off")
"""Nothing is left to a measurement, which could select differently."""


def run(checkout: Path, folder: Path, *words: str, torchrun: int = 0) -> str:
    """Run `resnetlab` of a checkout in `folder`; return its standard output."""
    program = ["-m", "resnetlab"]
    if torchrun:
        program = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(torchrun), *program]
    environment = {**os.environ, "PYTHONPATH": str(checkout / "src"), "OMP_NUM_THREADS": "1" if torchrun else "2"}
    done = subprocess.run(
        [sys.executable, *program, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{checkout}: resnetlab {' '.join(words)} failed\n{done.stderr}")
    return done.stdout


def results(checkout: Path, folder: Path, cifar10: Path, photos: Path) -> dict[str, object]:
    """Run everything in `folder`; return a digest or the numbers of each result."""
    if not (folder / "study" / "report.html").exists():
        run(checkout, folder, "study", "--out", "study")
    if not (folder / "cifar" / "model.safetensors").exists():
        words = ("--data", str(cifar10), "--model", "resnet20", "--recipe", "cifar-paper", "--epochs", "1")
        run(checkout, folder, "train", *words, *FIXED, "--out", "cifar")
    if not (folder / "tuned" / "model.safetensors").exists():
        words = ("--from", "cifar", "--data", str(photos), "--image-size", "32", "--epochs", "3")
        run(checkout, folder, "train", *words, *FIXED, "--out", "tuned")
    if not (folder / "two" / "model.safetensors").exists():
        words = ("--data", "digits", "--model", "resnet20", "--epochs", "2", "--sync-bn")
        run(checkout, folder, "train", *words, *FIXED, "--out", "two", torchrun=2)
    models = sorted(folder.glob("**/model.safetensors"))
    found: dict[str, object] = {}
    for path in models:
        name = str(path.parent.relative_to(folder))
        found[f"weights {name}"] = weights_sha256(path)
        found[f"errors {name}"] = card(path)["error"]
    evaluation = json.loads(run(checkout, folder, "evaluate", "cifar", "--data", str(cifar10), "--json"))
    measured = ("top1_error_pct", "top5_error_pct", "loss", "ece_pct", "per_class", "confusion")
    found["evaluate cifar"] = {key: evaluation[key] for key in measured}  # a key that is gone is an error
    images = sorted(str(path) for path in Path(photos).glob("val/*/*"))[:40]
    lines = run(checkout, folder, "predict", "tuned", *images, "--json", "--backend", "torch").splitlines()
    found["predict tuned"] = [json.loads(line)["top"] for line in lines]
    found["served answers tuned"] = served_answers(checkout, folder, images[:8])
    exported = json.loads(run(checkout, folder, "export", "cifar", "--format", "onnx", "--out", "cifar.onnx", "--json"))
    found["export cifar"] = exported["agreement"]
    return found


def served_answers(checkout: Path, folder: Path, images: list[str]) -> list[object]:
    """Serve the fine-tuned network, send each image, and return the classes and probabilities of every answer."""
    command = [sys.executable, "-m", "resnetlab", "serve", "tuned", "--port", "0", "--backend", "torch"]
    environment = {**os.environ, "PYTHONPATH": str(checkout / "src")}
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout
            address = server.stdout.readline().split()[-1]
            answers = []
            for image in images:
                request = urllib.request.Request(
                    f"{address}v1/predict", Path(image).read_bytes(), {"Content-Type": "image/jpeg"}
                )
                with urllib.request.urlopen(request, timeout=60) as response:
                    answers.append(json.load(response)["top"])
            return answers
        finally:
            server.send_signal(signal.SIGINT)


def weights_sha256(path: Path) -> str:
    """Return the SHA-256 of the tensors of a safetensors file, without its metadata."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode() + data[8 + length :]).hexdigest()


def card(path: Path) -> dict:
    """Return the model card of a model file."""
    data = path.read_bytes()
    metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    return json.loads(metadata["resnetlab"])


def main() -> int:
    """Compare and print; return 1 where something differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--cifar10", type=Path, required=True)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        top = (options.keep or Path(temporary)).resolve()
        sides = []
        for name, checkout in (("before", options.before), ("after", options.after)):
            (top / name).mkdir(parents=True, exist_ok=True)
            inputs = (options.cifar10.resolve(), options.photos.resolve())
            sides.append(results(checkout.resolve(), top / name, *inputs))
    before, after = sides
    differences = [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]
    for name in before:
        value = str(before[name])
        shown = value[:16] if name.startswith("weights") else value if len(value) < 60 else f"{len(value)} characters"
        print(f"{'DIFFERS' if name in differences else 'equal  '}  {name}  {shown}")
    print(f"{len(before) - len(differences)} of {len(before)} results are equal bit for bit")
    return int(bool(differences))


if __name__ == "__main__":
    raise SystemExit(main())
