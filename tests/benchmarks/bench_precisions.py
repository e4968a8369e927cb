"""Graphs of 8 bits against those of 32, of each export: time at batch 1 on one core, size, and figures on test.

Needs the curated dataset that the exports are of.
"""

import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import onnxruntime

from Datasets.format.curated import Curated
from Models.exporting.graphs import as_input, graph_answers, write_int8
from Models.learning.data_loading import Samples
from Models.learning.metrics import TASKS
from tests.benchmarks.measuring import ROOT, Figure, exports

ROUNDS, IMAGES = 9, 50


def figures(rounds: int = ROUNDS) -> Iterator[Figure]:
    """For each export of this checkout."""
    data = Curated(ROOT / "Datasets/curated")
    for export in exports():
        manifest = json.loads((export / "manifest.json").read_text())
        task, size = manifest["task"], manifest["input"]["size"]
        train, test = (Samples(data, split, size, task) for split in ("train", "test"))
        with tempfile.TemporaryDirectory() as directory:
            graphs = {"fp32": export / "model.onnx", "int8": Path(directory, "model.int8.onnx")}
            write_int8(graphs["fp32"], train, graphs["int8"])
            taken = milliseconds(graphs, test, rounds)
            found = {}
            for name, graph in graphs.items():
                measured = TASKS[task].measure(test, list(graph_answers(graph, test)), manifest["score_threshold"])
                found[name] = {each: measured.metrics[each] for each in measured.printed}
            bytes_of = {name: graph.stat().st_size for name, graph in graphs.items()}
        times = f"{taken['int8']:.2f} against {taken['fp32']:.2f} ms at {size} pixels"
        sizes = f"{bytes_of['int8'] / 1e6:.2f} against {bytes_of['fp32'] / 1e6:.2f} MB"
        lost = ", ".join(f"{name} {found['int8'][name]:.4f} ({found['fp32'][name]:.4f})" for name in found["fp32"])
        what = f"{export.name}: int8, answers for a second of a core"
        yield Figure(what, "fp32", f"{taken['fp32'] / taken['int8']:.2f}", "1.8", f"{times}; {sizes}; {lost}")


def milliseconds(graphs: dict[str, Path], samples: Samples, rounds: int) -> dict[str, float]:
    """The median over the rounds, in turns, of an answer's processor time."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    sessions = {name: onnxruntime.InferenceSession(graph, options) for name, graph in graphs.items()}
    inputs = [{"images": as_input(samples.letterbox(row))} for row in range(min(IMAGES, len(samples)))]
    found: dict[str, list[float]] = {name: [] for name in graphs}
    for _ in range(rounds):
        for name, session in sessions.items():
            began = time.process_time()
            for each in inputs:
                session.run(None, each)
            found[name].append((time.process_time() - began) / len(inputs) * 1000)
    return {name: median(values) for name, values in found.items()}
