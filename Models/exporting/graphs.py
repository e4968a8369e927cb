"""Writes the graphs of an export: of the model, and of that one in int8 and fp16.

Those are held to the task's figures on the test split, not to the outputs' tolerance.
"""

import json
import logging
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from enum import StrEnum
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from Datasets.format.curated import Curated
from Datasets.format.graphs import Device, open_graph
from Datasets.format.images import Letterbox
from Datasets.format.predictions import OUTPUTS
from Datasets.tools.errors import UserError
from Models.learning.box_metrics import Measured
from Models.learning.data_loading import Samples
from Models.learning.metrics import TASKS, answer, write_answers
from Models.learning.weights import write_json
from Models.rebuild import Detect, predict_files

OPSET = 20
CALIBRATION = 64  # images of train that the ranges of activations are taken from
QUANTISED = ["Conv", "Relu", "Clip", "Add", "MaxPool"]
ERRORS = ("MAE", "total_MAE")  # figures of which less is better


class Precision(StrEnum):
    """What a graph computes in."""

    fp32 = "fp32"
    int8 = "int8"
    fp16 = "fp16"

    @property
    def file(self) -> str:
        """The graph's name in an export."""
        return "model.onnx" if self is Precision.fp32 else f"model.{self}.onnx"


def write_onnx(model: nn.Module, manifest: Mapping[str, Any], path: Path) -> None:
    """Write `forward` as an ONNX graph: input "images" uint8 [N, 3, H, W] of any N, H, W; outputs as of `forward`.

    Its metadata has what one needs to use it: task, classes, size, resize rule and threshold. Raises UserError if
    `forward` does what a graph cannot.
    """
    model.cpu()
    size = manifest["input"]["size"]
    example = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)
    sides = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with torch.no_grad():
        names = list(model(example))  # the graph's outputs are in the order of this dict, whatever that is
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                model,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=["images"],
                output_names=names,
                dynamic_shapes=(sides,),
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise UserError(f"forward() cannot become an ONNX graph: {_reason(error)}") from error
    assert program is not None
    graph = program.model_proto
    _strip(graph)
    about = {**manifest["input"], **{name: manifest[name] for name in ("task", "classes", "score_threshold")}}
    onnx.helper.set_model_props(
        graph, {name: each if isinstance(each, str) else json.dumps(each) for name, each in about.items()}
    )
    onnx.checker.check_model(graph, full_check=True)
    path.write_bytes(graph.SerializeToString(deterministic=True))


def _reason(error: Exception) -> str:
    """The first line of torch.export's message, and the last place in code that it names."""
    text = str(error.__cause__ or error)
    places = re.findall(r'^  File "(.+)", line (\d+), in ', text, re.MULTILINE)
    return text.partition("\n")[0] + "".join(f" ({Path(file).name}, line {line})" for file, line in places[-1:])


def _strip(graph: onnx.ModelProto) -> None:
    """Remove the stack trace that the exporter notes for each node: it holds the paths of this machine."""
    parts = [graph, graph.graph, *graph.graph.node, *graph.graph.input, *graph.graph.output]
    for part in [*parts, *graph.graph.value_info, *graph.graph.initializer, *graph.functions]:
        del part.metadata_props[:]
        part.doc_string = ""


def onnx_detector(path: Path, task: str, device: Device = Device.cpu) -> Detect:
    """The graph in onnxruntime."""
    session = open_graph(path, device)

    def detect(images: np.ndarray) -> Mapping[str, np.ndarray]:
        return dict(zip(OUTPUTS[task], session.run(list(OUTPUTS[task]), {"images": images}), strict=True))

    return detect


def write_int8(graph: Path, train: Samples, out: Path) -> None:
    """Quantise a graph: weights to int8 by channel, activations to uint8, with ranges as on some images of train.

    As pairs of quantise and dequantise (QDQ), by onnxruntime (Jacob et al., 2018, arXiv:1712.05877). The heads and what
    decodes them stay in float, as box sides and thin masks depend on small differences.
    """
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    rows = np.linspace(0, len(train), min(CALIBRATION, len(train)), endpoint=False, dtype=int).tolist()

    class Images(quantization.CalibrationDataReader):  # type: ignore[misc]
        inputs = ({"images": as_input(train.letterbox(row))} for row in rows)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.inputs, None)

    with tempfile.TemporaryDirectory() as directory, redirect_stdout(StringIO()):
        prepared = Path(directory, "prepared.onnx")
        quant_pre_process(str(graph), str(prepared), skip_symbolic_shape=True)
        quantization.quantize_static(
            prepared,
            out,
            Images(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=QUANTISED,
            nodes_to_exclude=decoding(onnx.load(prepared).graph),
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
    quantised = onnx.load(out)
    if not any(node.op_type == "DequantizeLinear" for node in quantised.graph.node):
        raise UserError("export: int8 quantises convolutions, of which the graph has none before its heads; serve fp32")
    onnx.helper.set_model_props(quantised, {each.key: each.value for each in onnx.load(graph).metadata_props})
    out.write_bytes(quantised.SerializeToString(deterministic=True))


def write_fp16(graph: Path, out: Path) -> None:
    """Write a graph that computes in float of 16 bits, by onnxruntime; what decodes the heads stays as it is."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    whole = onnx.load(graph)
    half = convert_float_to_float16(whole, keep_io_types=True, node_block_list=decoding(whole.graph))
    out.write_bytes(half.SerializeToString(deterministic=True))


def decoding(graph: onnx.GraphProto) -> list[str]:
    """The names of the last convolutions, which are a network's heads, and of all that follows them."""
    names, wanted = [], set[str]()  # wanted: what a convolution is computed from
    for node in reversed(graph.node):
        if wanted.isdisjoint(node.output):
            names.append(node.name)
            if node.op_type != "Conv":
                continue
        wanted.update(node.input)
    return names


def as_input(square: Letterbox) -> np.ndarray:
    """An image as the graph takes it: uint8 [1, 3, S, S]."""
    return np.ascontiguousarray(square.pixels.transpose(2, 0, 1)[None])


def graph_answers(graph: Path, samples: Samples, device: Device = Device.cpu) -> Iterator[Any]:
    """A Prediction for each image, from a graph, as the service makes it."""
    infer = onnx_detector(graph, samples.task, device)
    for row in range(len(samples)):
        square = samples.letterbox(row)
        outputs = {name: values[0] for name, values in infer(as_input(square)).items()}
        yield answer(samples, row, outputs, square)


def held_to(max_loss: float, graph: Path, metrics: Mapping[str, Any], measured: Measured) -> dict[str, Any]:
    """The metrics of a graph. metrics: the model's.

    Raises UserError if one of the figures that evaluation prints is worse by more than `max_loss`.
    """
    found = {**metrics, **measured.metrics}
    lost = {name: metrics[name] - found[name] for name in measured.printed if name not in ERRORS}
    worst = max(lost, key=lambda name: lost[name])
    if lost[worst] > max_loss:
        groups = {name: group for name, group in measured.metrics.items() if isinstance(group, dict)}
        classes = {
            f"{name} of {each}": metrics[name][each] - group[each] for name, group in groups.items() for each in group
        }
        most = max(classes, key=lambda each: classes[each], default=worst)
        which = f"{most} lost most, {classes[most]:.3f}; " if classes.get(most, 0) > 0 else ""
        raise UserError(
            f"{graph.name}: {worst} is {found[worst]:.3f}, the model's {metrics[worst]:.3f}, {lost[worst]:.2g} less, "
            f"where max_loss is {max_loss:g}; {which}allow more, or take it out of precisions and serve"
        )
    return found


def add_graph(
    export: Path,
    precision: Precision,
    images: Sequence[Path],
    data: Curated,
    manifest: dict[str, Any],
    max_loss: float,
    device: Device,
) -> None:
    """Write an export's graph in int8 or fp16, and its metrics into the manifest.

    images: the export's samples. Where the manifest says that the graph is the one to serve, its metrics are the
    export's, and its answers what a service must give. Raises UserError as `held_to`.
    """
    task, size, script = manifest["task"], manifest["input"]["size"], manifest["script"]["module"].split(".")[1]
    test = Samples(data, "test", size, task)
    graph, whole = export / precision.file, export / Precision.fp32.file
    if precision is Precision.int8:
        write_int8(whole, Samples(data, "train", size, task), graph)
    else:
        write_fp16(whole, graph)
    answers = list(graph_answers(graph, test, device))
    measured = TASKS[task].measure(test, answers, manifest["score_threshold"])
    kept = manifest.setdefault("precisions", {"fp32": manifest["metrics"]})
    kept[precision] = metrics = held_to(max_loss, graph, kept["fp32"], measured)
    print(f"{graph.name}: {', '.join(f'{name} {metrics[name]:.3f}' for name in measured.printed)}")
    if manifest["graph"] == graph.name:
        manifest["metrics"] = metrics
        expected = predict_files(onnx_detector(graph, task, device), images, manifest)
        write_json(expected, export / "sample/expected.json")
        write_answers(test, answers, script, export / "predictions.parquet")
